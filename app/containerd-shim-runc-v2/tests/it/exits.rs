//! Ends of processes and of shims: none is lost, whatever stands in the way.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use api_shim::task::*;
use api_ttrpc::Client;

use crate::world::{World, call, eventually};

/// A debugger that takes hold of the process with `pid` and then does nothing any more.
fn hold_with_a_debugger(pid: u32) -> Option<std::process::Child> {
    // The numbers of ptrace(2) on this machine, and of its PTRACE_SEIZE.
    let ptrace = match std::env::consts::ARCH {
        "x86_64" => 101,
        "aarch64" => 117,
        other => {
            eprintln!("skipped: the number of ptrace(2) on {other}");
            return None;
        }
    };
    let script = format!("syscall({ptrace}, 0x4206, {pid}, 0, 0) == 0 or die; sleep 10000");
    let debugger = Command::new("perl").args(["-e", &script]).stdin(Stdio::null()).spawn();
    debugger.inspect_err(|error| eprintln!("skipped: perl: {error}")).ok()
}

#[tokio::test]
async fn the_exit_of_a_traced_process_is_seen() {
    let world = World::new().await;
    let bundle = world.bundle("one", &["sleep", "1000"]);
    let shim = world.start(&bundle, "one").await;
    shim.run(world.create(&shim)).await;
    call!(shim, exec, shim.exec_request("x", &["sleep", "2000"])).unwrap();
    let exec = call!(shim, start, shim.start_request("x")).unwrap().pid;
    let init = call!(shim, state, shim.state_request("")).unwrap().pid;
    let mut debuggers = Vec::new();
    for pid in [exec, init] {
        let Some(mut debugger) = hold_with_a_debugger(pid) else {
            shim.remove().await;
            return world.end(shim).await;
        };
        let id = i32::try_from(debugger.id()).unwrap();
        let status = format!("/proc/{pid}/status");
        let traced = format!("TracerPid:\t{id}\n");
        eventually("the debugger", || {
            assert!(debugger.try_wait().unwrap().is_none(), "the debugger has ended");
            fs::read_to_string(&status).unwrap().contains(&traced)
        })
        .await;
        debuggers.push(debugger);
    }
    let kill = KillRequest { exec_id: "x".to_owned(), ..shim.kill_request(9) };
    call!(shim, kill, kill).unwrap();
    assert_eq!(call!(shim, wait, shim.wait_request("x")).unwrap().exit_status, 137);
    // The kernel keeps a namespace's first process until all others are collected.
    debuggers[0].kill().unwrap();
    debuggers[0].wait().unwrap();
    call!(shim, kill, shim.kill_request(9)).unwrap();
    assert_eq!(call!(shim, wait, shim.wait_request("")).unwrap().exit_status, 137);
    let record = fs::read_to_string(bundle.join("exit-status")).unwrap();
    assert!(record.contains("\"exit_status\":137"), "{record}");
    eventually("both exits", || world.exits().len() == 2).await;
    debuggers[1].kill().unwrap();
    debuggers[1].wait().unwrap();
    call!(shim, delete, shim.delete_request("x")).unwrap();
    call!(shim, delete, shim.delete_request("")).unwrap();
    world.end(shim).await;
}

#[tokio::test]
async fn many_ends_at_once_are_all_told_and_the_containers_last() {
    const EXECS: usize = 16;
    let world = World::new().await;
    let bundle = world.bundle("one", &["sleep", "1000"]);
    let shim = world.start(&bundle, "one").await;
    shim.run(world.create(&shim)).await;
    for number in 0..EXECS {
        let exec_id = format!("x{number}");
        call!(shim, exec, shim.exec_request(&exec_id, &["sleep", "2000"])).unwrap();
        call!(shim, start, shim.start_request(&exec_id)).unwrap();
    }
    // The kernel ends them all with the container: one signal may stand for many.
    call!(shim, kill, shim.kill_request(9)).unwrap();
    assert_eq!(call!(shim, wait, shim.wait_request("")).unwrap().exit_status, 137);
    eventually("all exits", || world.exits().len() == EXECS + 1).await;
    let exits = world.exits();
    assert_eq!(exits.last().unwrap().id, "one");
    let mut ids: Vec<_> = exits.iter().map(|exit| exit.id.clone()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), EXECS + 1);
    assert!(exits.iter().all(|exit| exit.exit_status == 137));
    for number in 0..EXECS {
        call!(shim, delete, shim.delete_request(&format!("x{number}"))).unwrap();
    }
    call!(shim, delete, shim.delete_request("")).unwrap();
    world.end(shim).await;
}

