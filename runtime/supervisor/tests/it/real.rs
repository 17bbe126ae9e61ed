//! Real containers under real shims.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use api_shim::process::Status;
use api_shim::{Any, linux_runc, runc, types, typeurl};
use base_errors::Class;
use runtime_spec::SpecBuilder;
use runtime_supervisor::{CreateTask, ExecTask, Runtime};
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Node, delete_of, exit_of, processes, until};

/// The shim programs that are there, and what each is called in messages.
fn shims() -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    for needed in ["/usr/sbin/runc", "/usr/bin/busybox"] {
        if !Path::new(needed).exists() {
            eprintln!("skipped: {needed} is not installed");
            return found;
        }
    }
    match env::var_os("IRONHULL_PEERS") {
        None => eprintln!("skipped: IRONHULL_PEERS does not name a folder with containerds"),
        Some(peers) => {
            for peer in ["bookworm", "forky"] {
                let path = Path::new(&peers).join(peer).join("usr/bin/containerd-shim-runc-v2");
                if path.exists() {
                    found.push((peer.to_owned(), path));
                } else {
                    eprintln!("skipped: there is no {}", path.display());
                }
            }
        }
    }
    // target/debug/deps/it-… stands beside target/debug/containerd-shim-runc-v2.
    let own = env::current_exe().unwrap();
    let own = own.ancestors().nth(2).unwrap().join("containerd-shim-runc-v2");
    if own.exists() {
        found.push(("own".to_owned(), own));
    } else {
        eprintln!("skipped: {} is not built", own.display());
    }
    found
}

/// A root file system with one static program under two names.
fn rootfs(node: &Node) -> PathBuf {
    let rootfs = node.folder.path().join("busybox");
    if !rootfs.exists() {
        fs::create_dir_all(rootfs.join("bin")).unwrap();
        fs::copy("/usr/bin/busybox", rootfs.join("bin/busybox")).unwrap();
        std::os::unix::fs::symlink("busybox", rootfs.join("bin/sh")).unwrap();
        std::os::unix::fs::symlink("busybox", rootfs.join("bin/sleep")).unwrap();
    }
    rootfs
}

fn request(node: &Node, shim: &Path, id: &str, args: &[&str]) -> CreateTask {
    let group = format!("/{}-{id}", node.namespace);
    let (url, bytes) = SpecBuilder::new(node.namespace.as_str(), id)
        .args(args.iter().copied())
        .cgroups_path(group)
        .build_any();
    let root = node.folder.path().join("runc").display().to_string();
    let options = runc::Options { root, ..runc::Options::default() };
    let bind = types::Mount {
        r#type: "bind".to_owned(),
        source: rootfs(node).display().to_string(),
        target: String::new(),
        options: vec!["rbind".to_owned(), "rw".to_owned()],
    };
    CreateTask {
        id: id.to_owned(),
        spec: Some(Any { type_url: url.to_owned(), value: bytes }),
        runtime: Runtime {
            name: shim.display().to_string(),
            options: Some(typeurl::encode(&options)),
        },
        rootfs: vec![bind],
        ..CreateTask::default()
    }
}

/// The process that watches over `pid`.
fn parent(pid: u32) -> i32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after = stat.rsplit_once(')').unwrap().1;
    after.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

