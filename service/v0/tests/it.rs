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
use service_v0::{Api, Config, EventLog, Kind, Parts, Report, Sink};
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

/// A daemon that dies between the start of a container and telling it: no exit without a start, and
/// nothing about a container that never came to a process.
#[tokio::test]
async fn no_exit_is_told_without_a_start() {
    let world = World::new();
    let ended: &[(&str, &str)] = &[("exitStatus", "7")];
    let ours = |id: &str, processes: &[(&str, &[(&str, &str)])]| {
        world.leave(id, processes);
        let state = r#"{"bundle":"/b","runtime":"true","stdout":"/dev/null"}"#;
        fs::write(world.state_dir().join(id).join("state.json"), state).unwrap();
    };
    ours("untold", &[("init", ended)]);
    // The start is in the log; only the pid was not written any more.
    ours("told", &[("init", ended)]);
    ours("recorded", &[("init", &[("exitStatus", "7"), ("pid", "1")])]);
    ours("claimed", &[("init", &[])]);
    ours("empty", &[]);
    // 0.2 took such a folder away without a word as well.
    world.leave("empty-of-0.2", &[]);
    let log = EventLog::open(&world.state_dir(), 500).unwrap();
    log.append(Kind::StartContainer, "told", "", 0);
    drop(log);
    let api = world.start().await;
    settled(&world, &api).await;
    let told = |id: &'static str| {
        let api = api.clone();
        async move { stored(&api, id).await.into_iter().map(|event| event.0).collect::<Vec<_>>() }
    };
    assert_eq!(told("untold").await, ["start-container", "exit"]);
    assert_eq!(told("told").await, ["start-container", "exit"]);
    assert_eq!(told("recorded").await, ["exit"]);
    for never in ["claimed", "empty", "empty-of-0.2"] {
        assert!(told(never).await.is_empty(), "{never}");
    }
}

/// A shim of the real 0.2, as far as files tell: it holds `exit` open, reads `control`, and records
/// the end of its process.
struct OldShim {
    folder: PathBuf,
    exit: Option<fs::File>,
    control: fs::File,
    process: std::process::Child,
}

impl OldShim {
    fn start(folder: PathBuf) -> Self {
        fs::create_dir_all(&folder).unwrap();
        for fifo in ["exit", "control"] {
            let mode = rustix::fs::Mode::from_raw_mode(0o755);
            let kind = rustix::fs::FileType::Fifo;
            rustix::fs::mknodat(rustix::fs::CWD, folder.join(fifo), kind, mode, 0).unwrap();
        }
        let open = |name: &str| {
            fs::File::options().read(true).write(true).open(folder.join(name)).unwrap()
        };
        let (both, control) = (open("exit"), open("control"));
        // Only for writing, as the shim has it, so that nobody waits in vain for its end.
        let exit = fs::File::options().write(true).open(folder.join("exit")).unwrap();
        drop(both);
        let process = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
        let pid = process.id();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let start = stat.rsplit_once(") ").unwrap().1.split(' ').nth(19).unwrap().to_owned();
        fs::write(folder.join("process.json"), r#"{"args":["sleep"],"exec":false}"#).unwrap();
        fs::write(folder.join("pid"), pid.to_string()).unwrap();
        fs::write(folder.join("starttime"), start).unwrap();
        OldShim { folder, exit: Some(exit), control, process }
    }

    /// The next line of `control`.
    fn line(&mut self) -> String {
        use std::io::Read as _;
        let mut text = String::new();
        let mut byte = [0];
        while self.control.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
            text.push(char::from(byte[0]));
        }
        text
    }

    /// Waits for the end of the process and records it; gives the signal.
    fn end(mut self) -> i32 {
        use std::os::unix::process::ExitStatusExt as _;
        let signal = self.process.wait().unwrap().signal().unwrap();
        fs::write(self.folder.join("exitStatus"), (128 + signal).to_string()).unwrap();
        self.exit.take();
        signal
    }
}

