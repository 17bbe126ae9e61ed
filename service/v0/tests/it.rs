//! The API without a shim: what it answers when there is nothing, and what a real 0.2 has left.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use api_grpc::v0;
use api_grpc::v0::api_server::Api as Service;
use api_shim::Timestamp;
use base_ident::Namespace;
use futures_util::StreamExt as _;
use runtime_event::Exchange;
use runtime_supervisor::{Config as SupervisorConfig, NoContainers, Supervisor};
use service_v0::{Api, Config, EventLog, Kind, Parts};
use store_metadata::Metadata;
use tonic::{Code, Request};

/// An API over folders of its own.
struct World {
    folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        World { folder: tempfile::tempdir_in("/dev/shm").unwrap() }
    }

    fn state_dir(&self) -> PathBuf {
        self.folder.path().join("v0")
    }

    /// The API, as after a start of the daemon.
    async fn start(&self) -> Api {
        let path = self.folder.path();
        let exchange = Exchange::new();
        let supervisor = Supervisor::new(
            SupervisorConfig::new(path.join("root"), path.join("state"), "g", "t"),
            exchange.clone(),
            std::sync::Arc::new(NoContainers),
        )
        .unwrap();
        let metadata =
            Metadata::open(path.join("meta.db"), store_metadata::Options::default()).unwrap();
        let config = Config::new(Namespace::new("v0").unwrap(), self.state_dir(), path.join("own"));
        let adoption = supervisor.adopt_all();
        let api = Api::new(config, Parts { supervisor, metadata, exchange }).unwrap();
        api.restore();
        adoption.await;
        api
    }

    /// A container as 0.2 leaves it.
    fn leave(&self, id: &str, processes: &[(&str, &[(&str, &str)])]) {
        let folder = self.state_dir().join(id);
        fs::create_dir_all(&folder).unwrap();
        let state = r#"{"bundle":"/no/such/bundle","labels":["a=b"],"stdin":"/dev/null",
            "stdout":"/dev/null","stderr":"/dev/null","runtime":"true","runtimeArgs":null,
            "shim":"containerd-shim","noPivotRoot":false}"#;
        fs::write(folder.join("state.json"), state).unwrap();
        for (name, files) in processes {
            let process = folder.join(name);
            fs::create_dir_all(&process).unwrap();
            fs::write(process.join("process.json"), r#"{"args":["x"],"exec":true}"#).unwrap();
            for (file, text) in *files {
                fs::write(process.join(file), text).unwrap();
            }
        }
    }
}

