//! Containers and their processes from beginning to end.

use api_shim::process::Status;
use api_shim::task::*;
use api_shim::{cgroups, runc, typeurl};
use api_ttrpc::code;
use serde_json::json;

use crate::world::{World, call, eventually, read_all};

#[tokio::test]
async fn a_container_lives_and_is_told_about_in_order() {
    let world = World::new().await;
    let bundle = world.bundle("one", &["sh", "-c", "exit 7"]);
    let shim = world.start(&bundle, "one").await;
    let status = call!(shim, state, shim.state_request("")).unwrap_err();
    assert_eq!(
        (status.code, status.message.as_str()),
        (code::NOT_FOUND, "container not created: not found")
    );

    let pid = call!(shim, create, world.create(&shim)).unwrap().pid;
    let state = call!(shim, state, shim.state_request("")).unwrap();
    assert_eq!((state.status(), state.pid, state.id.as_str()), (Status::Created, pid, "one"));
    assert_eq!(state.exited_at.unwrap().seconds, -62_135_596_800);
    assert_eq!(call!(shim, create, world.create(&shim)).unwrap_err().code, code::ALREADY_EXISTS);

    assert_eq!(call!(shim, start, shim.start_request("")).unwrap().pid, pid);
    let end = call!(shim, wait, shim.wait_request("")).unwrap();
    assert_eq!(end.exit_status, 7);
    let record = std::fs::read_to_string(bundle.join("exit-status")).unwrap();
    assert!(record.contains("\"exit_status\":7"), "{record}");
    let status = call!(shim, kill, shim.kill_request(15)).unwrap_err();
    assert_eq!(status.message, "process already finished: not found");
    assert_eq!(status.code, code::NOT_FOUND);
    let status = call!(shim, start, shim.start_request("")).unwrap_err();
    assert_eq!(status.message, "cannot start a stopped process");

    let deleted = call!(shim, delete, shim.delete_request("")).unwrap();
    assert_eq!((deleted.exit_status, deleted.pid, deleted.exited_at), (7, pid, end.exited_at));
    assert_eq!(call!(shim, state, shim.state_request("")).unwrap_err().code, code::NOT_FOUND);
    let topics = world.wait_for_events(4).await;
    assert_eq!(topics, ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]);
    let exit = &world.exits()[0];
    assert_eq!((exit.id.as_str(), exit.container_id.as_str()), ("one", "one"));
    assert_eq!((exit.pid, exit.exit_status, exit.exited_at), (pid, 7, end.exited_at));
    world.end(shim).await;
}

#[tokio::test]
async fn an_exec_ends_before_its_container() {
    let world = World::new().await;
    let bundle = world.bundle("one", &["sleep", "1000"]);
    let shim = world.start(&bundle, "one").await;
    call!(shim, create, world.create(&shim)).unwrap();
    call!(shim, start, shim.start_request("")).unwrap();

    call!(shim, exec, shim.exec_request("quick", &["sh", "-c", "exit 3"])).unwrap();
    let twice = call!(shim, exec, shim.exec_request("quick", &["true"])).unwrap_err();
    assert_eq!(
        (twice.code, twice.message.as_str()),
        (code::ALREADY_EXISTS, "id quick: already exists")
    );
    call!(shim, start, shim.start_request("quick")).unwrap();
    assert_eq!(call!(shim, wait, shim.wait_request("quick")).unwrap().exit_status, 3);
    assert_eq!(call!(shim, delete, shim.delete_request("quick")).unwrap().exit_status, 3);
    let status = call!(shim, state, shim.state_request("quick")).unwrap_err();
    assert_eq!(status.message, "process does not exist quick: not found");

    call!(shim, exec, shim.exec_request("none", &["/no/such/program"])).unwrap();
    let status = call!(shim, start, shim.start_request("none")).unwrap_err();
    assert!(
        status.message.starts_with("OCI runtime exec failed: exec failed: "),
        "{}",
        status.message
    );
    call!(shim, delete, shim.delete_request("none")).unwrap();

    call!(shim, exec, shim.exec_request("long", &["sleep", "1000"])).unwrap();
    let long = call!(shim, start, shim.start_request("long")).unwrap().pid;
    let running = call!(shim, delete, shim.delete_request("long")).unwrap_err();
    assert_eq!(running.message, "cannot delete a running process");
    let pids = call!(shim, pids, PidsRequest { id: "one".to_owned() }).unwrap().processes;
    assert_eq!(pids.len(), 2);
    let info = pids.iter().find(|process| process.pid == long).unwrap().info.clone().unwrap();
    assert_eq!(typeurl::decode::<runc::ProcessDetails>(&info).unwrap().exec_id, "long");

    call!(shim, kill, shim.kill_request(9)).unwrap();
    assert_eq!(call!(shim, wait, shim.wait_request("")).unwrap().exit_status, 137);
    eventually("three exits", || world.exits().len() == 3).await;
    let exits = world.exits();
    let ids: Vec<_> = exits.iter().map(|exit| exit.id.as_str()).collect();
    assert_eq!(ids, ["quick", "long", "one"]);
    call!(shim, delete, shim.delete_request("long")).unwrap();
    call!(shim, delete, shim.delete_request("")).unwrap();
    world.end(shim).await;
}

