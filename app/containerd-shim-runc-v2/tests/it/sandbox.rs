//! The sandbox service.

use std::fs;

use api_shim::sandbox::*;
use api_shim::task::*;
use api_shim::{cgroups, typeurl};

use crate::world::{World, call, options, soon};

fn sandbox_id() -> String {
    "pod".to_owned()
}

#[tokio::test]
async fn a_sandbox_is_the_shim_itself() {
    let world = World::new().await;
    let bundle = world.path("pod");
    fs::create_dir(&bundle).unwrap();
    // A sandbox has no spec.
    let shim = world.start(&bundle, "pod").await;
    let client = SandboxClient::new(shim.client.client().clone());
    let options = options();
    let status = SandboxStatusRequest { sandbox_id: sandbox_id(), verbose: false };
    assert_eq!(client.sandbox_status(&options, &status).await.unwrap_err().code, 5);
    let create = CreateSandboxRequest { sandbox_id: sandbox_id(), ..Default::default() };
    client.create_sandbox(&options, &create).await.unwrap();
    assert_eq!(client.create_sandbox(&options, &create).await.unwrap_err().code, 6);
    assert_eq!(client.sandbox_status(&options, &status).await.unwrap().state, "SANDBOX_NOTREADY");
    let start = StartSandboxRequest { sandbox_id: sandbox_id() };
    let started = client.start_sandbox(&options, &start).await.unwrap();
    assert_eq!(i32::try_from(started.pid).unwrap(), shim.pid);
    assert_eq!(client.start_sandbox(&options, &start).await.unwrap_err().code, 6);
    assert_eq!(client.sandbox_status(&options, &status).await.unwrap().state, "SANDBOX_READY");
    let platform = PlatformRequest { sandbox_id: sandbox_id() };
    let platform = client.platform(&options, &platform).await.unwrap().platform.unwrap();
    assert_eq!(platform.os, "linux");
    client.ping_sandbox(&options, &PingRequest { sandbox_id: sandbox_id() }).await.unwrap();
    let metrics = SandboxMetricsRequest { sandbox_id: sandbox_id() };
    assert!(client.sandbox_metrics(&options, &metrics).await.unwrap().metrics.is_none());
    // The task service does not end a shim that holds a sandbox.
    call!(shim, shutdown, ShutdownRequest { id: "pod".to_owned(), now: false }).unwrap();
    let stop = StopSandboxRequest { sandbox_id: sandbox_id(), timeout_secs: 1 };
    client.stop_sandbox(&options, &stop).await.unwrap();
    let wait = WaitSandboxRequest { sandbox_id: sandbox_id() };
    assert!(client.wait_sandbox(&options, &wait).await.unwrap().exited_at.is_some());
    let shutdown = ShutdownSandboxRequest { sandbox_id: sandbox_id() };
    let _ = client.shutdown_sandbox(&options, &shutdown).await;
    world.gone(&shim).await;
}

#[tokio::test]
async fn a_sandbox_takes_its_containers_with_it() {
    let world = World::new().await;
    let bundle = world.path("pod");
    fs::create_dir(&bundle).unwrap();
    let shim = world.start(&bundle, "pod").await;
    let client = SandboxClient::new(shim.client.client().clone());
    let options = options();
    let create = CreateSandboxRequest { sandbox_id: sandbox_id(), ..Default::default() };
    client.create_sandbox(&options, &create).await.unwrap();
    let start = StartSandboxRequest { sandbox_id: sandbox_id() };
    client.start_sandbox(&options, &start).await.unwrap();
    // Containers come through the same address, as a daemon of today makes them.
    for id in ["one", "two"] {
        let bundle = world.bundle(id, &["sleep", "1000"]);
        let request = CreateTaskRequest {
            id: id.to_owned(),
            bundle: bundle.to_str().unwrap().to_owned(),
            ..world.create(&shim)
        };
        call!(shim, create, request).unwrap();
        call!(shim, start, StartRequest { id: id.to_owned(), exec_id: String::new() }).unwrap();
    }
    let metrics = SandboxMetricsRequest { sandbox_id: sandbox_id() };
    // The threads of the runtime's init end when it becomes the program.
    soon("the numbers of both together", async || {
        let metric = client.sandbox_metrics(&options, &metrics).await.unwrap().metrics.unwrap();
        assert_eq!(metric.id, "pod");
        let data = metric.data.unwrap();
        let pids = if typeurl::is::<cgroups::v1::Metrics>(&data) {
            typeurl::decode::<cgroups::v1::Metrics>(&data).unwrap().pids.unwrap().current
        } else {
            typeurl::decode::<cgroups::v2::Metrics>(&data).unwrap().pids.unwrap().current
        };
        pids == 2
    })
    .await;
    let stop = StopSandboxRequest { sandbox_id: sandbox_id(), timeout_secs: 30 };
    client.stop_sandbox(&options, &stop).await.unwrap();
    for id in ["one", "two"] {
        let state = StateRequest { id: id.to_owned(), exec_id: String::new() };
        assert_eq!(call!(shim, state, state).unwrap().exit_status, 137);
    }
    let shutdown = ShutdownSandboxRequest { sandbox_id: sandbox_id() };
    let _ = client.shutdown_sandbox(&options, &shutdown).await;
    world.gone(&shim).await;
    let topics = world.topics();
    let count = |topic: &str| topics.iter().filter(|one| *one == topic).count();
    assert_eq!((count("/tasks/exit"), count("/tasks/delete")), (2, 2), "{topics:?}");
}
