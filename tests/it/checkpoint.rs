//! Checkpoints and what is restored from them, with CRIU.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use api_grpc::containers::{Container, CreateContainerRequest};
use api_grpc::content::ReadContentRequest;
use api_grpc::snapshots::PrepareSnapshotRequest;
use api_grpc::tasks::{CheckpointTaskRequest, CreateTaskRequest, StartRequest};
use api_shim::{linux_runc, runc, types, typeurl};
use e2e::world::{IMAGE, Options, check};
use e2e::{Maker, Table, World, process, programs, wait};
use prost::Message as _;
use tonic::metadata::MetadataValue;

use crate::skip;

/// A container that counts in a file, which tells whether it was begun anew.
const COUNTER: &str = "sh -c 'echo begun >> /log; i=0; while :; do i=$((i+1)); echo $i > /count.new; mv /count.new /count; sleep 0.02; done'";

/// Puts CRIU before the daemon's other programs; a reason if it cannot be used.
pub(crate) fn criu(world: &World) -> Result<Option<String>> {
    let Some(criu) = programs::criu()? else {
        return Ok(Some("no criu of Debian forky was fetched".to_owned()));
    };
    let answer = Command::new(&criu).arg("check").output().context("criu check")?;
    if !answer.status.success() {
        let text = String::from_utf8_lossy(&answer.stderr).into_owned();
        return Ok(Some(format!("criu does not work on this kernel: {text}")));
    }
    symlink(criu, world.path("bin/criu"))?;
    Ok(None)
}

/// Runs `body` with each `ctr`, in a world whose daemon finds CRIU.
fn with_criu(ctr: Maker, body: impl FnOnce(&World) -> Result<()>) {
    check(Options::new(ctr), |world| {
        if let Some(reason) = criu(world)? {
            skip!("{reason}");
        }
        body(world)
    });
}

/// The number that the counter of `id` has come to.
fn count(world: &World, id: &str) -> Result<u64> {
    let text = read(world, id, "/count")?;
    text.trim().parse().with_context(|| format!("{text:?} is no number"))
}

/// A file of a container, seen from outside: an exec would be one process more.
fn read(world: &World, id: &str, path: &str) -> Result<String> {
    let pid = world.task(id)?.pid;
    Ok(std::fs::read_to_string(format!("/proc/{pid}/root{path}"))?)
}

/// Starts the counter and waits until it is well on its way; gives its number.
fn start_counter(world: &World) -> Result<u64> {
    world.ctr(&format!("run -d --null-io {IMAGE} one {COUNTER}"))?;
    wait::until("the counter to count", || {
        let count = count(world, "one")?;
        ensure!(count >= 20, "{count}");
        Ok(count)
    })
}

/// Waits until the counter `id` goes on, and fails if it was begun anew.
fn goes_on(world: &World, id: &str, from: u64) -> Result<()> {
    let now = wait::until("the counter to go on", || {
        let now = count(world, id)?;
        ensure!(now > from, "{now}, from {from}");
        Ok(now)
    })?;
    let log = read(world, id, "/log")?;
    ensure!(log == "begun\n", "{log:?} at {now}");
    Ok(())
}

fn remove(world: &World, id: &str) -> Result<()> {
    world.try_ctr(&format!("tasks kill -s KILL {id}"))?;
    wait::until("the task to be removed", || world.ctr(&format!("tasks rm {id}")))?;
    world.ctr(&format!("containers rm {id}"))?;
    Ok(())
}

/// The media types in the index that an image names.
fn parts(world: &World, image: &str) -> Result<Vec<String>> {
    let table = Table::parse(&world.ctr("images ls")?)?;
    let digest = table.cell(image, "DIGEST")?;
    let index: serde_json::Value =
        serde_json::from_str(&world.ctr(&format!("content get {digest}"))?)?;
    let manifests = index["manifests"].as_array().context("no manifests")?;
    Ok(manifests.iter().map(|blob| blob["mediaType"].as_str().unwrap_or("").to_owned()).collect())
}

