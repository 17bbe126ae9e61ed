//! Starting in each dialect, sharing, and cleaning up after a dead shim.

use std::fs;

use api_shim::Message;
use api_shim::task::*;
use api_shim::types::RuntimeInfo;

use crate::world::{Shim, World, call, run};

#[tokio::test]
async fn an_old_daemon_reads_the_bare_address() {
    let world = World::new().await;
    let bundle = world.bundle("one", &["true"]);
    let output = run(world.command(&bundle, "one", &["start"]), b"");
    assert!(output.status.success());
    assert!(output.stderr.is_empty());
    let address = String::from_utf8(output.stdout).unwrap();
    assert!(address.starts_with("unix:///run/containerd/s/"), "{address}");
    assert_eq!(fs::read_to_string(bundle.join("address")).unwrap(), address);
    let shim = Shim::connect(&address, "one", &bundle).await;
    let version_2 = TaskClient::with_service(shim.client.client().clone(), SERVICE_V2);
    let request = ConnectRequest { id: "one".to_owned() };
    let answer = version_2.connect(&crate::world::options(), &request).await.unwrap();
    assert_eq!(i32::try_from(answer.shim_pid).unwrap(), shim.pid);
    world.end(shim).await;
}

#[tokio::test]
async fn containers_of_a_group_share_a_shim() {
    let world = World::new().await;
    let group = |spec: &mut serde_json::Value| {
        spec["annotations"] = serde_json::json!({"io.kubernetes.cri.sandbox-id": "pod"});
    };
    let first = world.bundle_with("one", &["sleep", "1000"], group);
    let second = world.bundle_with("two", &["sleep", "1000"], group);
    let one = world.start(&first, "one").await;
    let two = world.start(&second, "two").await;
    assert_eq!((one.pid, &one.socket), (two.pid, &two.socket));
    for shim in [&one, &two] {
        call!(shim, create, world.create(shim)).unwrap();
        call!(shim, start, shim.start_request("")).unwrap();
    }
    one.remove().await;
    // The shim stays as long as it has a container.
    call!(one, shutdown, ShutdownRequest { id: "one".to_owned(), now: false }).unwrap();
    call!(two, state, two.state_request("")).unwrap();
    two.remove().await;
    world.end(two).await;
}

#[tokio::test]
async fn delete_cleans_up_after_a_dead_shim() {
    let world = World::new().await;
    let bundle = world.bundle("one", &["sleep", "1000"]);
    let shim = world.start(&bundle, "one").await;
    let pid = call!(shim, create, world.create(&shim)).unwrap().pid;
    call!(shim, start, shim.start_request("")).unwrap();
    world.murder(&shim).await;

    let command = world.command(&bundle, "one", &["-bundle", bundle.to_str().unwrap(), "delete"]);
    let output = run(command, b"");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answer = DeleteResponse::decode(&*output.stdout).unwrap();
    assert_eq!((answer.exit_status, answer.pid), (137, pid));
    world.gone(&shim).await;
    // Again, when there is nothing left to do.
    let command = world.command(&bundle, "one", &["-bundle", bundle.to_str().unwrap(), "delete"]);
    assert!(run(command, b"").status.success());
}

#[tokio::test]
async fn delete_knows_how_the_container_ended() {
    let world = World::new().await;
    let bundle = world.bundle("one", &["sh", "-c", "exit 9"]);
    let shim = world.start(&bundle, "one").await;
    call!(shim, create, world.create(&shim)).unwrap();
    call!(shim, start, shim.start_request("")).unwrap();
    let end = call!(shim, wait, shim.wait_request("")).unwrap();
    world.murder(&shim).await;
    let command = world.command(&bundle, "one", &["-bundle", bundle.to_str().unwrap(), "delete"]);
    let answer = DeleteResponse::decode(&*run(command, b"").stdout).unwrap();
    assert_eq!((answer.exit_status, answer.exited_at), (9, end.exited_at));
    world.gone(&shim).await;
}

#[tokio::test]
async fn a_shim_tells_what_it_is() {
    let world = World::new().await;
    let command = world.command(world.folder.path(), "x", &["-v"]);
    let text = String::from_utf8(run(command, b"").stdout).unwrap();
    assert!(text.starts_with("containerd-shim-runc-v2:\n  Version:  "), "{text}");
    let command = world.command(world.folder.path(), "x", &["-info"]);
    let info = RuntimeInfo::decode(&*run(command, b"").stdout).unwrap();
    assert_eq!(info.name, "io.containerd.runc.v2");
    assert!(!info.version.unwrap().version.is_empty());
    let command = world.command(world.folder.path(), "x", &["stop"]);
    let output = run(command, b"");
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("unknown command \"stop\""));
}

#[tokio::test]
async fn a_daemon_of_version_3_gets_json() {
    let world = World::new().await;
    let bundle = world.bundle_with("one", &["true"], |spec| {
        spec["annotations"] = serde_json::json!({"io.containerd.runc.v2.group": "g"});
    });
    let mut command = world.command(&bundle, "one", &["start"]);
    command.env("MAX_SHIM_VERSION", "3");
    let options = world.options("").encode_to_vec();
    let output = run(command, &options);
    assert!(output.status.success());
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&answer["version"], &answer["protocol"]), (&3.into(), &"ttrpc".into()));
    let shim = Shim::connect(answer["address"].as_str().unwrap(), "one", &bundle).await;
    // Another member of the group is led to the same shim, in the dialect that it speaks.
    let second = world.bundle_with("two", &["true"], |spec| {
        spec["annotations"] = serde_json::json!({"io.containerd.runc.v2.group": "g"});
    });
    let output = run(world.command(&second, "two", &["start"]), b"");
    assert_eq!(output.stdout, answer["address"].as_str().unwrap().as_bytes());
    world.end(shim).await;
}

#[tokio::test]
async fn starts_that_cannot_be_are_told_and_leave_nothing() {
    let world = World::new().await;
    let bundle = world.bundle("one", &["true"]);
    let refused = |command, text: &str| {
        let output = run(command, b"");
        assert!(!output.status.success());
        assert!(output.stdout.is_empty());
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(told.contains(text), "{told}");
    };
    fs::write(bundle.join("config.json"), "{").unwrap();
    refused(world.command(&bundle, "one", &["start"]), "config.json");
    let empty = world.bundle("two", &["true"]);
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_containerd-shim-runc-v2"));
    command.args(["-id", "two", "start"]).current_dir(&empty);
    refused(command, "shim namespace cannot be empty");
    world.nothing_left();
}
