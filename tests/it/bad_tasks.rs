//! Tasks that make no sense, and tasks whose surroundings fall apart.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use api_grpc::containers::container::Runtime;
use api_grpc::containers::{Container, CreateContainerRequest, GetContainerRequest};
use api_grpc::{snapshots, tasks};
use api_shim::{runc, types, typeurl};
use e2e::client::Client;
use e2e::world::{IMAGE, Options, check};
use e2e::{Maker, World, image, process, wait};
use rustix::process::Signal;
use serde_json::{Value, json};
use tonic::{Code, Status};

/// The longest identifier.
const LONGEST: usize = 76;

fn options() -> Result<Options> {
    Options::new(Maker::Forky)
}

/// What a world is asked for, without `ctr` between.
struct Api<'a> {
    world: &'a World,
    client: Client,
    /// The record and the root of a container `one`, which others are made from.
    record: Container,
    rootfs: Vec<types::Mount>,
}

impl Api<'_> {
    fn new(world: &World) -> Result<Api<'_>> {
        world.ctr(&format!("containers create {IMAGE} one sleep 1000"))?;
        let client = world.client()?;
        let request = client.request(GetContainerRequest { id: "one".into() });
        let record = client.block_on(client.containers().get(request))?.into_inner().container;
        let request =
            snapshots::MountsRequest { snapshotter: "overlayfs".into(), key: "one".into() };
        let request = client.request(request);
        let rootfs = client.block_on(client.snapshots().mounts(request))?.into_inner().mounts;
        Ok(Api { world, client, record: record.context("no container")?, rootfs })
    }

    /// Makes a container with the spec of `one`, changed.
    fn container(&self, id: &str, change: impl FnOnce(&mut Value)) -> Result<(), Status> {
        let spec = self.record.spec.clone().unwrap_or_default();
        let mut json: Value = serde_json::from_slice(&spec.value).expect("ctr writes JSON");
        json["linux"]["cgroupsPath"] = format!("/{}/{id}", self.world.namespace()).into();
        change(&mut json);
        self.container_with(id, json.to_string().into_bytes(), self.record.runtime.clone())
    }

    fn container_with(
        &self,
        id: &str,
        spec: Vec<u8>,
        runtime: Option<Runtime>,
    ) -> Result<(), Status> {
        let spec = prost_types::Any {
            type_url: self.record.spec.clone().unwrap_or_default().type_url,
            value: spec,
        };
        let container =
            Container { id: id.into(), spec: Some(spec), runtime, ..self.record.clone() };
        let request = CreateContainerRequest { container: Some(container) };
        let request = self.client.request(request);
        self.client.block_on(self.client.containers().create(request)).map(drop)
    }

    fn create(&self, id: &str) -> Result<(), Status> {
        self.create_with(self.create_request(id))
    }

    fn create_request(&self, id: &str) -> tasks::CreateTaskRequest {
        tasks::CreateTaskRequest {
            container_id: id.into(),
            rootfs: self.rootfs.clone(),
            ..Default::default()
        }
    }

    fn create_with(&self, request: tasks::CreateTaskRequest) -> Result<(), Status> {
        let request = self.client.request(request);
        self.client.block_on(self.client.tasks().create(request)).map(drop)
    }

    /// Starts a task, or an exec of it.
    fn start(&self, id: &str, exec: &str) -> Result<(), Status> {
        let request = tasks::StartRequest { container_id: id.into(), exec_id: exec.into() };
        let request = self.client.request(request);
        self.client.block_on(self.client.tasks().start(request)).map(drop)
    }

    fn exec(&self, id: &str, exec: &str, process: &Value) -> Result<(), Status> {
        let spec = prost_types::Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".into(),
            value: process.to_string().into_bytes(),
        };
        let request = tasks::ExecProcessRequest {
            container_id: id.into(),
            exec_id: exec.into(),
            spec: Some(spec),
            ..Default::default()
        };
        let request = self.client.request(request);
        self.client.block_on(self.client.tasks().exec(request)).map(drop)
    }

    fn wait(&self, id: &str, exec: &str) -> Result<u32, Status> {
        let request = tasks::WaitRequest { container_id: id.into(), exec_id: exec.into() };
        let request = self.client.request(request);
        let answer = self.client.block_on(self.client.tasks().wait(request))?;
        Ok(answer.into_inner().exit_status)
    }

    fn kill(&self, id: &str) -> Result<(), Status> {
        let request =
            tasks::KillRequest { container_id: id.into(), signal: 9, ..Default::default() };
        let request = self.client.request(request);
        self.client.block_on(self.client.tasks().kill(request)).map(drop)
    }

    fn delete(&self, id: &str) -> Result<u32, Status> {
        let request = self.client.request(tasks::DeleteTaskRequest { container_id: id.into() });
        let answer = self.client.block_on(self.client.tasks().delete(request))?;
        Ok(answer.into_inner().exit_status)
    }

    fn delete_exec(&self, id: &str, exec: &str) -> Result<(), Status> {
        let request = tasks::DeleteProcessRequest { container_id: id.into(), exec_id: exec.into() };
        let request = self.client.request(request);
        self.client.block_on(self.client.tasks().delete_process(request)).map(drop)
    }

    /// The folder of a task in the state of the daemon.
    fn bundle(&self, id: &str) -> PathBuf {
        let tasks = self.world.state().join("io.containerd.runtime.v2.task");
        tasks.join(self.world.namespace()).join(id)
    }
}