/// `ctr containers checkpoint`, removal, `ctr containers restore --live`.
fn container_round_trip(world: &World) -> Result<()> {
    let before = start_counter(world)?;
    world.ctr("containers checkpoint --rw --image --task one saved")?;
    let parts = parts(world, "saved")?;
    for wanted in [
        "criu.checkpoint.criu.tar",
        "checkpoint.config.v1+proto",
        "checkpoint.options.v1+proto",
        "image.layer.v1.tar+gzip",
    ] {
        ensure!(parts.iter().any(|part| part.ends_with(wanted)), "{wanted} is not in {parts:?}");
    }
    // It goes on where it was.
    goes_on(world, "one", before)?;
    remove(world, "one")?;
    world.ctr("containers restore --rw --live two saved")?;
    goes_on(world, "two", before)?;
    let table = Table::parse(&world.ctr("tasks ls")?)?;
    ensure!(table.cell("two", "STATUS")? == "RUNNING", "{table:?}");
    let inside = world.ctr("tasks exec --exec-id e two cat /log")?;
    ensure!(inside == "begun\n", "{inside}");
    remove(world, "two")?;
    // Twice, from the same checkpoint.
    world.ctr("containers restore --rw --live one saved")?;
    goes_on(world, "one", before)?;
    remove(world, "one")?;
    world.ctr("images rm saved")?;
    Ok(())
}

/// `ctr containers checkpoint` without the task, and errors.
fn container_without_task(world: &World) -> Result<()> {
    world.ctr(&format!("run -d --null-io {IMAGE} one sh -c 'echo mine > /mine; sleep 1000'"))?;
    wait::until("the file", || read(world, "one", "/mine"))?;
    world.ctr("containers checkpoint --rw one saved")?;
    let error = world.ctr_fails("containers checkpoint one saved")?;
    ensure!(error.contains("already exists"), "{error}");
    // Without the spec, which comes with the task, nothing can be made of it.
    let error = world.ctr_fails("containers restore two saved")?;
    ensure!(error.contains("media type not found"), "{error}");
    // Another id: the snapshot of the first goes when the collector comes.
    let error = world.ctr_fails("containers restore --live three saved")?;
    ensure!(error.contains("not found"), "{error}");
    let error = world.ctr_fails("containers checkpoint one")?;
    ensure!(error.contains("ref must be provided"), "{error}");
    let error = world.ctr_fails("containers checkpoint nothing saved2")?;
    ensure!(error.contains("not found"), "{error}");
    let table = Table::parse(&world.ctr("containers ls")?)?;
    ensure!(table.row("two").is_none() && table.row("three").is_none());
    remove(world, "one")
}

/// `ctr tasks checkpoint`: into an image, into a folder, with the end of the task.
fn task_checkpoint(world: &World) -> Result<()> {
    let before = start_counter(world)?;
    let name = world.ctr("tasks checkpoint one")?;
    let name = name.trim();
    ensure!(name.starts_with("containerd.io/checkpoint/one:"), "{name}");
    let labels = world.ctr("images ls")?;
    ensure!(labels.contains("containerd.io/checkpoint=true"), "{labels}");
    ensure!(parts(world, name)?.len() == 4, "{:?}", parts(world, name)?);
    goes_on(world, "one", before)?;

    let folder = world.path("files/criu");
    std::fs::create_dir(&folder)?;
    let work = world.path("files/work");
    let line = format!("--image-path {} --work-path {}", folder.display(), work.display());
    let told = world.ctr(&format!("tasks checkpoint --exit {line} one"))?;
    ensure!(told.is_empty(), "{told}");
    ensure!(folder.join("inventory.img").is_file(), "{:?}", std::fs::read_dir(&folder)?.count());
    ensure!(work.join("dump.log").is_file());
    world.until_task("one", "STOPPED")?;
    world.try_ctr("tasks rm one")?;
    world.ctr("containers rm one")?;
    let error = world.ctr_fails("tasks checkpoint one")?;
    ensure!(error.contains("not found"), "{error}");
    world.ctr(&format!("images rm {name}"))?;
    Ok(())
}

crate::with_ctrs! {
    [ctr_1_6 = Bookworm, ctr_2_1 = Forky, our_ctr = Ours] with_criu;

    fn a_container_comes_back(world) {
        container_round_trip(world)
    }

    fn a_container_without_its_task(world) {
        container_without_task(world)
    }

    fn a_task_is_written(world) {
        task_checkpoint(world)
    }
}

/// The task of a container from `checkpoint`, through the API alone, as dockerd does.
fn restore(world: &World, id: &str, checkpoint: types::Descriptor) -> Result<u32> {
    let client = world.client()?;
    let record =
        client.block_on(client.containers().get(
            client.request(api_grpc::containers::GetContainerRequest { id: "one".to_owned() }),
        ))?;
    let record = record.into_inner().container.context("no container")?;
    let snapshot = PrepareSnapshotRequest {
        snapshotter: record.snapshotter.clone(),
        key: id.to_owned(),
        parent: parent(world, &record.snapshot_key)?,
        // Until there is a container.
        labels: [("containerd.io/gc.root".to_owned(), "test".to_owned())].into(),
    };
    let mounts = client.block_on(client.snapshots().prepare(client.request(snapshot)))?;
    let container = Container { id: id.to_owned(), snapshot_key: id.to_owned(), ..record };
    let request = CreateContainerRequest { container: Some(container) };
    client.block_on(client.containers().create(client.request(request)))?;
    let create = CreateTaskRequest {
        container_id: id.to_owned(),
        rootfs: mounts.into_inner().mounts,
        checkpoint: Some(checkpoint),
        ..Default::default()
    };
    let created = client.block_on(client.tasks().create(client.request(create)))?;
    ensure!(created.into_inner().pid == 0, "a task that is to be restored has no process yet");
    let start = StartRequest { container_id: id.to_owned(), ..Default::default() };
    let started = client.block_on(client.tasks().start(client.request(start)))?;
    Ok(started.into_inner().pid)
}