#[tokio::test]
async fn pause_resume_update_and_metrics() {
    let world = World::new().await;
    let bundle = world.bundle("one", &["sleep", "1000"]);
    let shim = world.start(&bundle, "one").await;
    call!(shim, create, world.create(&shim)).unwrap();
    let id = || "one".to_owned();
    let early = call!(shim, pause, PauseRequest { id: id() }).unwrap_err();
    assert_eq!(early.message, "cannot pause task in created state");
    call!(shim, start, shim.start_request("")).unwrap();
    call!(shim, pause, PauseRequest { id: id() }).unwrap();
    assert_eq!(call!(shim, state, shim.state_request("")).unwrap().status(), Status::Paused);
    let paused = call!(shim, exec, shim.exec_request("x", &["true"])).unwrap_err();
    assert_eq!(paused.message, "cannot exec in a paused state");
    call!(shim, resume, ResumeRequest { id: id() }).unwrap();
    assert_eq!(call!(shim, state, shim.state_request("")).unwrap().status(), Status::Running);

    let limits = json!({"memory": {"limit": 64 << 20}, "pids": {"limit": 50}});
    let resources = typeurl::encode_json(typeurl::LINUX_RESOURCES, limits.to_string().into_bytes());
    let update = UpdateTaskRequest { id: id(), resources: Some(resources), ..Default::default() };
    call!(shim, update, update).unwrap();
    let stats = call!(shim, stats, StatsRequest { id: id() }).unwrap().stats.unwrap();
    if typeurl::is::<cgroups::v1::Metrics>(&stats) {
        let metrics: cgroups::v1::Metrics = typeurl::decode(&stats).unwrap();
        assert_eq!(metrics.pids.unwrap().limit, 50);
        assert_eq!(metrics.memory.unwrap().usage.unwrap().limit, 64 << 20);
    } else {
        let metrics: cgroups::v2::Metrics = typeurl::decode(&stats).unwrap();
        assert_eq!(metrics.pids.unwrap().limit, 50);
    }
    // A paused container can be killed.
    call!(shim, pause, PauseRequest { id: id() }).unwrap();
    let deleted = shim.remove().await;
    assert_eq!(deleted.exit_status, 137);
    let topics = world.wait_for_events(7).await;
    assert_eq!(
        topics,
        [
            "/tasks/create",
            "/tasks/start",
            "/tasks/paused",
            "/tasks/resumed",
            "/tasks/paused",
            "/tasks/exit",
            "/tasks/delete"
        ]
    );
    world.end(shim).await;
}

#[tokio::test]
async fn a_container_without_a_pid_namespace_leaves_no_process() {
    let world = World::new().await;
    let bundle = world.bundle_with("one", &["sh", "-c", "sleep 1000 & exit 4"], |spec| {
        spec["linux"]["namespaces"] = json!([{"type": "mount"}]);
    });
    let shim = world.start(&bundle, "one").await;
    call!(shim, create, world.create(&shim)).unwrap();
    call!(shim, start, shim.start_request("")).unwrap();
    assert_eq!(call!(shim, wait, shim.wait_request("")).unwrap().exit_status, 4);
    // The process in the background is killed.
    world.processes(&shim, "one", 0).await;
    call!(shim, delete, shim.delete_request("")).unwrap();
    world.end(shim).await;
}

#[tokio::test]
async fn a_container_that_never_ran_is_deleted() {
    let world = World::new().await;
    let bundle = world.bundle("one", &["true"]);
    let shim = world.start(&bundle, "one").await;
    call!(shim, create, world.create(&shim)).unwrap();
    call!(shim, delete, shim.delete_request("")).unwrap();
    let topics = world.wait_for_events(3).await;
    assert_eq!(topics, ["/tasks/create", "/tasks/exit", "/tasks/delete"]);
    world.end(shim).await;
}

#[tokio::test]
async fn the_hooks_of_a_container_run() {
    let world = World::new().await;
    let log = world.path("hooks");
    let bundle = world.bundle_with("one", &["true"], |spec| {
        let hook = |name: &str| {
            let script = format!("echo {name} >>{}", log.display());
            json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}])
        };
        let names = ["prestart", "poststart", "poststop"];
        spec["hooks"] = names.iter().map(|&name| (name.to_owned(), hook(name))).collect();
    });
    let shim = world.start(&bundle, "one").await;
    shim.run(world.create(&shim)).await;
    assert_eq!(call!(shim, wait, shim.wait_request("")).unwrap().exit_status, 0);
    let told = || std::fs::read_to_string(&log).unwrap_or_default();
    assert_eq!(told(), "prestart\npoststart\n");
    call!(shim, delete, shim.delete_request("")).unwrap();
    assert_eq!(told(), "prestart\npoststart\npoststop\n");
    world.end(shim).await;
}

