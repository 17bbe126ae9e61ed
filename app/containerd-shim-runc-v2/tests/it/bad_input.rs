//! Requests that make no sense, and surroundings that fall apart: clear errors, nothing left.

use std::fs;
use std::io::Write;

use api_shim::task::*;
use api_shim::{Any, linux_runc, runc, typeurl};
use api_ttrpc::code;
use serde_json::json;

use crate::world::{NAMESPACE, World, call};

/// The longest identifier.
const LONGEST: usize = 76;

#[tokio::test]
async fn ids_have_limits() {
    let world = World::new().await;
    let id = "a".repeat(LONGEST);
    let bundle = world.bundle(&id, &["sleep", "1000"]);
    let shim = world.start(&bundle, &id).await;
    let good = world.create(&shim);
    for id in ["b".repeat(LONGEST + 1), String::new(), "a/b".to_owned(), "..".to_owned()] {
        let status = call!(shim, create, CreateTaskRequest { id, ..good.clone() }).unwrap_err();
        assert_eq!(status.code, code::INVALID_ARGUMENT, "{}", status.message);
    }
    shim.run(good).await;
    for id in ["b".repeat(LONGEST + 1), String::new(), "../x".to_owned(), ".".to_owned()] {
        let status = call!(shim, exec, shim.exec_request(&id, &["true"])).unwrap_err();
        assert_eq!(status.code, code::INVALID_ARGUMENT, "{}", status.message);
    }
    assert_eq!(shim.exec_to_end(shim.exec_request(&id, &["true"])).await, 0);
    // The file of the init process's pid is not an exec's.
    let before = fs::read_to_string(bundle.join("init.pid")).unwrap();
    assert_eq!(shim.exec_to_end(shim.exec_request("init", &["true"])).await, 0);
    assert_eq!(fs::read_to_string(bundle.join("init.pid")).unwrap(), before);
    shim.remove().await;
    world.end(shim).await;
}

#[tokio::test]
async fn specs_and_options_that_are_none() {
    let world = World::new().await;
    let bundle = world.bundle("one", &["sleep", "1000"]);
    let shim = world.start(&bundle, "one").await;
    let good = || world.create(&shim);
    let foreign = || Some(Any { type_url: "kata.v1.Options".to_owned(), value: vec![1, 2] });
    let damaged = Any { value: vec![0xff; 9], ..typeurl::encode(&runc::Options::default()) };
    for options in [foreign(), Some(damaged)] {
        let status = call!(shim, create, CreateTaskRequest { options, ..good() }).unwrap_err();
        assert_eq!(status.code, code::INVALID_ARGUMENT, "{}", status.message);
    }
    let above = bundle.parent().unwrap().join("one/../one").to_str().unwrap().to_owned();
    let status = call!(shim, create, CreateTaskRequest { bundle: above, ..good() }).unwrap_err();
    assert_eq!(status.code, code::INVALID_ARGUMENT, "{}", status.message);
    let whole = fs::read_to_string(bundle.join("config.json")).unwrap();
    for spec in ["{", "[]", "{\"ociVersion\":\"1.0.2\"}"] {
        fs::write(bundle.join("config.json"), spec).unwrap();
        let status = call!(shim, create, good()).unwrap_err();
        assert!(status.message.starts_with("OCI runtime create failed: "), "{}", status.message);
    }
    fs::write(bundle.join("config.json"), whole).unwrap();

    // What clients of 1.0 send.
    let old = linux_runc::RuncOptions {
        runtime: "runc".to_owned(),
        runtime_root: world.path("runc").to_str().unwrap().to_owned(),
        ..Default::default()
    };
    shim.run(CreateTaskRequest { options: Some(typeurl::encode(&old)), ..good() }).await;
    let checkpoint = |options| CheckpointTaskRequest {
        id: "one".to_owned(),
        path: world.path("image").to_str().unwrap().to_owned(),
        options,
    };
    let status = call!(shim, checkpoint, checkpoint(foreign())).unwrap_err();
    assert_eq!(status.code, code::INVALID_ARGUMENT, "{}", status.message);

    let with = |spec: Option<Any>| ExecProcessRequest { spec, ..shim.exec_request("x", &[]) };
    let process = |json: &str| Some(typeurl::encode_json(typeurl::PROCESS, json));
    for spec in [None, process(""), process("[1]"), process("{\"args\":")] {
        let status = call!(shim, exec, with(spec)).unwrap_err();
        assert_eq!(status.code, code::INVALID_ARGUMENT, "{}", status.message);
    }
    // One without arguments is the runtime's to refuse.
    call!(shim, exec, with(process("{\"cwd\":\"/\"}"))).unwrap();
    let status = call!(shim, start, shim.start_request("x")).unwrap_err();
    assert!(status.message.starts_with("OCI runtime exec failed: "), "{}", status.message);
    call!(shim, delete, shim.delete_request("x")).unwrap();

    for signal in [65, u32::MAX] {
        call!(shim, kill, shim.kill_request(signal)).unwrap_err();
    }
    let resources = Some(typeurl::encode_json(typeurl::LINUX_RESOURCES, b"{".to_vec()));
    let update = UpdateTaskRequest { id: "one".to_owned(), resources, ..Default::default() };
    assert_eq!(call!(shim, update, update).unwrap_err().code, code::INVALID_ARGUMENT);
    shim.remove().await;
    world.end(shim).await;
}

/// Ten megabytes in pieces that each could be a variable.
fn large_environment() -> Vec<String> {
    (0..160).map(|number| format!("V{number}={}", "x".repeat(64 << 10))).collect()
}