fn parent(world: &World, key: &str) -> Result<String> {
    let table = Table::parse(&world.ctr("snapshots ls")?)?;
    Ok(table.cell(key, "PARENT")?.to_owned())
}

/// The descriptors, the blobs behind them, options of both packages, and what is left afterwards.
#[test]
fn through_the_api() {
    with_criu(Maker::Forky, |world| {
        // Nothing but memory: the new root file system has none of its files.
        world.ctr(&format!("run -d --null-io {IMAGE} one sleep 1000"))?;
        let client = world.client()?;
        // Nothing but the lease needs what a checkpoint makes.
        world.ctr("leases create --id held")?;
        let checkpoint = |options| {
            let mut request = client.request(CheckpointTaskRequest {
                container_id: "one".to_owned(),
                options,
                ..Default::default()
            });
            request.metadata_mut().insert("containerd-lease", MetadataValue::from_static("held"));
            client.block_on(client.tasks().checkpoint(request))
        };
        // As clients of 1.0 ask, and those of today.
        let old = typeurl::encode(&linux_runc::CheckpointOptions::default());
        let told = checkpoint(Some(old))?.into_inner().descriptors;
        ensure!(told.len() == 2, "{told:?}");
        let options = runc::CheckpointOptions {
            open_tcp: true,
            external_unix_sockets: true,
            file_locks: true,
            ..Default::default()
        };
        let told = checkpoint(Some(typeurl::encode(&options)))?.into_inner().descriptors;
        let types: Vec<&str> = told.iter().map(|blob| blob.media_type.as_str()).collect();
        ensure!(
            types
                == [
                    "application/vnd.containerd.container.criu.checkpoint.criu.tar",
                    "application/vnd.containerd.container.checkpoint.config.v1+proto"
                ],
            "{types:?}"
        );
        let blob = |descriptor: &types::Descriptor| -> Result<Vec<u8>> {
            let request =
                ReadContentRequest { digest: descriptor.digest.clone(), ..Default::default() };
            client.block_on(async {
                let mut parts = client.content().read(client.request(request)).await?.into_inner();
                let mut bytes = Vec::new();
                while let Some(part) = parts.message().await? {
                    bytes.extend_from_slice(&part.data);
                }
                ensure!(bytes.len() as u64 == u64::try_from(descriptor.size)?, "size");
                Ok(bytes)
            })
        };
        let spec = api_shim::Any::decode(&*blob(&told[1])?)?;
        ensure!(spec.type_url == typeurl::SPEC, "{}", spec.type_url);
        let tar = blob(&told[0])?;
        let mut archive = tar::Archive::new(&*tar);
        let mut names = Vec::new();
        for entry in archive.entries()? {
            names.push(entry?.path()?.display().to_string());
        }
        ensure!(names.iter().any(|name| name == "inventory.img"), "{names:?}");

        let pid = restore(world, "two", told[0].clone())?;
        ensure!(pid > 0 && e2e::process::runs(i32::try_from(pid)?), "{pid}");
        let table = Table::parse(&world.ctr("tasks ls")?)?;
        ensure!(table.cell("two", "PID")? == pid.to_string(), "{table:?}");
        // What it was restored from is not needed any more.
        if world.is_ours() {
            let work = world.root().join("io.containerd.runtime.v2.task").join(world.namespace());
            wait::until("the checkpoint's files to go", || {
                ensure!(!work.join("two/restore").exists());
                ensure!(std::fs::read_dir(work.join("one"))?.count() == 0);
                Ok(())
            })?;
        }
        remove(world, "two")?;
        remove(world, "one")?;

        // What cannot be restored leaves nothing.
        world.ctr(&format!("containers create {IMAGE} three true"))?;
        let create = |checkpoint: types::Descriptor| {
            let request = CreateTaskRequest {
                container_id: "three".to_owned(),
                checkpoint: Some(checkpoint),
                ..Default::default()
            };
            client.block_on(client.tasks().create(client.request(request)))
        };
        let error = create(told[1].clone()).err().context("a spec is no checkpoint")?;
        ensure!(error.message().contains("unsupported checkpoint type"), "{error}");
        let mut missing = told[0].clone();
        missing.digest = format!("sha256:{}", "0".repeat(64));
        let error = create(missing).err().context("no such content")?;
        ensure!(error.code() == tonic::Code::NotFound, "{error}");
        let mut broken = told[0].clone();
        broken.digest.clone_from(&told[1].digest);
        ensure!(create(broken).is_err(), "a spec is no archive");
        world.ctr("containers rm three")?;
        Ok(())
    });
}