/// Makes a task of each spec and option; all are refused, in words that help.
#[test]
fn specs_and_options_that_are_none() {
    check(options(), |world| {
        let api = Api::new(world)?;
        let mut number = 0;
        let mut next = || {
            number += 1;
            format!("c{number}")
        };
        for spec in ["{", "[]", "null", "{\"ociVersion\":1}", "\u{0}"] {
            let id = next();
            api.container_with(&id, spec.into(), api.record.runtime.clone())?;
            let error = api.create(&id).expect_err("a task without a spec");
            ensure!(!error.message().is_empty(), "{spec}: {error:?}");
        }
        type Change = fn(&mut Value);
        let changes: [(Change, &str); 6] = [
            (|spec| spec["process"]["args"] = json!([]), "args"),
            (|spec| spec["process"]["cwd"] = json!("relative"), "absolute"),
            (|spec| spec["linux"]["namespaces"] = json!([{"type": "nothing"}]), "namespace"),
            (|spec| spec["root"]["path"] = json!("../../../../../escaped"), "rootfs"),
            (|spec| spec["process"]["user"]["uid"] = json!(-1), "uid"),
            (|spec| spec["mounts"] = json!([{"destination": "/x", "type": "nosuchfs"}]), "mount"),
        ];
        for (change, text) in changes {
            let id = next();
            api.container(&id, change)?;
            let error = api.create(&id).expect_err(text);
            let shown = error.message().to_lowercase();
            ensure!(shown.contains("oci runtime create failed") || shown.contains(text), "{shown}");
        }
        // Types that no runtime of ours has, and bytes that are not what they say.
        let damaged = typeurl::encode(&runc::Options::default()).type_url;
        for (name, value) in [("kata.v1.Options".to_owned(), vec![1, 2]), (damaged, vec![0xff; 9])]
        {
            let id = next();
            let options = prost_types::Any { type_url: name.clone(), value };
            let runtime = Runtime {
                options: Some(options.clone()),
                ..api.record.runtime.clone().unwrap_or_default()
            };
            let spec = api.record.spec.clone().unwrap_or_default().value;
            api.container_with(&id, spec, Some(runtime))?;
            let error = api.create(&id).expect_err("a task with options of another runtime");
            ensure!(!world.is_ours() || error.code() == Code::InvalidArgument, "{name}: {error:?}");
            let id = next();
            api.container(&id, |_| {})?;
            let request =
                tasks::CreateTaskRequest { options: Some(options), ..api.create_request(&id) };
            let error =
                api.create_with(request).expect_err("a task with options of another runtime");
            ensure!(!world.is_ours() || error.code() == Code::InvalidArgument, "{name}: {error:?}");
        }
        // A root that leads out of its folder.
        let id = next();
        api.container(&id, |_| {})?;
        let outside = world.path("files/outside");
        fs::create_dir(&outside)?;
        let mut request = api.create_request(&id);
        for mount in &mut request.rootfs {
            mount.target = "../../../../../../files/outside".into();
        }
        if world.is_ours() {
            let error = api.create_with(request).expect_err("mounted outside");
            ensure!(!error.message().is_empty(), "{error:?}");
        }
        ensure!(fs::read_dir(&outside)?.count() == 0);
        ensure!(world.tasks()?.is_empty(), "{:?}", world.tasks()?);
        // All is well with a good one.
        ensure!(world.ctr(&format!("run --rm {IMAGE} good echo well"))? == "well\n");
        for id in world.ctr("containers ls -q")?.lines() {
            world.ctr(&format!("containers rm {id}"))?;
        }
        Ok(())
    });
}