#[tokio::test]
async fn groups_that_a_container_has_made_are_removed_with_it() {
    let world = World::new().await;
    let bundle = world.bundle_with("one", &["sh", "-c", "mkdir /cgroup/memory/below"], |spec| {
        let mounts = spec["mounts"].as_array_mut().unwrap();
        mounts.push(json!({"destination": "/cgroup", "type": "cgroup", "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev"]}));
    });
    let shim = world.start(&bundle, "one").await;
    shim.run(world.create(&shim)).await;
    assert_eq!(call!(shim, wait, shim.wait_request("")).unwrap().exit_status, 0);
    call!(shim, delete, shim.delete_request("")).unwrap();
    world.end(shim).await;
}

#[tokio::test]
async fn lack_of_memory_is_told_before_the_exit() {
    let world = World::new().await;
    // `tail` keeps a line without an end in memory.
    let hungry = ["sh", "-c", "cat /dev/zero | busybox tail"];
    let bundle = world.bundle_with("one", &hungry, |spec| {
        spec["linux"]["resources"] = json!({"memory": {"limit": 16 << 20, "swap": 16 << 20}});
        spec["linux"]["devices"] = json!([]);
    });
    let shim = world.start(&bundle, "one").await;
    call!(shim, create, world.create(&shim)).unwrap();
    call!(shim, start, shim.start_request("")).unwrap();
    assert_eq!(call!(shim, wait, shim.wait_request("")).unwrap().exit_status, 137);
    call!(shim, delete, shim.delete_request("")).unwrap();
    eventually("the last event", || world.topics().iter().any(|topic| topic == "/tasks/delete"))
        .await;
    assert_eq!(world.ooms()[0].container_id, "one");
    let topics = world.topics();
    let place = |topic: &str| topics.iter().position(|one| one == topic).unwrap();
    assert!(place("/tasks/oom") < place("/tasks/exit"), "{topics:?}");
    world.end(shim).await;
}

#[tokio::test]
async fn events_wait_for_a_daemon_that_is_down() {
    let mut world = World::new().await;
    let bundle = world.bundle("one", &["sleep", "1000"]);
    let shim = world.start(&bundle, "one").await;
    call!(shim, create, world.create(&shim)).unwrap();
    call!(shim, start, shim.start_request("")).unwrap();
    world.wait_for_events(2).await;
    world.stop_listening();
    call!(shim, kill, shim.kill_request(9)).unwrap();
    call!(shim, wait, shim.wait_request("")).unwrap();
    world.listen();
    let topics = world.wait_for_events(3).await;
    assert_eq!(topics[2], "/tasks/exit");
    call!(shim, delete, shim.delete_request("")).unwrap();
    world.wait_for_events(4).await;
    world.end(shim).await;
}

#[tokio::test]
async fn a_container_is_checkpointed_and_restored() {
    let check = std::process::Command::new("criu").arg("check").output();
    if !check.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: no criu that works with this kernel");
        return;
    }
    let world = World::new().await;
    let count = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done";
    let bundle = world.bundle("one", &["sh", "-c", count]);
    let shim = world.start(&bundle, "one").await;
    let mut create = world.create(&shim);
    create.stdout = world.fifo("out");
    let output = read_all(&create.stdout);
    call!(shim, create, create.clone()).unwrap();
    call!(shim, start, shim.start_request("")).unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let image = world.path("checkpoint");
    let exit = runc::CheckpointOptions { exit: true, ..Default::default() };
    let request = CheckpointTaskRequest {
        id: "one".to_owned(),
        path: image.to_str().unwrap().to_owned(),
        options: Some(typeurl::encode(&exit)),
    };
    call!(shim, checkpoint, request).unwrap();
    call!(shim, wait, shim.wait_request("")).unwrap();
    call!(shim, delete, shim.delete_request("")).unwrap();
    let before = last_number(&output.await.unwrap());

    let output = read_all(&create.stdout);
    create.checkpoint = image.to_str().unwrap().to_owned();
    assert_eq!(call!(shim, create, create).unwrap().pid, 0);
    let pid = call!(shim, start, shim.start_request("")).unwrap().pid;
    assert!(pid > 0);
    assert_eq!(call!(shim, state, shim.state_request("")).unwrap().status(), Status::Running);
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert_eq!(shim.remove().await.exit_status, 137);
    let text = output.await.unwrap();
    let first: u64 = String::from_utf8_lossy(&text).lines().next().unwrap().parse().unwrap();
    assert!(first > before, "it went on at {first}, after {before}");
    assert_eq!(world.exits().len(), 2);
    world.end(shim).await;
}

fn last_number(text: &[u8]) -> u64 {
    String::from_utf8_lossy(text).lines().last().unwrap().parse().unwrap()
}
