//! Runtimes that fail, at every stage: the error is clear, and nothing is left.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use api_shim::task::*;
use api_ttrpc::code;

use crate::world::{World, call};

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
    for stage in ["start", "exec", "pause", "delete"] {
        let world = World::new().await;
        let bundle = world.bundle("one", &["sleep", "1000"]);
        let shim = world.start(&bundle, "one").await;
        let mut request = world.create(&shim);
        request.options = Some(world.options(&failing(&world, stage, false)));
        call!(shim, create, request).unwrap();
        let started = call!(shim, start, shim.start_request(""));
        if stage == "start" {
            let status = started.unwrap_err();
            assert!(status.message.starts_with("OCI runtime start failed: "), "{}", status.message);
        } else {
            started.unwrap();
        }
        if stage == "exec" {
            call!(shim, exec, shim.exec_request("x", &["true"])).unwrap();
            let status = call!(shim, start, shim.start_request("x")).unwrap_err();
            assert!(status.message.starts_with("OCI runtime exec failed: "), "{}", status.message);
            call!(shim, wait, shim.wait_request("x")).unwrap();
            call!(shim, delete, shim.delete_request("x")).unwrap();
        }
        if stage == "pause" {
            let pause = PauseRequest { id: "one".to_owned() };
            let status = call!(shim, pause, pause).unwrap_err();
            assert!(status.message.starts_with("OCI runtime pause failed: "), "{}", status.message);
        }
        call!(shim, kill, shim.kill_request(9)).unwrap();
        call!(shim, wait, shim.wait_request("")).unwrap();
        let deleted = call!(shim, delete, shim.delete_request(""));
        if stage == "delete" {
            let status = deleted.unwrap_err();
            assert!(status.message.contains("failed to delete task"), "{}", status.message);
            // The runtime is well again: the same call succeeds.
            fs::write(world.path("runtime-delete-false"), "#!/bin/sh\nexec runc \"$@\"\n").unwrap();
            call!(shim, delete, shim.delete_request("")).unwrap();
        } else {
            deleted.unwrap();
        }
        world.end(shim).await;
    }
}