/// Names of the greatest length go through every file and socket that is named by them.
#[test]
fn ids_at_their_limit() {
    check(options(), |world| {
        let id = "i".repeat(LONGEST);
        let exec = "e".repeat(LONGEST);
        world.ctr(&format!("run -d {IMAGE} {id} sleep 1000"))?;
        let shown = world.ctr(&format!("tasks exec --exec-id {exec} {id} echo inside"))?;
        ensure!(shown == "inside\n", "{shown}");
        world.kill_daemon()?;
        world.start()?;
        let shown = world.ctr(&format!("tasks exec --exec-id {exec} {id} echo again"))?;
        ensure!(shown == "again\n", "{shown}");
        let long = format!("{id}i");
        let error = world.ctr_fails(&format!("run -d {IMAGE} {long} sleep 1000"))?;
        ensure!(error.contains("greater than maximum length"), "{error}");
        let api_client = world.client()?;
        let api =
            Api { world, client: api_client, record: Container::default(), rootfs: Vec::new() };
        let process = json!({"args": ["true"], "cwd": "/", "env": ["PATH=/bin"]});
        for bad in [format!("{exec}e"), String::new(), "../x".into(), "..".into(), "a b".into()] {
            let error = api.exec(&id, &bad, &process).expect_err("an exec without a name");
            ensure!(error.code() == Code::InvalidArgument, "{bad:?}: {error:?}");
        }
        for bad in [long.as_str(), "..", "../../x", ""] {
            let error = api.create(bad).expect_err("a task without a name");
            ensure!(matches!(error.code(), Code::NotFound | Code::InvalidArgument), "{error:?}");
            let error = api.start(bad, "").expect_err("a task without a name");
            ensure!(matches!(error.code(), Code::NotFound | Code::InvalidArgument), "{error:?}");
        }
        world.remove(&id)?;
        // What clients leave of an exec that was refused.
        world.forgive_fifos()
    });
}

/// Ten megabytes in pieces that each could be a variable.
fn large_environment() -> Vec<String> {
    (0..160).map(|number| format!("V{number}={}", "x".repeat(64 << 10))).collect()
}