/// A checkpoint that fails: the task lives on, and the error says where CRIU's log is.
#[test]
fn a_failed_checkpoint() {
    check(Options::new(Maker::Forky), |world| {
        // A CRIU that never works.
        let script = world.path("bin/criu");
        std::fs::write(&script, "#!/bin/sh\nexit 1\n")?;
        std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        world.ctr(&format!("run -d --null-io {IMAGE} one sleep 1000"))?;
        let error = world.ctr_fails("tasks checkpoint one")?;
        ensure!(error.contains("criu"), "{error}");
        let table = Table::parse(&world.ctr("tasks ls")?)?;
        ensure!(table.cell("one", "STATUS")? == "RUNNING", "{table:?}");
        ensure!(world.ctr("images ls -q")?.trim() == IMAGE);
        remove(world, "one")
    });
}

/// The process that holds `pid` as a debugger does; found as soon as there is one.
fn tracer(pid: &str) -> Result<i32> {
    let begun = Instant::now();
    loop {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
        match tracer.context("no TracerPid")?.trim().parse()? {
            0 => ensure!(begun.elapsed() < wait::PATIENCE, "nobody holds {pid}"),
            tracer => return Ok(tracer),
        }
    }
}

/// A CRIU that hangs with the container in its hands is killed; the task goes on as if it had never
/// come, and can be checkpointed.
#[test]
fn a_checkpoint_that_hangs() {
    let options = Options::new(Maker::Forky).map(|mut options| {
        options.environment.push(("IRONHULL_CHECKPOINT_LIMIT".to_owned(), "5".to_owned()));
        options
    });
    check(options, |world| {
        if !world.is_ours() {
            skip!("containerd waits as long as its client does");
        }
        if let Some(reason) = criu(world)? {
            skip!("{reason}");
        }
        start_counter(world)?;
        let before = world.ctr("tasks ls")?;
        let table = Table::parse(&before)?;
        let pid = table.cell("one", "PID")?;
        let checkpoint = world.start_ctr("tasks checkpoint one")?;
        let criu = tracer(pid)?;
        process::signal(criu, rustix::process::Signal::STOP)?;
        let error = checkpoint.wait()?.failed()?;
        ensure!(error.contains("checkpoint: no end within 5 s path= "), "{error}");
        ensure!(!process::runs(criu), "CRIU is left");
        ensure!(world.ctr("tasks ls")? == before, "{}", world.ctr("tasks ls")?);
        let now = count(world, "one")?;
        goes_on(world, "one", now)?;
        ensure!(world.ctr("images ls -q")?.trim() == IMAGE);
        let work = world.root().join("io.containerd.runtime.v2.task").join(world.namespace());
        wait::until("the checkpoint's files to go", || {
            ensure!(std::fs::read_dir(work.join("one"))?.count() == 0);
            Ok(())
        })?;
        // The next one is well, and so is what is restored from it.
        let now = count(world, "one")?;
        world.ctr("containers checkpoint --rw --image --task one saved")?;
        goes_on(world, "one", now)?;
        remove(world, "one")?;
        world.ctr("containers restore --rw --live two saved")?;
        goes_on(world, "two", now)?;
        remove(world, "two")?;
        world.ctr("images rm saved")?;
        Ok(())
    });
}

/// A daemon that is killed between create and start: the next one starts from the checkpoint.
#[test]
fn a_restore_outlives_its_daemon() {
    with_criu(Maker::Ours, |world| {
        let before = start_counter(world)?;
        world.ctr("containers checkpoint --rw --task one saved")?;
        world.ctr("containers restore --rw --live two saved")?;
        goes_on(world, "two", before)?;
        world.kill_daemon()?;
        world.start()?;
        let now = count(world, "two")?;
        goes_on(world, "two", now)?;
        world.ctr("tasks pause two")?;
        world.ctr("tasks resume two")?;
        remove(world, "two")?;
        remove(world, "one")?;
        ensure!(Path::new(&world.root()).exists());
        Ok(())
    });
}
