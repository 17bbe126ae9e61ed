//! A machine with control groups of version 2 alone, as the shim and the runtimes see it from a
//! mount namespace in which the second version is mounted at the usual place.

use api_shim::process::Status;
use api_shim::task::*;
use api_shim::{cgroups, typeurl};

use crate::world::{World, call};

#[tokio::test]
async fn a_life_with_runc_on_version_2() {
    life("runc").await;
}

#[tokio::test]
async fn a_life_with_crun_on_version_2() {
    let found = std::process::Command::new("crun").arg("--version").output();
    if !found.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: no crun");
        return;
    }
    life("crun").await;
    // By its path as well.
    let paths = std::env::var("PATH").unwrap();
    let path = paths.split(':').map(|folder| format!("{folder}/crun"));
    life(&path.into_iter().find(|path| std::path::Path::new(path).exists()).unwrap()).await;
}

async fn life(runtime: &str) {
    let mut world = World::new().await;
    if !world.unify() {
        return;
    }
    let bundle = world.bundle("one", &["sh", "-c", "sleep 1000; exit 3"]);
    let shim = world.start(&bundle, "one").await;
    let mut create = world.create(&shim);
    create.options = Some(world.options(runtime));
    shim.run(create).await;
    let id = || "one".to_owned();
    assert_eq!(shim.exec_to_end(shim.exec_request("x", &["sh", "-c", "exit 4"])).await, 4);
    let none = shim.exec_request("none", &["/no/such/program"]);
    call!(shim, exec, none).unwrap();
    let status = call!(shim, start, shim.start_request("none")).unwrap_err();
    assert!(status.message.starts_with("OCI runtime exec failed: "), "{}", status.message);
    call!(shim, delete, shim.delete_request("none")).unwrap();
    let stats = call!(shim, stats, StatsRequest { id: id() }).unwrap().stats.unwrap();
    let metrics: cgroups::v2::Metrics = typeurl::decode(&stats).unwrap();
    assert!(metrics.cpu.is_some());
    call!(shim, pause, PauseRequest { id: id() }).unwrap();
    assert_eq!(call!(shim, state, shim.state_request("")).unwrap().status(), Status::Paused);
    call!(shim, resume, ResumeRequest { id: id() }).unwrap();
    let pids = call!(shim, pids, PidsRequest { id: id() }).unwrap().processes;
    assert!(!pids.is_empty());
    // A signal for all takes the last process, paused or not.
    call!(shim, pause, PauseRequest { id: id() }).unwrap();
    call!(shim, kill, KillRequest { all: true, ..shim.kill_request(9) }).unwrap();
    assert_eq!(call!(shim, wait, shim.wait_request("")).unwrap().exit_status, 137);
    call!(shim, delete, shim.delete_request("")).unwrap();
    let topics = world.wait_for_events(11).await;
    assert_eq!(topics.last().unwrap(), "/tasks/delete", "{topics:?}");
    world.end(shim).await;
}
