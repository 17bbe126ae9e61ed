//! User namespaces, joined namespaces, and where shims and containers stand when memory runs out.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use api_grpc::containers::{Container, CreateContainerRequest, container::Runtime};
use api_grpc::leases::{CreateRequest, DeleteRequest};
use api_grpc::tasks::{CreateTaskRequest, DeleteTaskRequest, StartRequest};
use api_shim::{runc, typeurl};
use e2e::world::{IMAGE, Options, check, check_empty};
use e2e::{Maker, Table, World, process, wait};

use crate::skip;

/// The ids of the namespaces: not those of the host, and not the same for users and groups.
const MAPS: &str = "--uidmap 0:100000:65536 --gidmap 0:200000:65536";

/// The owner of a file as the host sees it.
const SCRIPT: &str = "sh -c 'id -u; cat /proc/self/uid_map; stat -c %u:%g /data/kept; touch /made && echo made; cat /proc/self/oom_score_adj'";

/// What a container in a user namespace sees, and what the host sees of it.
fn in_user_namespace(world: &World, options: &str) -> Result<()> {
    let shown = world.ctr(&format!("run --rm {options} {IMAGE} one {SCRIPT}"))?;
    let lines: Vec<&str> = shown.lines().collect();
    ensure!(lines[0] == "0", "{shown}");
    ensure!(lines[1].split_whitespace().eq(["0", "100000", "65536"]), "{shown}");
    // Owners are those of the image, and root may write.
    ensure!(lines[2] == "1000:1000" && lines[3] == "made", "{shown}");

    world.ctr(&format!("run -d {options} {IMAGE} one sleep 1000"))?;
    let pid = world.task("one")?.pid;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:")).context("no Uid")?;
    ensure!(uid.split_whitespace().all(|id| id == "100000"), "{uid}");
    let gid = status.lines().find_map(|line| line.strip_prefix("Gid:")).context("no Gid")?;
    ensure!(gid.split_whitespace().all(|id| id == "200000"), "{gid}");
    let shown =
        world.ctr("tasks exec --exec-id e one sh -c 'echo > /data/x; stat -c %u /data/x'")?;
    ensure!(shown == "0\n", "{shown}");
    // COMPAT: ctr 1.6 mounts the root file system a second time to look the user up, after which
    // the kernel lets nobody write to it, whoever made the daemon.
    if world.options().ctr != Maker::Bookworm {
        let shown = world.ctr(
            "tasks exec --exec-id e --user keeper one sh -c 'id -u; echo > /data/y; stat -c %u /data/y'",
        )?;
        ensure!(shown == "1000\n1000\n", "{shown}");
    }
    world.remove("one")
}

crate::with_ctrs! {
    [ctr_1_6 = Bookworm, ctr_2_1 = Forky, our_ctr = Ours] crate::with_image;

    fn with_changed_owners(world) {
        in_user_namespace(world, MAPS)?;
        // Again: the changed tree may be there still.
        in_user_namespace(world, MAPS)
    }

    fn with_mapped_mounts(world) {
        if world.options().ctr == Maker::Bookworm {
            skip!("this ctr mounts the tree itself and does not know the option");
        }
        let plugins = world.ctr("plugins ls -d id==overlayfs")?;
        if !plugins.contains("remap-ids") {
            skip!("the snapshotter cannot map ids: {plugins}");
        }
        world.ctr(&format!("run -d {MAPS} --remap-labels {IMAGE} other sleep 1000"))?;
        let parent = Table::parse(&world.ctr("snapshots ls")?)?;
        let parent = parent.cell("other", "PARENT")?.to_owned();
        world.ctr(&format!("run -d {IMAGE} plain sleep 1000"))?;
        let table = Table::parse(&world.ctr("snapshots ls")?)?;
        ensure!(table.cell("plain", "PARENT")? == parent, "the tree was copied: {table:?}");
        world.remove("plain")?;
        world.remove("other")?;
        in_user_namespace(world, &format!("{MAPS} --remap-labels"))
    }

    fn bad_maps(world) {
        for maps in ["--uidmap nonsense --gidmap 0:1:1", "--uidmap 0:1 --gidmap 0:1:1"] {
            ensure!(!world.ctr_fails(&format!("run --rm {maps} {IMAGE} one true"))?.is_empty());
            ensure!(world.ctr("containers ls -q")?.is_empty(), "a container is left");
        }
        Ok(())
    }

    fn joined_namespaces(world) {
        world.ctr(&format!("run -d {IMAGE} one sleep 1000"))?;
        let pid = world.task("one")?.pid;
        let of = |name: &str| -> Result<String> {
            Ok(fs::read_link(format!("/proc/{pid}/ns/{name}"))?.display().to_string())
        };
        let join = format!("--with-ns network:/proc/{pid}/ns/net --with-ns ipc:/proc/{pid}/ns/ipc --with-ns pid:/proc/{pid}/ns/pid");
        let shown = world.ctr(&format!("run --rm {join} {IMAGE} two sh -c 'ls -l /proc/self/ns'"))?;
        for name in ["net", "ipc", "pid"] {
            ensure!(shown.contains(&of(name)?), "{name}: {shown}");
        }
        ensure!(!shown.contains(&of("uts")?), "{shown}");
        // Processes of the other are seen, and are left alone.
        world.ctr(&format!("run -d {join} {IMAGE} two sleep 1000"))?;
        world.ctr("tasks kill --all -s KILL two")?;
        world.until_task("two", "STOPPED")?;
        ensure!(process::runs(pid));
        world.try_ctr("tasks rm two")?;
        world.ctr("containers rm two")?;
        let error = world.ctr_fails(&format!("run --rm --with-ns network {IMAGE} two true"))?;
        ensure!(error.contains("nstype:path") || error.contains("format"), "{error}");
        world.remove("one")
    }
}