async fn stored(api: &Api, id: &str) -> Vec<(String, String, String, u32)> {
    let request = v0::EventsRequest {
        timestamp: Some(Timestamp { seconds: 1, nanos: 0 }),
        stored_only: true,
        id: id.to_owned(),
    };
    let events = api.events(Request::new(request)).await.unwrap().into_inner();
    events
        .map(|event| event.unwrap())
        .map(|event| (event.r#type, event.id, event.pid, event.status))
        .collect()
        .await
}

/// Waits until all containers that were found are cleaned up.
async fn settled(world: &World, api: &Api) {
    for _ in 0..500 {
        let state = api.state(Request::new(v0::StateRequest::default())).await.unwrap();
        let left = fs::read_dir(world.state_dir())
            .map_or(0, |entries| entries.flatten().filter(|entry| entry.path().is_dir()).count());
        if state.into_inner().containers.is_empty() && left == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("containers are left in {}", world.state_dir().display());
}

#[tokio::test]
async fn an_empty_daemon_answers_as_0_2_does() {
    let world = World::new();
    let api = world.start().await;
    let version = api.get_server_version(Request::new(v0::GetServerVersionRequest {})).await;
    let version = version.unwrap().into_inner();
    assert_eq!((version.major, version.minor, version.patch), (0, 2, 3));
    let state = api.state(Request::new(v0::StateRequest::default())).await.unwrap().into_inner();
    assert!(state.containers.is_empty() && state.machine.unwrap().memory > 0);

    let id = || "none".to_owned();
    let not_found = "containerd: container not found";
    let check = |status: tonic::Status, code: Code, text: &str| {
        assert_eq!((status.code(), status.message()), (code, text));
    };
    let state = v0::StateRequest { id: id() };
    check(api.state(Request::new(state)).await.unwrap_err(), Code::Unknown, not_found);
    let signal = v0::SignalRequest { id: id(), pid: "init".to_owned(), signal: 9 };
    check(api.signal(Request::new(signal)).await.unwrap_err(), Code::Unknown, not_found);
    let stats = v0::StatsRequest { id: id() };
    check(api.stats(Request::new(stats)).await.unwrap_err(), Code::Unknown, not_found);
    let update = v0::UpdateContainerRequest { id: id(), ..Default::default() };
    check(api.update_container(Request::new(update)).await.unwrap_err(), Code::Unknown, not_found);
    let add = v0::AddProcessRequest { id: id(), pid: "e".to_owned(), ..Default::default() };
    check(api.add_process(Request::new(add)).await.unwrap_err(), Code::Unknown, not_found);
    let add = v0::AddProcessRequest { id: id(), ..Default::default() };
    let text = "process id cannot be empty";
    check(api.add_process(Request::new(add)).await.unwrap_err(), Code::Unknown, text);
    let list = v0::ListCheckpointRequest { id: id(), ..Default::default() };
    let text = "no such containers";
    check(api.list_checkpoint(Request::new(list)).await.unwrap_err(), Code::NotFound, text);
    let create = v0::CreateContainerRequest { id: id(), ..Default::default() };
    let text = "empty bundle path";
    check(api.create_container(Request::new(create)).await.unwrap_err(), Code::Unknown, text);
}

#[tokio::test]
async fn starts_that_fail_leave_nothing_and_tell_nobody() {
    let world = World::new();
    let api = world.start().await;
    let root = world.state_dir().display().to_string();
    let missing = world.folder.path().join("missing");
    let create = |id: &str, runtime: &str| {
        Request::new(v0::CreateContainerRequest {
            id: id.to_owned(),
            bundle_path: missing.display().to_string(),
            runtime: runtime.to_owned(),
            ..Default::default()
        })
    };
    let status = api.create_container(create("a", "")).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    let config = missing.join("config.json");
    let text = format!("open {}: no such file or directory", config.display());
    assert_eq!(status.message(), text);
    for (id, text) in [
        ("", format!("mkdir {root}: file exists")),
        ("..", format!("mkdir {}: file exists", world.folder.path().display())),
        ("a/b", format!("mkdir {root}/a/b: no such file or directory")),
    ] {
        let status = api.create_container(create(id, "")).await.unwrap_err();
        assert_eq!(status.message(), text);
    }
    fs::create_dir(&missing).unwrap();
    fs::write(&config, r#"{"process":{"args":["a"]}}"#).unwrap();
    let status = api.create_container(create("a", "no-such-runtime")).await.unwrap_err();
    let text = "shim error: no-such-runtime not installed on system";
    assert_eq!((status.code(), status.message()), (Code::Unknown, text));
    // The shim's program is not there either.
    fs::write(&config, "not json").unwrap();
    api.create_container(create("a", "true")).await.unwrap_err();
    assert!(stored(&api, "").await.is_empty());
    settled(&world, &api).await;
}

#[tokio::test]
async fn containers_of_a_real_0_2_are_reported_and_cleaned() {
    let world = World::new();
    // One that still runs below a shim that nobody here can speak to; it has no parent to reap it
    // but this test.
    let mut sleeping = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
    let pid = sleeping.id();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let start = stat.rsplit_once(") ").unwrap().1.split(' ').nth(19).unwrap().to_owned();
    let reaper = std::thread::spawn(move || sleeping.wait().unwrap());
    world.leave("ended", &[("init", &[("exitStatus", "3")]), ("e1", &[("exitStatus", "300")])]);
    // Its pid is another's by now.
    let other = std::process::id().to_string();
    world.leave("lost", &[("init", &[("pid", &other), ("starttime", "1")])]);
    world.leave("running", &[("init", &[("pid", &pid.to_string()), ("starttime", &start)])]);
    world.leave("odd", &[("init", &[("pid", "many"), ("exitStatus", "")])]);
    fs::write(world.state_dir().join("odd/init/process.json"), "{").unwrap();
    // Not 0.2's, and not ours to remove.
    fs::create_dir(world.state_dir().join("fifo")).unwrap();
    fs::remove_dir(world.state_dir().join("fifo")).unwrap();
    fs::write(
        world.state_dir().join("events.log"),
        "{\"id\":\"x\",\"type\":\"exit\",\
        \"timestamp\":\"2017-01-01T00:00:00Z\",\"pid\":\"init\",\"status\":9}\n",
    )
    .unwrap();
    let api = world.start().await;
    settled(&world, &api).await;
    let exit = |id: &str, pid: &str, status: u32| {
        ("exit".to_owned(), id.to_owned(), pid.to_owned(), status)
    };
    assert_eq!(stored(&api, "x").await, [exit("x", "init", 9)]);
    assert_eq!(stored(&api, "ended").await, [exit("ended", "e1", 255), exit("ended", "init", 3)]);
    assert_eq!(stored(&api, "lost").await, [exit("lost", "init", 255)]);
    assert_eq!(stored(&api, "running").await, [exit("running", "init", 137)]);
    assert_eq!(stored(&api, "odd").await, [exit("odd", "init", 255)]);
    reaper.join().unwrap();
    // Told once, whatever happens next.
    drop(api);
    let again = EventLog::open(&world.state_dir(), 500).unwrap();
    assert_eq!(again.stored(Some(SystemTime::UNIX_EPOCH), "").len(), 6);
}

/// The daemon may die anywhere between the end of a process and its report.
#[tokio::test]
async fn an_end_that_was_being_told_is_told_once() {
    let world = World::new();
    let init: &[(&str, &str)] = &[("exitStatus", "7")];
    // Renamed, but not told.
    world.leave(".gone-untold", &[("init", init)]);
    // Told, but not removed.
    world.leave(".gone-told", &[("init", init)]);
    // A start that failed.
    world.leave(".gone-failed", &[("init", &[])]);
    // A claim that was not finished.
    world.leave(".new-claimed", &[]);
    // An exec in the same places.
    world.leave("c", &[("init", init), (".gone-e1", init), (".gone-e2", init)]);
    let log = EventLog::open(&world.state_dir(), 500).unwrap();
    log.append(Kind::Exit, "told", "init", 7);
    log.append(Kind::Exit, "c", "e2", 7);
    drop(log);
    let api = world.start().await;
    settled(&world, &api).await;
    let told = |id: &'static str| {
        let api = api.clone();
        async move { stored(&api, id).await.into_iter().map(|event| event.2).collect::<Vec<_>>() }
    };
    assert_eq!(told("untold").await, ["init"]);
    assert_eq!(told("told").await, ["init"]);
    assert!(told("failed").await.is_empty() && told("claimed").await.is_empty());
    assert_eq!(told("c").await, ["e2", "e1", "init"]);
}

/// A client that does not find a container any more asks for its stored exit, and is to find it.
#[tokio::test]
async fn a_container_that_ended_is_listed_until_its_end_is_told() {
    let world = World::new();
    let ids = ["c0", "c1", "c2", "c3"];
    for id in ids {
        world.leave(id, &[("init", &[("exitStatus", "7")])]);
    }
    let api = world.start().await;
    loop {
        let state = api.state(Request::new(v0::StateRequest::default())).await.unwrap();
        let listed = state.into_inner().containers;
        let told = stored(&api, "").await;
        for id in ids {
            let listed = listed.iter().find(|container| container.id == id);
            assert!(listed.is_some() || told.iter().any(|event| event.1 == id), "{id}: {told:?}");
            assert!(listed.is_none_or(|container| container.status == "stopped"), "{listed:?}");
        }
        if listed.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    settled(&world, &api).await;
}

#[tokio::test]
async fn times_of_events_are_checked() {
    let world = World::new();
    let api = world.start().await;
    let events = |timestamp, stored_only| {
        let request = v0::EventsRequest { timestamp, stored_only, id: String::new() };
        let api = api.clone();
        async move { api.events(Request::new(request)).await.map(|_| ()) }
    };
    let time = |seconds, nanos| Some(Timestamp { seconds, nanos });
    let bad = events(time(1, -5), false).await.unwrap_err();
    let text = "timestamp: seconds:1 nanos:-5 : nanos not in range [0, 1e9)";
    assert_eq!((bad.code(), bad.message()), (Code::Unknown, text));
    assert!(events(None, true).await.is_err());
    assert!(events(time(-62_135_596_800, 0), true).await.is_err());
    events(time(-62_135_596_800, 0), false).await.unwrap();
    events(time(-1, 5), true).await.unwrap();
}

/// A daemon without clients of 0.2 makes nothing for them.
#[tokio::test]
async fn the_state_folder_is_made_by_the_first_container() {
    let world = World::new();
    let _api = world.start().await;
    assert!(!world.state_dir().exists());
}