#[tokio::test]
async fn a_signal_after_the_end_reaches_nobody() {
    let world = World::new().await;
    // Without a namespace of its own, the end of the container takes the shim some time.
    let bundle = world.bundle_with("one", &["sleep", "1000"], |spec| {
        spec["linux"]["namespaces"] = serde_json::json!([{"type": "mount"}]);
    });
    let shim = world.start(&bundle, "one").await;
    let pid = shim.run(world.create(&shim)).await;
    let process = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
    let folder = format!("/proc/{pid}");
    eventually("the end", || !Path::new(&folder).exists()).await;
    let status = call!(shim, kill, shim.kill_request(15)).unwrap_err();
    assert_eq!(status.message, "process already finished: not found");
    call!(shim, wait, shim.wait_request("")).unwrap();
    call!(shim, delete, shim.delete_request("")).unwrap();
    world.end(shim).await;
}

#[tokio::test]
async fn the_record_is_there_when_the_shim_dies_with_its_daemon_away() {
    let mut world = World::new().await;
    let bundle = world.bundle("one", &["sh", "-c", "exit 11"]);
    let shim = world.start(&bundle, "one").await;
    call!(shim, create, world.create(&shim)).unwrap();
    world.stop_listening();
    call!(shim, start, shim.start_request("")).unwrap();
    call!(shim, wait, shim.wait_request("")).unwrap();
    world.murder(&shim).await;
    assert_eq!(world.clean_up(&bundle, "one").exit_status, 11);
    world.gone(&shim).await;
}

#[tokio::test]
async fn a_shim_that_nobody_needs_leaves_by_itself() {
    let mut world = World::new().await;
    world.environment.push(("IRONHULL_SHIM_IDLE", "2".to_owned()));
    // Its daemon died before there was a task.
    let never = world.start(&world.bundle("never", &["true"]), "never").await;
    world.gone(&never).await;

    // Its daemon died after the deletion of the last task.
    let deleted = world.start(&world.bundle("deleted", &["sleep", "1000"]), "deleted").await;
    deleted.run(world.create(&deleted)).await;
    deleted.remove().await;
    world.gone(&deleted).await;
    assert_eq!(world.topics().last().map(String::as_str), Some("/tasks/delete"));
}

#[tokio::test]
async fn a_shim_whose_tasks_were_killed_from_outside_leaves_by_itself() {
    let mut world = World::new().await;
    world.environment.push(("IRONHULL_SHIM_IDLE", "2".to_owned()));
    let pod = |spec: &mut serde_json::Value| {
        spec["annotations"] = serde_json::json!({"io.kubernetes.cri.sandbox-id": "pod"});
    };
    let bundles = ["one", "two"].map(|id| world.bundle_with(id, &["sleep", "1000"], pod));
    let mut shims = Vec::new();
    let mut pids = Vec::new();
    for (id, bundle) in ["one", "two"].iter().zip(&bundles) {
        let shim = world.start(bundle, id).await;
        pids.push(i32::try_from(shim.run(world.create(&shim)).await).unwrap());
        shims.push(shim);
    }
    let (pid, socket) = (shims[0].pid, shims[0].socket.clone());
    // The daemon has gone, and somebody kills the whole pod.
    drop(shims);
    for pid in pids {
        let process = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
    }
    eventually("the shim to leave", || {
        !socket.exists() && !Path::new(&format!("/proc/{pid}/exe")).exists()
    })
    .await;
    assert!(Client::connect(&socket).await.is_err());
    // What happened is known, and the next daemon cleans up.
    for (id, bundle) in ["one", "two"].iter().zip(&bundles) {
        assert_eq!(world.clean_up(bundle, id).exit_status, 137);
    }
    eventually("the mounts to go", || {
        !fs::read_to_string("/proc/self/mountinfo")
            .unwrap()
            .contains(world.folder.path().to_str().unwrap())
    })
    .await;
    world.nothing_left();
}

#[tokio::test]
async fn a_shim_with_a_running_task_stays() {
    let mut world = World::new().await;
    world.environment.push(("IRONHULL_SHIM_IDLE", "2".to_owned()));
    let bundle = world.bundle("one", &["sleep", "1000"]);
    let shim = world.start(&bundle, "one").await;
    shim.run(world.create(&shim)).await;
    // Longer than it would stay without: another one, begun later, has come and gone meanwhile.
    let other = world.start(&world.bundle("two", &["true"]), "two").await;
    let stat = format!("/proc/{}/exe", other.pid);
    eventually("the other shim to leave", || !Path::new(&stat).exists()).await;
    let state = call!(shim, state, shim.state_request("")).unwrap();
    assert_eq!(state.status(), api_shim::process::Status::Running);
    shim.remove().await;
    world.end(shim).await;
}