/// More than the kernel takes, and than a message to a shim may have.
#[test]
fn an_environment_that_is_far_too_large() {
    check(options(), |world| {
        let api = Api::new(world)?;
        api.container("large", |spec| spec["process"]["env"] = json!(large_environment()))?;
        let outcome = api.create("large").and_then(|()| api.start("large", ""));
        match outcome {
            // The kernel says it, by way of the runtime.
            Err(error) => ensure!(!error.message().is_empty(), "{error:?}"),
            Ok(()) => ensure!(api.wait("large", "")? != 0),
        }
        let _ = api.delete("large");
        ensure!(world.tasks()?.is_empty(), "{:?}", world.tasks()?);

        api.create("one")?;
        api.start("one", "")?;
        let process = json!({"args": ["true"], "cwd": "/", "env": large_environment()});
        let error = api.exec("one", "x", &process).expect_err("longer than a message");
        ensure!(error.code() == Code::ResourceExhausted, "{error:?}");
        // One that is a message, and too much for the kernel.
        let process = json!({"args": ["true"], "cwd": "/", "env": large_environment()[..48]});
        api.exec("one", "y", &process)?;
        match api.start("one", "y") {
            Err(error) => ensure!(!error.message().is_empty(), "{error:?}"),
            Ok(()) => ensure!(api.wait("one", "y")? != 0),
        }
        api.delete_exec("one", "y")?;
        ensure!(world.ctr("tasks exec --exec-id z one echo well")? == "well\n");
        api.kill("one")?;
        ensure!(api.wait("one", "")? == 137);
        ensure!(api.delete("one")? == 137);
        world.ctr("containers rm one large")?;
        Ok(())
    });
}

/// Somebody tidies up in the daemon's state. The task runs on and can be ended, by this daemon and
/// by the next one.
#[test]
fn a_bundle_that_is_removed_under_a_running_task() {
    check(options(), |world| {
        for restarted in [false, true] {
            if restarted && !world.is_ours() {
                continue;
            }
            world.ctr(&format!("run -d --null-io {IMAGE} one sleep 1000"))?;
            let api = Api {
                world,
                client: world.client()?,
                record: Container::default(),
                rootfs: Vec::new(),
            };
            let bundle = api.bundle("one").display().to_string();
            world.run("umount", &["--lazy", &format!("{bundle}/rootfs")])?;
            fs::remove_dir_all(&bundle)?;
            if !restarted {
                ensure!(world.task("one")?.status == "RUNNING");
                let process = json!({"args": ["true"], "cwd": "/", "env": ["PATH=/bin"]});
                api.exec("one", "x", &process)?;
                let error = api.start("one", "x").expect_err("an exec without a folder");
                ensure!(error.message().contains("no such file or directory"), "{error:?}");
                api.delete_exec("one", "x")?;
                world.ctr("tasks pause one")?;
                world.ctr("tasks resume one")?;
                api.kill("one")?;
                ensure!(api.wait("one", "")? == 137);
                ensure!(api.delete("one")? == 137);
            } else {
                // Nobody can know of it any more, and nobody kills on doubt.
                let held = world.contained();
                world.kill_daemon()?;
                world.start()?;
                ensure!(world.tasks()?.is_empty(), "{:?}", world.tasks()?);
                let error = world.ctr_fails("tasks start -d --null-io one")?;
                ensure!(error.contains("already exists"), "{error}");
                ensure!(!held.is_empty() && world.contained() == held, "{held:?}");
                for pid in world.shims() {
                    process::signal(pid, Signal::KILL)?;
                }
                let root = format!("/run/containerd/runc/{}", world.namespace());
                world.run("runc", &["--root", &root, "delete", "--force", "one"])?;
                // Whoever removed the bundle removed what says where the socket is.
                world.forgive_sockets()?;
            }
            world.ctr("containers rm one")?;
            wait::until("the shim to leave", || {
                ensure!(world.shims().is_empty(), "{:?}", world.shims());
                Ok(())
            })?;
        }
        Ok(())
    });
}

