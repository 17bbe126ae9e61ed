//! Runtimes that fail, at every stage: the error is clear, and nothing is left.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use api_shim::process::Status as State;
use api_shim::task::*;
use api_shim::typeurl;
use api_ttrpc::code;

use crate::world::{Shim, World, call};

/// A runtime that fails at one command, before or after it has done its work.
fn failing(world: &World, stage: &str, after: bool) -> String {
    let path = world.path(&format!("runtime-{stage}-{after}"));
    let run = if after { "runc \"$@\" || exit 1; " } else { "" };
    let script = format!(
        "#!/bin/sh\nfor word in \"$@\"; do case $word in\n{stage}) {run}echo no {stage} today >&2; exit 3;;\n\
         esac; done\nexec runc \"$@\"\n"
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
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
    let runtime = failing(&world, stage, after);
    let mut request = world.create(&shim);
    request.options = Some(world.options(&runtime));
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
        let one = PidsRequest { id: "one".to_owned() };
        loop {
            let left = call!(shim, pids, one.clone()).unwrap().processes.len();
            if left == 1 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
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
        fs::write(runtime, "#!/bin/sh\nexec runc \"$@\"\n").unwrap();
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
    let runtime = failing(&world, stage, after);
    let mut request = world.create(&shim);
    request.options = Some(world.options(&runtime));
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
    fs::write(runtime, "#!/bin/sh\nexec runc \"$@\"\n").unwrap();
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
    // A wrapper that runs another program, which hangs.
    let runtime = world.path("runtime");
    let script = format!(
        "#!/bin/sh\nfor word in \"$@\"; do case $word in\n{stage}) sh -c 'sleep 1000; exit'; exit 0;;\n\
         esac; done\nexec runc \"$@\"\n"
    );
    fs::write(&runtime, script).unwrap();
    fs::set_permissions(&runtime, fs::Permissions::from_mode(0o755)).unwrap();
    let hangs = |result: Result<(), api_ttrpc::Status>| {
        let status = result.unwrap_err();
        assert_eq!(status.code, code::DEADLINE_EXCEEDED, "{stage}: {}", status.message);
        let text = format!("{stage}: no end within {LIMIT} s: context deadline exceeded");
        assert!(status.message.ends_with(&text), "{stage}: {}", status.message);
    };
    let mut request = world.create(&shim);
    request.options = Some(world.options(runtime.to_str().unwrap()));
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
        fs::write(&runtime, "#!/bin/sh\nexec runc \"$@\"\n").unwrap();
    }
    call!(shim, kill, shim.kill_request(9)).unwrap();
    call!(shim, wait, shim.wait_request("")).unwrap();
    let deleted = call!(shim, delete, shim.delete_request("")).map(drop);
    if stage == "delete" {
        hangs(deleted);
        fs::write(runtime, "#!/bin/sh\nexec runc \"$@\"\n").unwrap();
        call!(shim, delete, shim.delete_request("")).unwrap();
    } else {
        deleted.unwrap();
    }
    world.end(shim).await;
}