#[tokio::test]
async fn a_task_lives_and_ends() {
    for (name, shim) in shims() {
        eprintln!("shim: {name}");
        let mut node = Node::new().await;
        let (ns, tasks) = (node.namespace.clone(), node.supervisor.clone());
        let pid =
            tasks.create(&ns, request(&node, &shim, "c1", &["/bin/sleep", "1000"])).await.unwrap();
        assert!(pid > 0);
        assert!(node.bundle("c1").join("bootstrap.json").exists());
        assert!(node.bundle("c1").join("address").exists());
        let again = tasks.create(&ns, request(&node, &shim, "c1", &["/bin/sleep"])).await;
        assert_eq!(again.unwrap_err().to_string(), "task c1: already exists");
        let created = tasks.get(&ns, "c1", "").await.unwrap();
        assert_eq!(
            (created.status(), created.pid, created.id.as_str()),
            (Status::Created, pid, "c1")
        );
        assert_eq!(tasks.start(&ns, "c1", "").await.unwrap(), pid);
        assert_eq!(tasks.list(&ns).await[0].status(), Status::Running);

        let process = r#"{"user":{"uid":0,"gid":0},"args":["/bin/sh","-c","exit 7"],"cwd":"/"}"#;
        let exec = ExecTask {
            exec_id: "e1".to_owned(),
            spec: Some(typeurl::encode_json(typeurl::PROCESS, process)),
            ..ExecTask::default()
        };
        tasks.exec(&ns, "c1", exec.clone()).await.unwrap();
        assert!(tasks.exec(&ns, "c1", exec).await.unwrap_err().is_already_exists());
        assert!(tasks.start(&ns, "c1", "e1").await.unwrap() > 0);
        let exit = tasks.wait(&ns, "c1", "e1").await.unwrap();
        assert_eq!((exit.id.as_str(), exit.status), ("e1", 7));
        let exit = tasks.delete_process(&ns, "c1", "e1").await.unwrap();
        assert_eq!((exit.id.as_str(), exit.status), ("e1", 7));
        assert!(tasks.get(&ns, "c1", "e1").await.unwrap_err().is_not_found());
        let empty = tasks.exec(&ns, "c1", ExecTask::default()).await.unwrap_err();
        assert_eq!(empty.to_string(), "exec id cannot be empty: invalid argument");

        assert_eq!(tasks.list_pids(&ns, "c1").await.unwrap()[0].pid, pid);
        let metrics = tasks.metrics(&ns, &["id==c1"]).await.unwrap();
        assert_eq!((metrics.len(), metrics[0].id.as_str()), (1, "c1"));
        assert!(metrics[0].data.as_ref().unwrap().type_url.contains("cgroups"));
        assert!(tasks.metrics(&ns, &["id==c2"]).await.unwrap().is_empty());
        tasks.pause(&ns, "c1").await.unwrap();
        assert_eq!(tasks.get(&ns, "c1", "").await.unwrap().status(), Status::Paused);
        tasks.resume(&ns, "c1").await.unwrap();
        tasks.delete(&ns, "c1").await.expect_err("a running task");
        assert_eq!(tasks.get(&ns, "c1", "").await.unwrap().status(), Status::Running);

        let waiting = tokio::spawn({
            let (tasks, ns) = (tasks.clone(), ns.clone());
            async move { tasks.wait(&ns, "c1", "").await }
        });
        tasks.kill(&ns, "c1", "", 9, false).await.unwrap();
        let exit = waiting.await.unwrap().unwrap();
        assert_eq!((exit.status, exit.pid), (137, pid));
        until("the shim to see the end", || fs::metadata(format!("/proc/{pid}")).is_err()).await;
        assert_eq!(tasks.get(&ns, "c1", "").await.unwrap().status(), Status::Stopped);
        assert!(tasks.kill(&ns, "c1", "", 9, false).await.unwrap_err().is_not_found());
        // Two at once: both get the answer.
        let (first, second) = tokio::join!(tasks.delete(&ns, "c1"), tasks.delete(&ns, "c1"));
        assert_eq!(first.unwrap(), second.unwrap());
        assert!(!node.bundle("c1").exists());
        let gone = tasks.get(&ns, "c1", "").await.unwrap_err();
        assert_eq!((gone.class(), gone.message()), (Class::NotFound, "task c1 not found"));

        let (topics, delete) = node.events_until("/tasks/delete").await;
        let mut expected = vec![
            "/tasks/create",
            "/tasks/start",
            "/tasks/exec-added",
            "/tasks/exec-started",
            "/tasks/exit",
            "/tasks/paused",
            "/tasks/resumed",
            "/tasks/exit",
            "/tasks/delete",
        ];
        // Shims of containerd 2 announce the deletion of an exec as well.
        if topics.iter().filter(|topic| *topic == "/tasks/delete").count() == 1
            && delete_of(&delete).id == "e1"
        {
            let (rest, _) = node.events_until("/tasks/delete").await;
            expected.insert(5, "/tasks/delete");
            assert_eq!([topics, rest].concat(), expected, "{name}");
        } else {
            assert_eq!(topics, expected, "{name}");
        }
        node.finish().await;
    }
}