/// An upgrade from the real 0.2 while containers run: they are used and reported as before.
#[tokio::test]
async fn containers_that_run_below_a_shim_of_0_2_are_adopted() {
    let world = World::new();
    let commands = world.folder.path().join("commands");
    let runtime = world.folder.path().join("runtime");
    let script = format!(
        "#!/bin/sh\necho \"$@\" >> {0}\n[ \"$1\" != update ] || cat >> {0}\n\
         [ \"$1\" != pause ] || {{ echo refused; exit 3; }}\n",
        commands.display()
    );
    fs::write(&runtime, script).unwrap();
    fs::set_permissions(&runtime, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    world.leave("old", &[]);
    let folder = world.state_dir().join("old");
    let state = format!(
        r#"{{"bundle":"/b","labels":["a=b"],"runtime":{:?},"shim":"/no/such/shim"}}"#,
        runtime.display().to_string()
    );
    fs::write(folder.join("state.json"), state).unwrap();
    let mut init = OldShim::start(folder.join("init"));
    let exec = OldShim::start(folder.join("exec1"));
    let api = world.start().await;

    let state = || async {
        let request = Request::new(v0::StateRequest { id: "old".to_owned() });
        api.state(request).await.unwrap().into_inner().containers.remove(0)
    };
    let seen = state().await;
    assert_eq!((seen.status.as_str(), seen.labels.len(), seen.processes.len()), ("running", 1, 2));
    assert!(seen.pids.contains(&init.process.id()));
    let resize = v0::UpdateProcessRequest {
        id: "old".to_owned(),
        pid: "init".to_owned(),
        close_stdin: true,
        width: 80,
        height: 25,
    };
    api.update_process(Request::new(resize)).await.unwrap();
    assert_eq!((init.line(), init.line()), ("0 0 0".to_owned(), "1 80 25".to_owned()));
    let update = |status: &str, memory_limit| {
        Request::new(v0::UpdateContainerRequest {
            id: "old".to_owned(),
            status: status.to_owned(),
            resources: Some(v0::UpdateResource { memory_limit, ..Default::default() }),
            ..Default::default()
        })
    };
    let refused = api.update_container(update("paused", 0)).await.unwrap_err();
    assert_eq!(refused.message(), "exit status 1: \"refused\\n\"");
    api.update_container(update("running", 0)).await.unwrap();
    api.update_container(update("", 5)).await.unwrap();
    let said = fs::read_to_string(&commands).unwrap();
    assert_eq!(said, "pause old\nresume old\nupdate -r - old\n{\"memory\":{\"limit\":5}}");
    let stats = api.stats(Request::new(v0::StatsRequest { id: "old".to_owned() })).await;
    assert!(stats.unwrap().into_inner().cgroup_stats.is_some());
    // Its shim is gone from the machine, so there can be no other process.
    let add = v0::AddProcessRequest {
        id: "old".to_owned(),
        pid: "more".to_owned(),
        args: vec!["true".to_owned()],
        ..Default::default()
    };
    let refused = api.add_process(Request::new(add)).await.unwrap_err();
    assert_eq!(refused.message(), "shim error: /no/such/shim not installed on system");
    let signal = |pid: &str, signal| {
        Request::new(v0::SignalRequest { id: "old".to_owned(), pid: pid.to_owned(), signal })
    };
    api.signal(signal("exec1", 0)).await.unwrap();
    assert!(api.signal(signal("more", 9)).await.is_err());
    api.signal(signal("exec1", 15)).await.unwrap();
    assert_eq!(exec.end(), 15);
    loop {
        let told = stored(&api, "old").await;
        if told.last().is_some_and(|event| event.0 == "exit") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    api.signal(signal("init", 9)).await.unwrap();
    assert_eq!(init.end(), 9);
    settled(&world, &api).await;
    let told: Vec<_> = stored(&api, "old")
        .await
        .into_iter()
        .map(|(kind, _, pid, status)| (kind, pid, status))
        .collect();
    let wanted = [("resume", "", 0), ("exit", "exec1", 143), ("exit", "init", 137)];
    assert_eq!(told, wanted.map(|(kind, pid, status)| (kind.to_owned(), pid.to_owned(), status)));
}

/// Figures go to a graphite server, also to one that comes late, goes and comes back.
#[tokio::test]
async fn figures_are_sent_to_graphite() {
    use tokio::io::AsyncReadExt as _;
    let world = World::new();
    let api = world.start().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // Nobody listens at first.
    drop(listener);
    let report = Report {
        interval: Duration::from_millis(20),
        sink: Sink::graphite(&address.to_string()).unwrap(),
    };
    let reporting = {
        let api = api.clone();
        tokio::spawn(async move { api.report(report).await })
    };
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(60)).await;
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        for _ in 0..2 {
            let mut text = String::new();
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_to_string(&mut text).await.unwrap();
            for line in text.lines() {
                let words: Vec<&str> = line.split(' ').collect();
                assert!(words.len() == 3 && words[0].starts_with("metrics."), "{line}");
                assert!(words[1].parse::<f64>().is_ok() && words[2].parse::<u64>().is_ok());
            }
            assert!(text.starts_with("metrics.container-create-time.count 0 "), "{text}");
            assert!(text.contains("\nmetrics.containers.count 0 "), "{text}");
        }
    }
    reporting.abort();
}
