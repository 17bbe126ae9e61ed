//! Starting in each dialect, sharing, and cleaning up after a dead shim.

use std::fs;
use std::path::PathBuf;

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
    let process = rustix::process::Pid::from_raw(shim.pid).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
    let dead = PathBuf::from(format!("/proc/{}/cmdline", shim.pid));
    crate::world::eventually("the shim's death", || {
        fs::read(&dead).map_or(true, |line| line.is_empty())
    })
    .await;

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
    let process = rustix::process::Pid::from_raw(shim.pid).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
    let dead = PathBuf::from(format!("/proc/{}/cmdline", shim.pid));
    crate::world::eventually("the shim's death", || {
        fs::read(&dead).map_or(true, |line| line.is_empty())
    })
    .await;
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
async fn a_sandbox_is_the_shim_itself() {
    use api_shim::sandbox::*;
    let world = World::new().await;
    let bundle = world.path("pod");
    fs::create_dir(&bundle).unwrap();
    // A sandbox has no spec.
    let shim = world.start(&bundle, "pod").await;
    let client = SandboxClient::new(shim.client.client().clone());
    let (options, sandbox_id) = (crate::world::options(), || "pod".to_owned());
    let status = SandboxStatusRequest { sandbox_id: sandbox_id(), verbose: false };
    assert_eq!(client.sandbox_status(&options, &status).await.unwrap_err().code, 5);
    let create = CreateSandboxRequest { sandbox_id: sandbox_id(), ..Default::default() };
    client.create_sandbox(&options, &create).await.unwrap();
    assert_eq!(client.sandbox_status(&options, &status).await.unwrap().state, "SANDBOX_NOTREADY");
    let start = StartSandboxRequest { sandbox_id: sandbox_id() };
    let started = client.start_sandbox(&options, &start).await.unwrap();
    assert_eq!(i32::try_from(started.pid).unwrap(), shim.pid);
    assert_eq!(client.sandbox_status(&options, &status).await.unwrap().state, "SANDBOX_READY");
    let platform = PlatformRequest { sandbox_id: sandbox_id() };
    let platform = client.platform(&options, &platform).await.unwrap().platform.unwrap();
    assert_eq!(platform.os, "linux");
    let stop = StopSandboxRequest { sandbox_id: sandbox_id(), timeout_secs: 1 };
    client.stop_sandbox(&options, &stop).await.unwrap();
    let wait = WaitSandboxRequest { sandbox_id: sandbox_id() };
    assert!(client.wait_sandbox(&options, &wait).await.unwrap().exited_at.is_some());
    let shutdown = ShutdownSandboxRequest { sandbox_id: sandbox_id() };
    let _ = client.shutdown_sandbox(&options, &shutdown).await;
    world.gone(&shim).await;
}