#[tokio::test]
async fn an_environment_that_is_far_too_large() {
    let world = World::new().await;
    let bundle = world.bundle("one", &["sleep", "1000"]);
    let shim = world.start(&bundle, "one").await;
    shim.run(world.create(&shim)).await;
    let process = json!({"args": ["true"], "env": large_environment(), "cwd": "/"}).to_string();
    let spec = Some(typeurl::encode_json(typeurl::PROCESS, process.into_bytes()));
    let exec = ExecProcessRequest { spec, ..shim.exec_request("x", &[]) };
    // It is longer than any message.
    assert_eq!(call!(shim, exec, exec).unwrap_err().code, code::RESOURCE_EXHAUSTED);
    // One that is a message, and still too much for the kernel.
    let part = &large_environment()[..48];
    let process = json!({"args": ["true"], "env": part, "cwd": "/"}).to_string();
    let spec = Some(typeurl::encode_json(typeurl::PROCESS, process.into_bytes()));
    call!(shim, exec, ExecProcessRequest { spec, ..shim.exec_request("x", &[]) }).unwrap();
    match call!(shim, start, shim.start_request("x")) {
        Ok(_) => {
            let end = call!(shim, wait, shim.wait_request("x")).unwrap();
            assert_ne!(end.exit_status, 0);
        }
        Err(status) => {
            assert!(status.message.starts_with("OCI runtime exec failed: "), "{}", status.message);
        }
    }
    call!(shim, delete, shim.delete_request("x")).unwrap();
    shim.remove().await;

    let second = world.bundle_with("two", &["true"], |spec| {
        spec["process"]["env"] = json!(large_environment());
    });
    let request = CreateTaskRequest {
        id: "two".to_owned(),
        bundle: second.to_str().unwrap().to_owned(),
        ..world.create(&shim)
    };
    let two = || "two".to_owned();
    if call!(shim, create, request).is_ok() {
        let start = StartRequest { id: two(), exec_id: String::new() };
        if call!(shim, start, start).is_ok() {
            let wait = WaitRequest { id: two(), exec_id: String::new() };
            assert_ne!(call!(shim, wait, wait).unwrap().exit_status, 0);
        }
        let delete = DeleteRequest { id: two(), exec_id: String::new() };
        call!(shim, delete, delete).unwrap();
    }
    world.end(shim).await;
}

#[tokio::test]
async fn a_bundle_that_vanishes_under_a_running_task() {
    let world = World::new().await;
    let image = world.path("image");
    let bundle = world.bundle_with("one", &["sleep", "1000"], |spec| {
        spec["root"]["path"] = image.to_str().unwrap().into();
    });
    let shim = world.start(&bundle, "one").await;
    shim.run(CreateTaskRequest { rootfs: Vec::new(), ..world.create(&shim) }).await;
    fs::remove_dir_all(&bundle).unwrap();
    let state = call!(shim, state, shim.state_request("")).unwrap();
    assert_eq!(state.status(), api_shim::process::Status::Running);
    call!(shim, exec, shim.exec_request("x", &["true"])).unwrap();
    let status = call!(shim, start, shim.start_request("x")).unwrap_err();
    assert!(status.message.contains("no such file or directory"), "{}", status.message);
    call!(shim, delete, shim.delete_request("x")).unwrap();
    call!(shim, pause, PauseRequest { id: "one".to_owned() }).unwrap();
    call!(shim, resume, ResumeRequest { id: "one".to_owned() }).unwrap();
    assert_eq!(shim.remove().await.exit_status, 137);
    let topics = world.wait_for_events(7).await;
    assert_eq!(topics.last().unwrap(), "/tasks/delete", "{topics:?}");
    world.end(shim).await;
}

#[tokio::test]
async fn a_full_file_system_of_bundles() {
    let mut world = World::new().await;
    let image = world.path("image");
    let bundle = world.bundle_with("one", &["sh", "-c", "sleep 1000; exit 1"], |spec| {
        spec["root"]["path"] = image.to_str().unwrap().into();
    });
    // The shim sees a small file system in place of the bundle's folder.
    let (here, copy) = (bundle.display().to_string(), world.path("copy").display().to_string());
    world.prelude = format!(
        "cp -a '{here}' '{copy}'; mount -t tmpfs -o size=64k tmpfs '{here}'; \
         cp -a '{copy}'/. '{here}'; cd '{here}'"
    );
    let shim = {
        let mut command = world.command(&bundle, "one", &["start"]);
        command.env("MAX_SHIM_VERSION", "2");
        let output = crate::world::run(command, b"");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let address = String::from_utf8(output.stdout).unwrap();
        crate::world::Shim::connect(&address, "one", &bundle).await
    };
    shim.run(CreateTaskRequest { rootfs: Vec::new(), ..world.create(&shim) }).await;
    let inside = std::path::PathBuf::from(format!("/proc/{}/root{here}", shim.pid));
    let mut filler = fs::File::create(inside.join("filler")).unwrap();
    while filler.write_all(&[0; 512]).is_ok() {}

    call!(shim, exec, shim.exec_request("x", &["true"])).unwrap();
    let status = call!(shim, start, shim.start_request("x")).unwrap_err();
    assert!(status.message.contains("no space left on device"), "{}", status.message);
    call!(shim, delete, shim.delete_request("x")).unwrap();
    call!(shim, kill, shim.kill_request(9)).unwrap();
    assert_eq!(call!(shim, wait, shim.wait_request("")).unwrap().exit_status, 137);
    // There was room for the record all the same.
    let record = fs::read_to_string(inside.join("exit-status")).unwrap();
    assert!(record.contains("\"exit_status\":137"), "{record}");
    call!(shim, delete, shim.delete_request("")).unwrap();
    world.end(shim).await;
    assert!(!world.path("runc").join(NAMESPACE).join("one").exists());
}