#[tokio::test]
async fn a_container_that_cannot_be_created_leaves_nothing() {
    for (name, shim) in shims() {
        eprintln!("shim: {name}");
        let node = Node::new().await;
        let (ns, tasks) = (node.namespace.clone(), node.supervisor.clone());
        let mut bad = request(&node, &shim, "c1", &["/bin/none"]);
        bad.rootfs[0].source = "/nonexistent/rootfs".to_owned();
        let error = tasks.create(&ns, bad).await.unwrap_err();
        assert!(error.to_string().starts_with("failed to create shim task: "), "{name}: {error}");
        assert!(!node.bundle("c1").exists());
        let missing = request(&node, &shim, "c1", &["/bin/none"]);
        // runc finds a missing program out at create, others at start.
        match tasks.create(&ns, missing).await {
            Err(error) => assert!(error.to_string().contains("/bin/none"), "{name}: {error}"),
            Ok(_) => {
                let error = tasks.start(&ns, "c1", "").await.unwrap_err();
                assert!(error.to_string().contains("/bin/none"), "{name}: {error}");
                tasks.delete(&ns, "c1").await.unwrap();
            }
        }
        node.finish().await;
    }
}

#[tokio::test]
async fn tasks_outlive_the_daemon() {
    for (name, shim) in shims() {
        eprintln!("shim: {name}");
        let mut node = Node::new().await;
        let ns = node.namespace.clone();
        let tasks = node.supervisor.clone();
        let long = ["/bin/sleep", "1000"];
        let mut pids = Vec::new();
        for id in ["keeps", "ends", "dies"] {
            pids.push(tasks.create(&ns, request(&node, &shim, id, &long)).await.unwrap());
            tasks.start(&ns, id, "").await.unwrap();
        }
        drop(tasks);
        // One container ends while there is no daemon, and the shim of another dies.
        node.stop().await;
        let dead = parent(pids[2]);
        kill(i32::try_from(pids[1]).unwrap());
        kill(dead);
        until("the shim to be dead", || fs::metadata(format!("/proc/{dead}/exe")).is_err()).await;
        until("the container to end", || fs::metadata(format!("/proc/{}/exe", pids[1])).is_err())
            .await;
        node.start();
        let adoption = node.supervisor.adopt_all().await;
        assert_eq!((adoption.adopted, adoption.cleaned, adoption.waiting), (2, 1, 0), "{name}");
        let tasks = node.supervisor.clone();

        let kept = tasks.get(&ns, "keeps", "").await.unwrap();
        assert_eq!((kept.status(), kept.pid), (Status::Running, pids[0]));
        let exit = tasks.wait(&ns, "ends", "").await.unwrap();
        assert_eq!(exit.status, 137, "{name}");
        assert_eq!(tasks.get(&ns, "ends", "").await.unwrap().status(), Status::Stopped);
        assert!(tasks.get(&ns, "dies", "").await.unwrap_err().is_not_found());
        assert!(!node.bundle("dies").exists());
        assert!(
            fs::metadata(format!("/proc/{}/exe", pids[2])).is_err(),
            "{name}: the orphan is killed"
        );

        assert_eq!(tasks.delete(&ns, "ends").await.unwrap().status, 137);
        tasks.kill(&ns, "keeps", "", 9, true).await.unwrap();
        assert_eq!(tasks.wait(&ns, "keeps", "").await.unwrap().status, 137);
        tasks.delete(&ns, "keeps").await.unwrap();
        let mut ends = Vec::new();
        while let Some(event) = node.events.try_next() {
            if event.topic.as_str() == "/tasks/exit" {
                ends.push(exit_of(&event).container_id);
            }
        }
        assert_eq!(ends.iter().filter(|id| *id == "dies").count(), 1, "{name}: {ends:?}");
        node.finish().await;
    }
}

