//! Shims of every dialect, and shims that hang, lie and die.

use std::fs;
use std::sync::atomic::Ordering;
use std::time::Duration;

use api_shim::bootstrap::{BootstrapParams, BootstrapResult};
use api_shim::events::{TaskDelete, TaskExit};
use api_shim::process::Status;
use api_shim::task::{SERVICE_V2, SERVICE_V3};
use api_shim::ttrpc_events::ForwardRequest;
use api_shim::types::Envelope;
use api_shim::{Any, Message as _, Timestamp, typeurl};
use base_errors::Class;

use crate::fake::{PID, Service, program, recorded};
use crate::harness::{Node, exit_of, until};

#[tokio::test]
async fn every_dialect_is_spoken() {
    let node = Node::new().await;
    let (ns, tasks) = (node.namespace.clone(), node.supervisor.clone());
    let options = Any { type_url: "test.Options".to_owned(), value: vec![7] };
    for (name, version, service, params) in [
        ("text", "1.6.20", SERVICE_V2, false),
        ("json", "v2.0.5", SERVICE_V3, false),
        ("message", "2.3.4", SERVICE_V3, true),
        // Says version 3, and has version 2 alone.
        ("older", "2.1.0", SERVICE_V2, false),
    ] {
        let shim = Service::start(&node, &format!("{name}.sock"), &[service]).await;
        let address = shim.address();
        let json = format!(r#"{{"version":3,"address":"{address}","protocol":"ttrpc"}}"#);
        let answer = match name {
            "text" => address.clone().into_bytes(),
            "message" => BootstrapResult {
                version: 3,
                address: address.clone(),
                protocol: "ttrpc".to_owned(),
                ..BootstrapResult::default()
            }
            .encode_to_vec(),
            _ => json.into_bytes(),
        };
        let path = program(&node, name, version, &answer);
        let mut request = node.request(&path, name);
        request.runtime.options = Some(options.clone());
        assert_eq!(tasks.create(&ns, request).await.unwrap(), PID, "{name}");

        let arguments = String::from_utf8(recorded(&path, "arguments")).unwrap();
        let expected = format!(
            "{bundle}|{ttrpc}|{ns}|-namespace {ns} -address {grpc} -publish-binary {binary} -id {name} start\n",
            bundle = node.bundle(name).display(),
            ttrpc = node.config.ttrpc_address,
            grpc = node.config.grpc_address,
            binary = node.config.containerd_binary.display(),
        );
        assert_eq!(arguments, expected);
        let input = recorded(&path, "input");
        if params {
            let read = BootstrapParams::decode(&*input).unwrap();
            assert_eq!(
                (read.instance_id.as_str(), &read.extensions[0].value),
                (name, &Some(options.clone()))
            );
        } else {
            assert_eq!(Any::decode(&*input).unwrap(), options, "{name}");
        }
        let file = fs::read_to_string(node.bundle(name).join("bootstrap.json")).unwrap();
        let spoken = if service == SERVICE_V2 { 2 } else { 3 };
        assert_eq!(
            file,
            format!(r#"{{"version":{spoken},"address":"{address}","protocol":"ttrpc"}}"#)
        );

        assert_eq!(tasks.get(&ns, name, "").await.unwrap().status(), Status::Running);
        tasks.delete(&ns, name).await.unwrap();
        assert_eq!(shim.behaviour.shutdowns.load(Ordering::SeqCst), 1);
        assert!(recorded(&path, "cleanups").is_empty(), "{name}: nothing to clean up after");
        shim.die().await;
    }
    node.finish().await;
}

#[tokio::test]
async fn a_shim_that_does_not_start_leaves_nothing() {
    let node = Node::with(|config| config.timeouts.shim_start = Duration::from_millis(300)).await;
    let (ns, tasks) = (node.namespace.clone(), node.supervisor.clone());
    let create = async |name: &str, text: &str| {
        let path = node.program(name, text);
        tasks.create(&ns, node.request(&path, "c1")).await.unwrap_err()
    };
    let error = create("fails", "#!/bin/sh\necho no way; exit 3\n").await;
    assert_eq!(error.to_string(), "failed to start shim: start failed: no way: exit status 3");
    let error = create("hangs", "#!/bin/sh\nexec sleep 1000\n").await;
    assert_eq!(error.class(), Class::DeadlineExceeded, "{error}");
    let error = create("silent", "#!/bin/sh\n").await;
    assert!(error.to_string().contains("unreadable answer: nothing"), "{error}");
    let error =
        create("future", "#!/bin/sh\necho '{\"version\":9,\"address\":\"unix:///x\"}'\n").await;
    assert_eq!(error.class(), Class::NotImplemented, "{error}");
    let error = create("nowhere", "#!/bin/sh\necho unix:///nonexistent/socket\n").await;
    assert_eq!(error.class(), Class::Unavailable, "{error}");
    let missing = tasks.create(&ns, node.request("/nonexistent/shim".as_ref(), "c1")).await;
    assert!(missing.unwrap_err().to_string().contains("invalid custom binary path"));
    let bad = tasks.create(&ns, node.request("/bin/true".as_ref(), "../c1")).await.unwrap_err();
    assert_eq!(bad.class(), Class::InvalidArgument);
    assert!(!tasks.exists(&ns, "c1"));
    node.finish().await;
}

/// The serving process lives, and its socket is not there: it must not stay for ever.
#[tokio::test]
async fn a_shim_that_cannot_be_called_is_ended() {
    let node = Node::new().await;
    let (ns, tasks) = (node.namespace.clone(), node.supervisor.clone());
    let pids = node.folder.path().join("pids");
    // A serving process as `start` leaves it, with the arguments it was given.
    let serving = |folder: &str| {
        format!(
            "#!/bin/sh\n\
             case \"$*\" in *start) ;; *) exit 0 ;; esac\n\
             cd {folder}\n\
             sh -c 'while :; do sleep 0.1; done' \"$@\" \
             </dev/null >/dev/null 2>&1 &\n\
             echo $! >> {pids}\n\
             echo unix:///nonexistent/socket\n",
            pids = pids.display(),
        )
    };
    let lives = |pid: u32| {
        fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
    };
    let ours = node.program("ours", &serving("."));
    let error = tasks.create(&ns, node.request(&ours, "c1")).await.unwrap_err();
    assert_eq!(error.class(), Class::Unavailable, "{error}");
    let theirs = node.program("theirs", &serving("/"));
    let error = tasks.create(&ns, node.request(&theirs, "c1")).await.unwrap_err();
    assert_eq!(error.class(), Class::Unavailable, "{error}");
    let pids = fs::read_to_string(pids).unwrap();
    let pids: Vec<u32> = pids.lines().map(|pid| pid.parse().unwrap()).collect();
    assert_eq!(pids.iter().map(|pid| lives(*pid)).collect::<Vec<_>>(), [false, true]);
    // That one was not started in the bundle for all anybody knows; it is this test's.
    let pid = rustix::process::Pid::from_raw(i32::try_from(pids[1]).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    assert!(!tasks.exists(&ns, "c1"));
    node.finish().await;
}

#[tokio::test]
async fn a_hanging_shim_costs_its_own_task() {
    let mut node = Node::with(|config| {
        config.timeouts.task_state = Duration::from_millis(200);
        config.timeouts.shim_load = Duration::from_millis(200);
        config.timeouts.shim_stats = Duration::from_millis(200);
    })
    .await;
    let ns = node.namespace.clone();
    let tasks = node.supervisor.clone();
    let (hung, fine) = (
        Service::start(&node, "hung.sock", &[SERVICE_V2]).await,
        Service::start(&node, "fine.sock", &[SERVICE_V2]).await,
    );
    for (id, shim) in [("hung", &hung), ("fine", &fine)] {
        let path = program(&node, id, "1.6.20", shim.address().as_bytes());
        tasks.create(&ns, node.request(&path, id)).await.unwrap();
    }
    hung.behaviour.hang_state.store(true, Ordering::SeqCst);
    for restarted in [false, true] {
        if restarted {
            node.restart().await;
            assert_eq!(node.supervisor.adopt_all().await.adopted, 2);
        }
        let tasks = node.supervisor.clone();
        // COMPAT: containerd says that the status is unknown.
        assert_eq!(tasks.get(&ns, "hung", "").await.unwrap().status(), Status::Unknown);
        let list = tasks.list(&ns).await;
        assert_eq!(list.iter().map(|process| process.id.as_str()).collect::<Vec<_>>(), ["fine"]);
        assert_eq!(tasks.get(&ns, "fine", "").await.unwrap().status(), Status::Running);
        assert!(tasks.metrics::<&str>(&ns, &[]).await.unwrap().is_empty());
        // It is known now that it hangs: lists do not even ask it.
        let asked = hung.behaviour.states.load(Ordering::SeqCst);
        assert_eq!(tasks.list(&ns).await.len(), 1);
        assert_eq!(hung.behaviour.states.load(Ordering::SeqCst), asked);
    }
    let tasks = node.supervisor.clone();
    // When it answers again, that is noticed without another call.
    hung.behaviour.hang_state.store(false, Ordering::SeqCst);
    let mut listed = 0;
    while listed < 2 {
        listed = tasks.list(&ns).await.len();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tasks.delete(&ns, "fine").await.unwrap();
    tasks.delete(&ns, "hung").await.unwrap();
    node.stop().await;
    hung.die().await;
    fine.die().await;
    node.finish().await;
}

#[tokio::test]
async fn a_dead_shim_is_cleaned_up_once() {
    let mut node = Node::new().await;
    let (ns, tasks) = (node.namespace.clone(), node.supervisor.clone());
    let shim = Service::start(&node, "a.sock", &[SERVICE_V2]).await;
    let path = program(&node, "shim", "1.6.20", shim.address().as_bytes());
    tasks.create(&ns, node.request(&path, "c1")).await.unwrap();
    let socket = shim.socket.clone();
    shim.die().await;
    let (_, exit) = node.events_until("/tasks/exit").await;
    assert_eq!((exit_of(&exit).exit_status, exit_of(&exit).pid), (9, PID));
    node.events_until("/tasks/delete").await;
    until("the task to go", || !tasks.exists(&ns, "c1")).await;
    assert!(!socket.exists(), "its socket is removed");
    let cleanups = String::from_utf8(recorded(&path, "cleanups")).unwrap();
    assert_eq!(cleanups.lines().count(), 1);
    assert!(
        cleanups.contains(&format!("-id c1 -bundle {}", node.bundle("c1").display())),
        "{cleanups}"
    );
    assert!(node.events.try_next().is_none());
    node.finish().await;
}

#[tokio::test]
async fn exit_and_deletion_are_announced_once() {
    let mut node =
        Node::with(|config| config.timeouts.event_grace = Duration::from_millis(100)).await;
    let (ns, tasks) = (node.namespace.clone(), node.supervisor.clone());
    let shim = Service::start(&node, "a.sock", &[SERVICE_V2]).await;
    let path = program(&node, "shim", "1.6.20", shim.address().as_bytes());
    tasks.create(&ns, node.request(&path, "c1")).await.unwrap();
    // This shim never sends events: the supervisor finds the end out.
    tasks.kill(&ns, "c1", "", 15, false).await.unwrap();
    assert_eq!(tasks.wait(&ns, "c1", "").await.unwrap().status, 143);
    let event = node.event().await;
    assert_eq!((event.topic.as_str(), exit_of(&event).exit_status), ("/tasks/exit", 143));
    let late = TaskExit {
        container_id: "c1".to_owned(),
        id: "c1".to_owned(),
        exit_status: 143,
        ..TaskExit::default()
    };
    let forward = |topic: &str| ForwardRequest {
        envelope: Some(Envelope {
            timestamp: Some(Timestamp::default()),
            namespace: ns.as_str().to_owned(),
            topic: topic.to_owned(),
            event: Some(typeurl::encode(&late)),
        }),
    };
    tasks.forward(&forward("/tasks/exit")).unwrap();
    assert!(node.events.try_next().is_none(), "the late event is dropped");
    assert_eq!(tasks.forward(&forward("tasks")).unwrap_err().class(), Class::InvalidArgument);
    tasks.delete(&ns, "c1").await.unwrap();
    assert_eq!(node.event().await.topic.as_str(), "/tasks/delete");

    // This time the shim announces its deletion, after it has answered.
    tasks.create(&ns, node.request(&path, "c1")).await.unwrap();
    tasks.delete(&ns, "c1").await.unwrap();
    let mut deleted = forward("/tasks/delete");
    let delete = TaskDelete { container_id: "c1".to_owned(), pid: PID, ..TaskDelete::default() };
    deleted.envelope.as_mut().unwrap().event = Some(typeurl::encode(&delete));
    tasks.forward(&deleted).unwrap();
    let events = async {
        let mut topics = Vec::new();
        while let Ok(event) =
            tokio::time::timeout(Duration::from_millis(500), node.events.next()).await
        {
            topics.push(event.topic.as_str().to_owned());
        }
        topics
    };
    // The process of this shim has ended before: its exit is announced as well.
    let topics = events.await;
    assert_eq!(topics.iter().filter(|topic| *topic == "/tasks/delete").count(), 1, "{topics:?}");
    shim.die().await;
    node.finish().await;
}

#[tokio::test]
async fn a_start_waits_for_its_place_and_can_be_given_up() {
    let node = Node::with(|config| config.max_concurrent_starts = 1).await;
    let (ns, tasks) = (node.namespace.clone(), node.supervisor.clone());
    let shim = Service::start(&node, "a.sock", &[SERVICE_V2]).await;
    let path = program(&node, "shim", "1.6.20", shim.address().as_bytes());
    shim.behaviour.hang_create.store(true, Ordering::SeqCst);
    let create = |id: &str| {
        let (tasks, ns, request) = (tasks.clone(), ns.clone(), node.request(&path, id));
        tokio::spawn(async move { tasks.create(&ns, request).await })
    };
    let first = create("first");
    until("the first create", || shim.behaviour.creates.load(Ordering::SeqCst) == 1).await;
    let second = create("second");
    let phases = || -> Vec<(String, &str)> {
        let operations = tasks.operations().into_iter();
        operations.map(|operation| (operation.object, operation.phase)).collect()
    };
    until("both to be listed", || phases().len() == 2).await;
    assert_eq!(phases()[0], (format!("{ns}/first"), "creating the container"));
    assert_eq!(phases()[1], (format!("{ns}/second"), "waiting for a place in the start queue"));
    assert!(tasks.get(&ns, "first", "").await.unwrap_err().is_not_found());
    let starts = tasks.starts();
    assert_eq!((starts.places, starts.running, starts.waiting), (1, 1, 1));
    // Whoever is in the way is named.
    let again = tasks.create(&ns, node.request(&path, "first")).await.unwrap_err();
    assert!(again.is_already_exists());
    let text = again.to_string();
    assert!(
        text.starts_with(&format!("in flight: create {ns}/first: creating the container, for "))
    );
    assert!(text.ends_with(": task first: already exists"), "{text}");
    // The callers go away: the second never begins, the first is undone.
    second.abort();
    until("the second to be given up", || !tasks.exists(&ns, "second")).await;
    first.abort();
    until("the first to be undone", || !tasks.exists(&ns, "first")).await;
    assert_eq!(shim.behaviour.creates.load(Ordering::SeqCst), 1);
    assert_eq!(shim.behaviour.deletes.load(Ordering::SeqCst), 1);
    shim.die().await;
    node.finish().await;
}

#[tokio::test]
async fn bundles_of_every_kind_are_adopted_or_removed() {
    let mut node = Node::new().await;
    let ns = node.namespace.clone();
    let tasks = node.supervisor.clone();
    let (live, leaked) = (
        Service::start(&node, "live.sock", &[SERVICE_V2]).await,
        Service::start(&node, "leaked.sock", &[SERVICE_V2]).await,
    );
    let mut paths = Vec::new();
    for (id, shim) in [("live", &live), ("leaked", &leaked)] {
        let path = program(&node, id, "1.6.20", shim.address().as_bytes());
        tasks.create(&ns, node.request(&path, id)).await.unwrap();
        paths.push(path);
    }
    node.stop().await;
    leaked.behaviour.no_task.store(true, Ordering::SeqCst);
    // COMPAT: a bundle of containerd 1.x has the address alone.
    fs::remove_file(node.bundle("live").join("bootstrap.json")).unwrap();
    fs::create_dir_all(node.bundle("empty")).unwrap();
    fs::create_dir_all(node.bundle(".half")).unwrap();
    fs::write(node.bundle(".half").join("config.json"), "{}").unwrap();
    let orphan = node.config.work().join(ns.as_str()).join("orphan");
    fs::create_dir_all(&orphan).unwrap();
    let dead = node.bundle("dead");
    fs::create_dir_all(dead.join("rootfs")).unwrap();
    fs::write(dead.join("address"), "unix:///nonexistent/s").unwrap();
    fs::write(dead.join("shim-binary-path"), paths[0].display().to_string()).unwrap();

    node.start();
    // Nobody has adopted anything yet, and still nobody is pushed out of his bundle.
    let again = node.supervisor.create(&ns, node.request(&paths[0], "live")).await;
    assert!(again.unwrap_err().is_already_exists());
    let adoption = node.supervisor.adopt_all();
    let tasks = node.supervisor.clone();
    assert!(tasks.exists(&ns, "live"), "the names are taken at once");
    let (adoption, early) = tokio::join!(adoption, tasks.get(&ns, "live", ""));
    assert_eq!(early.unwrap().status(), Status::Running, "a call waits for the adoption");
    assert_eq!((adoption.adopted, adoption.cleaned, adoption.waiting), (1, 3, 0));
    // It is told again while it stays.
    assert!(leaked.behaviour.shutdowns.load(Ordering::SeqCst) >= 1);
    let cleanups = String::from_utf8(recorded(&paths[0], "cleanups")).unwrap();
    assert!(cleanups.contains("-id dead "), "{cleanups}");
    for gone in ["empty", ".half", "dead", "leaked"] {
        assert!(!node.bundle(gone).exists(), "{gone}");
    }
    assert!(!orphan.exists());
    let (_, exit) = node.events_until("/tasks/exit").await;
    assert_eq!((exit_of(&exit).container_id.as_str(), exit_of(&exit).exit_status), ("dead", 9));
    tasks.delete(&ns, "live").await.unwrap();

    // After a reboot every shim is dead, whoever listens on its socket.
    tasks.create(&ns, node.request(&paths[0], "live")).await.unwrap();
    node.stop().await;
    fs::write(node.config.bundles().join(".boot-id"), "another boot").unwrap();
    node.start();
    assert_eq!(node.supervisor.adopt_all().await.cleaned, 1);
    live.die().await;
    leaked.die().await;
    node.finish().await;
}

#[tokio::test]
async fn a_late_answer_names_what_was_in_flight() {
    let node = Node::with(|config| config.timeouts.long_call = Duration::from_millis(200)).await;
    let (ns, tasks) = (node.namespace.clone(), node.supervisor.clone());
    let shim = Service::start(&node, "a.sock", &[SERVICE_V2]).await;
    let path = program(&node, "shim", "1.6.20", shim.address().as_bytes());
    tasks.create(&ns, node.request(&path, "c1")).await.unwrap();
    shim.behaviour.hang_start.store(true, Ordering::SeqCst);
    let error = tasks.start(&ns, "c1", "").await.unwrap_err();
    assert_eq!(error.class(), Class::DeadlineExceeded);
    let text = error.to_string();
    assert!(text.starts_with(&format!("in flight: start {ns}/c1: for 0.")), "{text}");
    assert!(text.contains(" of 0.2 s: "), "{text}");
    tasks.delete(&ns, "c1").await.unwrap();
    shim.die().await;
    node.finish().await;
}

#[tokio::test]
async fn what_no_task_has_is_found_while_the_daemon_runs() {
    let node = Node::new().await;
    let (ns, tasks) = (node.namespace.clone(), node.supervisor.clone());
    let shim = Service::start(&node, "a.sock", &[SERVICE_V2]).await;
    let path = program(&node, "shim", "1.6.20", shim.address().as_bytes());
    tasks.create(&ns, node.request(&path, "lives")).await.unwrap();
    // A bundle whose shim is dead, one whose shim lives, one that cannot be removed, and a work
    // folder alone.
    for id in ["dead", "found", "full"] {
        let bundle = node.bundle(id);
        fs::create_dir_all(bundle.join("rootfs")).unwrap();
        let address = if id == "found" { shim.address() } else { "unix:///none/s".to_owned() };
        fs::write(bundle.join("address"), address).unwrap();
        fs::write(bundle.join("shim-binary-path"), path.display().to_string()).unwrap();
    }
    fs::write(node.bundle("full").join("rootfs/precious"), "x").unwrap();
    let work = node.config.work().join(ns.as_str()).join("alone");
    fs::create_dir_all(&work).unwrap();
    // Shims that nobody can find: one has a process below it, one is not of a bundle of ours.
    let stray = |script: &str, began: &std::path::Path| {
        use std::os::unix::process::CommandExt as _;
        fs::create_dir_all(began).unwrap();
        let arguments = ["-c", script, "x", "-namespace", ns.as_str(), "-id", "stray", "-address"];
        std::process::Command::new("/bin/sh")
            .arg0("containerd-shim-stray-v1")
            .args(arguments)
            .arg(&node.config.grpc_address)
            .current_dir(began)
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap()
    };
    let began = node.bundle("stray");
    let mut lonely = stray("read line", &began);
    let mut parent = stray("cat; true", &began);
    let mut foreign = stray("read line", node.folder.path());
    fs::remove_dir_all(&began).unwrap();
    let children = format!("/proc/{0}/task/{0}/children", parent.id());
    until("the child", || fs::read_to_string(&children).is_ok_and(|text| !text.is_empty())).await;

    tasks.reconcile().await;
    assert!(!node.bundle("dead").exists() && !work.exists());
    assert!(tasks.exists(&ns, "found") && tasks.exists(&ns, "lives"));
    assert!(node.bundle("full").join("rootfs/precious").exists(), "never a client's data");
    assert!(lonely.try_wait().unwrap().is_none(), "only seen twice it is ended");
    let cleanups = || String::from_utf8(recorded(&path, "cleanups")).unwrap().lines().count();
    let before = cleanups();
    tasks.reconcile().await;
    assert_eq!(cleanups(), before, "what cannot be removed is tried once");
    until("the stray shim to end", || lonely.try_wait().unwrap().is_some()).await;
    assert!(parent.try_wait().unwrap().is_none(), "never with processes below it");
    assert!(foreign.try_wait().unwrap().is_none(), "never one of somebody else");
    for other in [&mut parent, &mut foreign] {
        drop(other.stdin.take());
        other.wait().unwrap();
    }

    fs::remove_file(node.bundle("full").join("rootfs/precious")).unwrap();
    fs::remove_dir_all(node.bundle("full")).unwrap();
    let left = node.config.work().join(ns.as_str()).join("full");
    let _ = fs::remove_dir_all(left);
    for id in ["found", "lives"] {
        tasks.delete(&ns, id).await.unwrap();
    }
    shim.die().await;
    node.finish().await;
}

#[tokio::test]
async fn shims_that_cannot_be_spoken_to_are_refused() {
    let node = Node::new().await;
    let (ns, tasks) = (node.namespace.clone(), node.supervisor.clone());
    for (name, answer, expected) in [
        (
            "grpc",
            r#"{"version":3,"address":"unix:///s/a","protocol":"grpc"}"#,
            "unsupported shim protocol \"grpc\"",
        ),
        (
            "vsock",
            r#"{"version":3,"address":"vsock://3:1024","protocol":"ttrpc"}"#,
            "unsupported shim address \"vsock://3:1024\"",
        ),
    ] {
        let path = program(&node, name, "2.1.0", answer.as_bytes());
        let error = tasks.create(&ns, node.request(&path, name)).await.unwrap_err();
        assert_eq!(error.class(), Class::NotImplemented, "{error}");
        assert!(error.to_string().contains(expected), "{error}");
        assert!(!tasks.exists(&ns, name));
    }
    node.finish().await;
}