/// The client's fifos are removed while its task runs: that costs its output, and nothing else.
#[test]
fn fifos_that_vanish() {
    check(options(), |world| {
        let api = Api::new(world)?;
        let (stdin, stdout) = (world.fifo("stdin")?, world.fifo("stdout")?);
        let request = tasks::CreateTaskRequest {
            stdin: stdin.clone(),
            stdout: stdout.clone(),
            ..api.create_request("one")
        };
        // A client that opens its ends, as all do: containerd's own shim waits for them.
        let input = fs::File::options().read(true).write(true).open(&stdin)?;
        let output = fs::File::options().read(true).write(true).open(&stdout)?;
        api.create_with(request)?;
        api.start("one", "")?;
        drop((input, output));
        fs::remove_file(&stdin)?;
        fs::remove_file(&stdout)?;
        world.kill_daemon()?;
        world.start()?;
        let api = Api { client: world.client()?, ..api };
        world.until_task("one", "RUNNING")?;
        ensure!(world.ctr("tasks exec --exec-id e one echo well")? == "well\n");
        // An exec that shall have what is not there is refused.
        let process = json!({"args": ["true"], "cwd": "/", "env": ["PATH=/bin"]});
        let spec = prost_types::Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".into(),
            value: process.to_string().into_bytes(),
        };
        if world.is_ours() {
            let request = tasks::ExecProcessRequest {
                container_id: "one".into(),
                exec_id: "x".into(),
                stdin: stdin.clone(),
                spec: Some(spec),
                ..Default::default()
            };
            let request = api.client.request(request);
            api.client.block_on(api.client.tasks().exec(request))?;
            let error = api.start("one", "x").expect_err("an exec without its fifo");
            ensure!(error.message().contains("no such file or directory"), "{error:?}");
            api.delete_exec("one", "x")?;
        }
        api.kill("one")?;
        ensure!(api.wait("one", "")? == 137);
        ensure!(api.delete("one")? == 137);
        world.ctr("containers rm one")?;
        Ok(())
    });
}

/// The daemon's state is on a small file system that is full: new tasks are refused, those there are
/// live on, and can be ended and deleted.
#[test]
fn a_full_file_system_of_bundles() {
    let outcome: Result<()> = (|| {
        let world = World::without_daemon(options()?)?;
        fs::create_dir_all(world.state())?;
        let state = world.state().display().to_string();
        world.run("mount", &["-t", "tmpfs", "-o", "size=2m,mode=711", "tmpfs", &state])?;
        world.start()?;
        world.import(&image::small()?)?;
        for id in ["one", "two"] {
            world.ctr(&format!("run -d --null-io {IMAGE} {id} sleep 1000"))?;
        }
        let filler = world.inside(&world.state()).join("filler");
        let mut file = fs::File::create(&filler)?;
        while file.write_all(&[1; 512]).is_ok() {}
        drop(file);
        let error = world.ctr_fails(&format!("run -d --null-io {IMAGE} three sleep 1000"))?;
        ensure!(error.contains("no space left on device"), "{error}");
        let error = world.ctr_fails("tasks exec --exec-id e one true")?;
        ensure!(error.contains("no space left on device"), "{error}");
        let known = |ids: &[&str]| -> Result<()> {
            let tasks = world.tasks()?;
            let run = tasks.values().all(|task| task.status == "RUNNING");
            ensure!(run && tasks.keys().eq(ids), "{tasks:?}");
            Ok(())
        };
        known(&["one", "two"])?;
        world.ctr("tasks kill -s KILL one")?;
        wait::until("the task to be deleted", || world.ctr("tasks rm one"))?;
        if world.is_ours() {
            // It is as full as before for the next daemon.
            let mut file = fs::File::options().append(true).open(&filler)?;
            while file.write_all(&[1; 512]).is_ok() {}
            drop(file);
            world.kill_daemon()?;
            world.start()?;
            wait::until("the task to be known", || known(&["two"]))?;
        }
        world.ctr("tasks kill -s KILL two")?;
        wait::until("the task to be deleted", || world.ctr("tasks rm two"))?;
        fs::remove_file(&filler)?;
        ensure!(world.ctr(&format!("run --rm {IMAGE} four echo well"))? == "well\n");
        for id in world.ctr("containers ls -q")?.lines() {
            world.ctr(&format!("containers rm {id}"))?;
        }
        world.forgive_fifos()?;
        world.assert_clean_but(|left| left == format!("mount {state}"))?;
        world.stop_daemon()?;
        world.run("umount", &[&state])?;
        Ok(())
    })();
    if let Err(error) = outcome {
        panic!("{error:?}");
    }
}