#[tokio::test]
async fn a_killed_shim_is_a_killed_task() {
    for (name, shim) in shims() {
        eprintln!("shim: {name}");
        let mut node = Node::new().await;
        let (ns, tasks) = (node.namespace.clone(), node.supervisor.clone());
        let pid =
            tasks.create(&ns, request(&node, &shim, "c1", &["/bin/sleep", "1000"])).await.unwrap();
        tasks.start(&ns, "c1", "").await.unwrap();
        let waiting = tokio::spawn({
            let (tasks, ns) = (tasks.clone(), ns.clone());
            async move { tasks.wait(&ns, "c1", "").await }
        });
        kill(parent(pid));
        let (_, exit) = node.events_until("/tasks/exit").await;
        let exit = exit_of(&exit);
        assert_eq!((exit.exit_status, exit.pid, exit.id.as_str()), (137, pid, "c1"), "{name}");
        let (_, delete) = node.events_until("/tasks/delete").await;
        assert_eq!(delete_of(&delete).exit_status, 137);
        assert_eq!(waiting.await.unwrap().unwrap().status, 137);
        until("the task to go", || !tasks.exists(&ns, "c1")).await;
        assert!(tasks.delete(&ns, "c1").await.unwrap_err().is_not_found());
        assert!(processes(&node.folder.path().display().to_string()).is_empty());
        // The name is free again.
        tasks.create(&ns, request(&node, &shim, "c1", &["/bin/sleep", "1000"])).await.unwrap();
        tasks.kill(&ns, "c1", "", 9, false).await.unwrap();
        tasks.wait(&ns, "c1", "").await.unwrap();
        tasks.delete(&ns, "c1").await.unwrap();
        node.finish().await;
    }
}

#[tokio::test]
async fn a_fast_exit_is_never_lost() {
    for (name, shim) in shims() {
        eprintln!("shim: {name}");
        let mut node = Node::new().await;
        let (ns, tasks) = (node.namespace.clone(), node.supervisor.clone());
        for number in 0..3u32 {
            let id = format!("c{number}");
            let script = format!("exit {number}");
            tasks
                .create(&ns, request(&node, &shim, &id, &["/bin/sh", "-c", &script]))
                .await
                .unwrap();
            tasks.start(&ns, &id, "").await.unwrap();
            assert_eq!(tasks.wait(&ns, &id, "").await.unwrap().status, number, "{name}");
            assert_eq!(tasks.delete(&ns, &id).await.unwrap().status, number);
            let (topics, _) = node.events_until("/tasks/delete").await;
            assert_eq!(
                topics,
                ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"],
                "{name}"
            );
        }
        node.finish().await;
    }
}

#[tokio::test]
async fn a_client_of_1_0_gets_the_runtime_of_today() {
    let Some((_, shim)) = shims().into_iter().find(|(name, _)| name == "own") else { return };
    let daemon = shim.with_file_name("containerd");
    let node = Node::with(|config| config.containerd_binary = daemon).await;
    let (ns, tasks) = (node.namespace.clone(), node.supervisor.clone());
    let root = node.folder.path().join("old-root");
    for name in ["io.containerd.runtime.v1.linux", "io.containerd.runc.v1"] {
        let mut request = request(&node, &shim, "c1", &["/bin/sleep", "1000"]);
        let old = linux_runc::RuncOptions {
            runtime: "runc".to_owned(),
            runtime_root: root.display().to_string(),
            ..linux_runc::RuncOptions::default()
        };
        request.runtime = Runtime { name: name.to_owned(), options: Some(typeurl::encode(&old)) };
        let create = linux_runc::CreateOptions { no_new_keyring: true, ..Default::default() };
        for options in [None, Some(typeurl::encode(&create))] {
            request.options = options;
            tasks.create(&ns, request.clone()).await.unwrap();
            tasks.start(&ns, "c1", "").await.unwrap();
            // Options of the task stand beside those of the runtime, as in 1.0.
            assert!(root.join(ns.as_str()).join("c1").exists(), "{name}");
            tasks.kill(&ns, "c1", "", 9, false).await.unwrap();
            assert_eq!(tasks.wait(&ns, "c1", "").await.unwrap().status, 137);
            tasks.delete(&ns, "c1").await.unwrap();
        }
    }
    node.finish().await;
}
