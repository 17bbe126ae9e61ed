//! Runtimes that fail, at every stage: the error is clear, and nothing is left.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use api_shim::process::Status as State;
use api_shim::task::*;
use api_shim::typeurl;
use api_ttrpc::code;

use crate::world::{Shim, World, call};

/// A runtime that runs a script at one command, in which `runc "$@"` is that command.
fn runtime(world: &World, stage: &str, script: &str) -> String {
    let path = world.path("runtime");
    let script = format!(
        "#!/bin/sh\nfor word in \"$@\"; do case $word in\n{stage}) {script};;\n\
         esac; done\nexec runc \"$@\"\n"
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A runtime that fails at one command, before or after it has done its work.
fn failing(world: &World, stage: &str, after: bool) -> String {
    let run = if after { "runc \"$@\" || exit 1; " } else { "" };
    runtime(world, stage, &format!("{run}echo no {stage} today >&2; exit 3"))
}

/// A runtime that hangs at one command: a wrapper of another program.
fn hanging(world: &World, stage: &str) -> String {
    runtime(world, stage, "sh -c 'sleep 1000; exit'; exit 0")
}

/// Makes the runtime a good one.
fn heal(world: &World) {
    runtime(world, "none", "exit 1");
}

#[tokio::test]
async fn a_create_that_fails_leaves_nothing() {
    let world = World::new().await;
    let bundle = world.bundle("one", &["sleep", "1000"]);
    let shim = world.start(&bundle, "one").await;
    for (after, text) in [
        (false, "OCI runtime create failed: unable to retrieve OCI runtime error (open "),
        (true, "OCI runtime create failed: "),
    ] {
        let mut request = world.create(&shim);
        request.options = Some(world.options(&failing(&world, "create", after)));
        let status = call!(shim, create, request).unwrap_err();
        assert_eq!(status.code, code::UNKNOWN);
        assert!(status.message.starts_with(text), "{}", status.message);
        assert!(
            status.message.ends_with("did not terminate successfully: exit status 3"),
            "{}",
            status.message
        );
        assert_eq!(world.topics(), [""; 0]);
    }
    for (binary, text) in [
        ("no-such-runtime", "executable file not found in $PATH"),
        ("/no/such/runtime", "fork/exec /no/such/runtime: no such file or directory"),
        ("/dev/null", "fork/exec /dev/null: permission denied"),
    ] {
        let mut request = world.create(&shim);
        request.options = Some(world.options(binary));
        let status = call!(shim, create, request).unwrap_err();
        assert!(status.message.contains(text), "{}", status.message);
    }
    world.end(shim).await;
}

/// The runtime keeps a container of this name, of another daemon: it is not touched.
#[tokio::test]
async fn a_container_of_somebody_else_stays() {
    let world = World::new().await;
    let first = world.bundle("one", &["sleep", "1000"]);
    let shim = world.start(&first, "one").await;
    let pid = shim.run(world.create(&shim)).await;
    let second = world.bundle("two", &["sleep", "2000"]);
    let other = world.start(&second, "two").await;
    for binary in [String::new(), runtime(&world, "none", "exit 1")] {
        let mut request = world.create(&other);
        (request.id, request.options) = ("one".to_owned(), Some(world.options(&binary)));
        let status = call!(other, create, request).unwrap_err();
        assert!(status.message.contains("already exists"), "{}", status.message);
        let pids = call!(shim, pids, PidsRequest { id: "one".to_owned() }).unwrap();
        assert_eq!(pids.processes.iter().map(|one| one.pid).collect::<Vec<_>>(), [pid]);
    }
    // Neither is it by who cleans up after the second shim.
    world.clean_up(&second, "one");
    let state = call!(shim, state, shim.state_request("")).unwrap();
    assert_eq!((state.pid, state.status()), (pid, State::Running));
    assert_eq!(shim.exec_to_end(shim.exec_request("x", &["true"])).await, 0);
    shim.remove().await;
    let _ = call!(other, shutdown, ShutdownRequest { id: "two".to_owned(), now: false });
    other.left().await;
    world.end(shim).await;
}

#[tokio::test]
async fn a_runtimes_own_words_come_through() {
    let world = World::new().await;
    let bundle = world.bundle("one", &["/no/such/program"]);
    let shim = world.start(&bundle, "one").await;
    let status = call!(shim, create, world.create(&shim)).unwrap_err();
    let begin =
        "OCI runtime create failed: runc create failed: unable to start container process: ";
    assert!(status.message.starts_with(begin), "{}", status.message);
    assert!(status.message.contains("/no/such/program"), "{}", status.message);
    world.end(shim).await;
}

#[tokio::test]
async fn bad_requests_are_refused_and_leave_nothing() {
    let world = World::new().await;
    let bundle = world.bundle("one", &["true"]);
    let shim = world.start(&bundle, "one").await;
    let good = || world.create(&shim);
    let missing = world.path("missing").to_str().unwrap().to_owned();
    let mut bad_mount = good();
    bad_mount.rootfs[0].source = missing.clone();
    for (request, text) in [
        (CreateTaskRequest { id: "../x".to_owned(), ..good() }, "must match"),
        (CreateTaskRequest { bundle: "relative".to_owned(), ..good() }, "bundle"),
        (CreateTaskRequest { stdout: missing.clone(), ..good() }, "opening file"),
        (CreateTaskRequest { stdin: missing.clone(), ..good() }, "failed to open stdin fifo"),
        (bad_mount, "failed to mount rootfs component"),
    ] {
        let status = call!(shim, create, request).unwrap_err();
        assert!(status.message.contains(text), "{}", status.message);
    }
    world.end(shim).await;
}

#[tokio::test]
async fn later_stages_that_fail_are_told_and_can_be_cleaned_up() {
    for after in [false, true] {
        for stage in ["start", "exec", "pause", "delete"] {
            one_stage_fails(stage, after).await;
        }
        for stage in ["resume", "update", "kill"] {
            one_change_fails(stage, after).await;
        }
    }
    one_change_fails("checkpoint", false).await;
}

/// A container whose runtime fails at one command, before or after it has done its work.
async fn one_stage_fails(stage: &str, after: bool) {
    let world = World::new().await;
    let bundle = world.bundle("one", &["sleep", "1000"]);
    let shim = world.start(&bundle, "one").await;
    let mut request = world.create(&shim);
    request.options = Some(world.options(&failing(&world, stage, after)));
    call!(shim, create, request).unwrap();
    let started = call!(shim, start, shim.start_request(""));
    let fails = |result: Result<(), api_ttrpc::Status>, begin: &str| {
        let status = result.unwrap_err();
        assert!(status.message.starts_with(begin), "{stage} {after}: {}", status.message);
    };
    if stage == "start" {
        fails(started.map(drop), "OCI runtime start failed: ");
    } else {
        started.unwrap();
    }
    if stage == "exec" {
        call!(shim, exec, shim.exec_request("x", &["sleep", "2000"])).unwrap();
        let start = call!(shim, start, shim.start_request("x"));
        fails(start.map(drop), "OCI runtime exec failed: ");
        call!(shim, wait, shim.wait_request("x")).unwrap();
        call!(shim, delete, shim.delete_request("x")).unwrap();
        // The process that the runtime had made all the same is dead.
        world.processes(&shim, "one", 1).await;
    }
    if stage == "pause" {
        let pause = PauseRequest { id: "one".to_owned() };
        fails(call!(shim, pause, pause), "OCI runtime pause failed: ");
    }
    // Also where a runtime had frozen the container before it failed.
    call!(shim, kill, shim.kill_request(9)).unwrap();
    call!(shim, wait, shim.wait_request("")).unwrap();
    let deleted = call!(shim, delete, shim.delete_request(""));
    if stage == "delete" {
        let status = deleted.unwrap_err();
        assert!(status.message.contains("failed to delete task"), "{}", status.message);
        // The runtime is well again: the same call succeeds.
        heal(&world);
        call!(shim, delete, shim.delete_request("")).unwrap();
    } else {
        deleted.unwrap();
    }
    world.end(shim).await;
}

/// A running container whose runtime fails at one change of it, before or after it has done its
/// work; and is well again after that.
async fn one_change_fails(stage: &str, after: bool) {
    let world = World::new().await;
    let bundle = world.bundle("one", &["sleep", "1000"]);
    let shim = world.start(&bundle, "one").await;
    let mut request = world.create(&shim);
    request.options = Some(world.options(&failing(&world, stage, after)));
    shim.run(request).await;
    if stage == "resume" {
        call!(shim, pause, PauseRequest { id: "one".to_owned() }).unwrap();
    }
    let status = change(&world, &shim, stage).await.unwrap_err();
    let text = match stage {
        "resume" => "OCI runtime resume failed: ",
        "checkpoint" => "path= ",
        _ => "no ",
    };
    assert!(status.message.contains(text), "{stage} {after}: {}", status.message);
    assert_eq!(status.code, code::UNKNOWN, "{stage} {after}: {}", status.message);
    // What the shim says of it is what it is.
    let known = call!(shim, state, shim.state_request("")).unwrap().status();
    if stage == "resume" {
        let expected = if after { State::Running } else { State::Paused };
        assert_eq!(known, expected, "{stage} {after}");
    } else if (stage, after) != ("kill", true) {
        assert_eq!(known, State::Running, "{stage} {after}");
    }
    heal(&world);
    match stage {
        "checkpoint" => {}
        "resume" if after => {}
        // It may be dead by now.
        "kill" => drop(change(&world, &shim, stage).await),
        _ => change(&world, &shim, stage).await.unwrap(),
    }
    if stage != "kill" {
        assert_eq!(shim.exec_to_end(shim.exec_request("x", &["true"])).await, 0);
        call!(shim, kill, shim.kill_request(9)).unwrap();
    }
    assert_eq!(call!(shim, wait, shim.wait_request("")).unwrap().exit_status, 137);
    call!(shim, delete, shim.delete_request("")).unwrap();
    world.end(shim).await;
}

/// Asks for one change of the container.
async fn change(world: &World, shim: &Shim, stage: &str) -> Result<(), api_ttrpc::Status> {
    let id = "one".to_owned();
    match stage {
        "resume" => call!(shim, resume, ResumeRequest { id }),
        "update" => {
            let shares = br#"{"cpu":{"shares":512}}"#.to_vec();
            let resources = Some(typeurl::encode_json(typeurl::LINUX_RESOURCES, shares));
            call!(shim, update, UpdateTaskRequest { id, resources, ..Default::default() })
        }
        "kill" => call!(shim, kill, shim.kill_request(9)),
        _ => {
            let path = world.path("checkpoint").to_str().unwrap().to_owned();
            call!(shim, checkpoint, CheckpointTaskRequest { id, path, options: None })
        }
    }
}

/// How long a command may take in the test of runtimes that hang: long for a good one.
const LIMIT: u32 = 10;

#[tokio::test]
async fn a_runtime_that_hangs_is_killed_at_every_stage() {
    let stages = ["create", "start", "exec", "pause", "resume", "update", "kill", "delete"]
        .map(one_stage_hangs);
    futures(stages).await;
}

/// Waits for all.
async fn futures(all: impl IntoIterator<Item = impl Future<Output = ()>>) {
    let mut all: Vec<_> = all.into_iter().map(Box::pin).collect();
    std::future::poll_fn(|context| {
        all.retain_mut(|one| one.as_mut().poll(context).is_pending());
        if all.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

async fn one_stage_hangs(stage: &str) {
    let mut world = World::new().await;
    world.environment.push(("IRONHULL_RUNTIME_LIMIT", LIMIT.to_string()));
    let bundle = world.bundle("one", &["sleep", "1000"]);
    let shim = world.start(&bundle, "one").await;
    let hangs = |result: Result<(), api_ttrpc::Status>| {
        let status = result.unwrap_err();
        assert_eq!(status.code, code::DEADLINE_EXCEEDED, "{stage}: {}", status.message);
        let text = format!("{stage}: no end within {LIMIT} s: context deadline exceeded");
        assert!(status.message.ends_with(&text), "{stage}: {}", status.message);
    };
    let mut request = world.create(&shim);
    request.options = Some(world.options(&hanging(&world, stage)));
    let created = call!(shim, create, request).map(drop);
    if stage == "create" {
        hangs(created);
        return world.end(shim).await;
    }
    created.unwrap();
    let started = call!(shim, start, shim.start_request("")).map(drop);
    if stage == "start" {
        hangs(started);
    } else {
        started.unwrap();
    }
    if stage == "exec" {
        call!(shim, exec, shim.exec_request("x", &["true"])).unwrap();
        // Others are served meanwhile.
        let request = shim.start_request("x");
        let options = crate::world::options();
        let (exec, state) = tokio::join!(shim.client.start(&options, &request), async {
            call!(shim, state, shim.state_request(""))
        });
        state.unwrap();
        hangs(exec.map(drop));
    }
    if stage == "pause" {
        hangs(call!(shim, pause, PauseRequest { id: "one".to_owned() }));
    }
    if let "resume" | "update" | "kill" = stage {
        if stage == "resume" {
            call!(shim, pause, PauseRequest { id: "one".to_owned() }).unwrap();
        }
        hangs(change(&world, &shim, stage).await);
        heal(&world);
    }
    call!(shim, kill, shim.kill_request(9)).unwrap();
    call!(shim, wait, shim.wait_request("")).unwrap();
    let deleted = call!(shim, delete, shim.delete_request("")).map(drop);
    if stage == "delete" {
        hangs(deleted);
        heal(&world);
        call!(shim, delete, shim.delete_request("")).unwrap();
    } else {
        deleted.unwrap();
    }
    world.end(shim).await;
}

/// One that hangs with the container frozen, as CRIU does when it hangs.
#[tokio::test]
async fn a_checkpoint_that_hangs_is_killed_and_the_container_goes_on() {
    const SHORT: u32 = 3;
    for paused in [false, true] {
        let mut world = World::new().await;
        world.environment.push(("IRONHULL_CHECKPOINT_LIMIT", SHORT.to_string()));
        let bundle = world.bundle("one", &["sleep", "1000"]);
        let shim = world.start(&bundle, "one").await;
        let root = world.path("runc").join(crate::world::NAMESPACE);
        let freeze = format!("runc --root '{}' pause one", root.display());
        let script = format!("{freeze} 2>/dev/null; sh -c 'sleep 1000; exit'; exit 0");
        let mut request = world.create(&shim);
        request.options = Some(world.options(&runtime(&world, "checkpoint", &script)));
        shim.run(request).await;
        let one = || "one".to_owned();
        if paused {
            call!(shim, pause, PauseRequest { id: one() }).unwrap();
        }
        // Others are served meanwhile.
        let (written, state) = tokio::join!(change(&world, &shim, "checkpoint"), async {
            call!(shim, state, shim.state_request(""))
        });
        state.unwrap();
        let status = written.unwrap_err();
        assert_eq!(status.code, code::DEADLINE_EXCEEDED, "{}", status.message);
        let text = format!("checkpoint: no end within {SHORT} s path= ");
        assert!(status.message.contains(&text), "{}", status.message);
        assert!(!bundle.join("work/criu-work").exists());
        // It is what it was.
        let state = call!(shim, state, shim.state_request("")).unwrap();
        if paused {
            assert_eq!(state.status(), State::Paused);
            call!(shim, resume, ResumeRequest { id: one() }).unwrap();
        } else {
            assert_eq!(state.status(), State::Running);
        }
        assert_eq!(shim.exec_to_end(shim.exec_request("x", &["true"])).await, 0);
        assert_eq!(shim.remove().await.exit_status, 137);
        let topics = world.wait_for_events(if paused { 9 } else { 7 }).await;
        assert!(!topics.iter().any(|topic| topic == "/tasks/checkpointed"), "{topics:?}");
        // Also of the wrapper's own children, none is left.
        world.end(shim).await;
    }
}