/// The tree with other ids is needed by nobody once its container is gone, so a collection may take
/// it right after the next client has found it.
#[test]
fn a_changed_tree_is_collected_when_it_is_found() {
    check(Options::new(Maker::Ours), |world| {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let collect = scope.spawn(|| -> Result<()> {
                let client = world.client()?;
                let mut leases = client.leases();
                for turn in 0.. {
                    // At other times of each run: now before the tree is looked for, now after.
                    std::thread::sleep(Duration::from_millis(turn * 7 % 40));
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let id = "turn".to_owned();
                    let create = CreateRequest { id: id.clone(), ..CreateRequest::default() };
                    client.block_on(leases.create(client.request(create)))?;
                    let delete = DeleteRequest { id, sync: true };
                    client.block_on(leases.delete(client.request(delete)))?;
                }
                Ok(())
            });
            let runs = (0..20).try_for_each(|_| {
                world.ctr(&format!("run --rm {MAPS} {IMAGE} one true")).map(drop)
            });
            stop.store(true, Ordering::Relaxed);
            collect.join().map_err(|_| anyhow!("the collecting thread panicked"))??;
            runs
        })
    });
}

/// `oom_score_adj` of a process.
fn score(pid: i32) -> Result<i32> {
    Ok(fs::read_to_string(format!("/proc/{pid}/oom_score_adj"))?.trim().parse()?)
}

/// Shims are ended before their daemon, containers as their specs say.
#[test]
fn scores_for_the_end_of_memory() {
    check(Options::new(Maker::Forky), |world| {
        world.ctr(&format!("run -d {IMAGE} one sleep 1000"))?;
        let shims = world.shims();
        ensure!(shims.len() == 1, "{shims:?}");
        let daemon = score(world.daemon_pid()?)?;
        ensure!(score(shims[0])? == (daemon + 1).min(1000), "{} {daemon}", score(shims[0])?);
        // A spec that says nothing: the container has the daemon's own, not that of the shim.
        let container = score(world.task("one")?.pid)?;
        ensure!(container == daemon || container == daemon + 1, "{container} {daemon}");
        world.remove("one")
    });
}

/// Makes a control group in all hierarchies that let us.
fn make_group(name: &str) -> Result<()> {
    let root = Path::new("/sys/fs/cgroup");
    if root.join("cgroup.procs").exists() {
        return Ok(fs::create_dir(root.join(name))?);
    }
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            continue;
        }
        let folder = entry.path().join(name);
        let _ = fs::create_dir(&folder);
        // Without any, nobody can join.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let Ok(all) = fs::read_to_string(entry.path().join(file)) {
                fs::write(folder.join(file), all)?;
            }
        }
    }
    Ok(())
}

/// The group of the shim, the program of the shim and the root of runc, all from the client.
#[test]
fn where_the_client_puts_the_shim() {
    check(Options::new(Maker::Forky), |world| {
        // The group is the client's: it is there before the shim.
        let group = format!("{}-shims", world.namespace());
        make_group(&group)?;
        world.ctr(&format!("containers create {IMAGE} model sleep 1000"))?;
        let client = world.client()?;
        let get = api_grpc::containers::GetContainerRequest { id: "model".to_owned() };
        let record = client.block_on(client.containers().get(client.request(get)))?.into_inner();
        let record = record.container.context("no container")?;
        let mounts = api_grpc::snapshots::MountsRequest {
            snapshotter: record.snapshotter.clone(),
            key: record.snapshot_key.clone(),
        };
        let mounts = client.block_on(client.snapshots().mounts(client.request(mounts)))?;
        let root = world.path("files/runc");
        let options = typeurl::encode(&runc::Options {
            shim_cgroup: format!("/{group}"),
            root: root.display().to_string(),
            ..Default::default()
        });
        let runtime = Some(Runtime {
            name: record.runtime.context("no runtime")?.name,
            options: Some(options.clone()),
        });
        let one = Container {
            id: "one".to_owned(),
            runtime,
            snapshot_key: String::new(),
            spec: record.spec,
            ..Default::default()
        };
        client.block_on(
            client
                .containers()
                .create(client.request(CreateContainerRequest { container: Some(one) })),
        )?;
        let program = world.path("bin/containerd-shim-runc-v2");
        let create = CreateTaskRequest {
            container_id: "one".to_owned(),
            rootfs: mounts.into_inner().mounts,
            options: Some(options),
            runtime_path: program.display().to_string(),
            ..Default::default()
        };
        client.block_on(client.tasks().create(client.request(create)))?;
        let start = StartRequest { container_id: "one".to_owned(), ..Default::default() };
        client.block_on(client.tasks().start(client.request(start)))?;

        let shims = world.shims();
        ensure!(shims.len() == 1, "{shims:?}");
        ensure!(
            Path::new(&process::arguments(shims[0])[0]) == program
                || fs::read_link(format!("/proc/{}/exe", shims[0]))? == program.canonicalize()?,
            "{:?}",
            process::arguments(shims[0])
        );
        let of_shim = fs::read_to_string(format!("/proc/{}/cgroup", shims[0]))?;
        ensure!(of_shim.contains(&format!("/{group}")), "{of_shim}");
        ensure!(world.inside(&root).join(world.namespace()).join("one").is_dir());
        let task = world.task("one")?.pid;
        let of_task = fs::read_to_string(format!("/proc/{task}/cgroup"))?;
        ensure!(!of_task.contains(&group), "the container is not the shim's: {of_task}");

        world.ctr("tasks kill -s KILL one")?;
        wait::until("the task to be removed", || {
            let delete = DeleteTaskRequest { container_id: "one".to_owned() };
            Ok(client.block_on(client.tasks().delete(client.request(delete)))?)
        })?;
        world.ctr("containers rm one")?;
        world.ctr("containers rm model")?;
        wait::until("the shim to end", || {
            ensure!(world.shims().is_empty());
            Ok(())
        })?;
        for folder in process::cgroups(&group) {
            wait::until("the shim's group to be empty", || Ok(fs::remove_dir(&folder)?))?;
        }
        Ok(())
    });
}

/// A runtime that is a path, and one that is not there.
#[test]
fn runtimes_by_path() {
    check_empty(Options::new(Maker::Forky), |world| {
        world.import(&e2e::image::small()?)?;
        let program = world.path("bin/containerd-shim-runc-v2");
        let shown = world
            .ctr(&format!("run --rm --runtime {} {IMAGE} one echo hello", program.display()))?;
        ensure!(shown == "hello\n", "{shown}");
        let error =
            world.ctr_fails(&format!("run --rm --runtime /nowhere/shim {IMAGE} one true"))?;
        ensure!(error.contains("/nowhere/shim"), "{error}");
        let error = world
            .ctr_fails(&format!("run --rm --runtime io.containerd.none.v1 {IMAGE} one true"))?;
        ensure!(error.contains("containerd-shim-none-v1"), "{error}");
        ensure!(world.ctr("containers ls -q")?.is_empty());
        world.forgive_fifos()
    });
}
