//! One container after another: create, attach, exec, resize, stats, pause, exit.

use std::fs::File;
use std::io::{Read as _, Write as _};

use anyhow::{Context, Result, ensure};
use api_grpc::v0;
use e2e::v0::{NAMESPACE, Old, fails, next, seen, until_exit};
use e2e::{process, wait};
use rustix::process::Signal;
use tonic::Code;

use super::old;
use crate::skip;

fn signal(id: &str, pid: &str, signal: u32) -> v0::SignalRequest {
    v0::SignalRequest { id: id.to_owned(), pid: pid.to_owned(), signal }
}

/// What Docker does for `docker run -i`, with the fifos open before.
#[test]
fn create_attach_exec_and_exit() {
    old("", |_, old| {
        let fifos = ["in", "out", "err"].map(|name| old.fifo(name));
        let [stdin, stdout, stderr] = fifos;
        let request = v0::CreateContainerRequest {
            stdin: stdin?,
            stdout: stdout?,
            stderr: stderr?,
            labels: vec!["role=test".to_owned(), "odd label".to_owned()],
            ..old.create("one", "echo begun; cat; echo done >&2; exit 7")?
        };
        let (input, output, errors) =
            (request.stdin.clone(), request.stdout.clone(), request.stderr.clone());
        let reader = std::thread::spawn(move || -> Result<(String, String)> {
            let mut texts = (String::new(), String::new());
            File::open(output)?.read_to_string(&mut texts.0)?;
            File::open(errors)?.read_to_string(&mut texts.1)?;
            Ok(texts)
        });
        old.block_on(async {
            let mut client = old.connect().await?;
            let mut events = client.events(v0::EventsRequest::default()).await?.into_inner();
            let answer = client.create_container(request.clone()).await?.into_inner();
            let container = answer.container.context("no container")?;
            ensure!(container.status == "running" && container.pids.is_empty(), "{container:?}");
            ensure!(container.runtime == "runc" && container.labels == request.labels);
            let init = &container.processes[0];
            ensure!(init.pid == "init" && init.system_pid > 0 && init.stdout == request.stdout);
            ensure!(init.capabilities == ["CAP_KILL", "CAP_CHOWN"], "{init:?}");

            let add = old.add("one", "e1", "exit 5");
            let added = client.add_process(add).await?.into_inner();
            ensure!(added.system_pid > 0);
            let wanted =
                [("start-container", "", 0), ("start-process", "e1", 0), ("exit", "e1", 5)];
            for (kind, pid, status) in wanted {
                let event = seen(&next(&mut events).await?);
                ensure!(event == (kind.into(), "one".into(), pid.into(), status), "{event:?}");
            }
            // What is told has happened.
            let state = client.state(v0::StateRequest { id: "one".into() }).await?.into_inner();
            let container = &state.containers[0];
            ensure!(container.processes.len() == 1 && !container.pids.is_empty(), "{container:?}");
            ensure!(container.pids.contains(&init.system_pid));
            ensure!(state.machine.is_some_and(|machine| machine.cpus > 0 && machine.memory > 0));

            File::options().write(true).open(&input)?.write_all(b"through\n")?;
            let close = v0::UpdateProcessRequest {
                id: "one".into(),
                pid: "init".into(),
                close_stdin: true,
                ..v0::UpdateProcessRequest::default()
            };
            client.update_process(close).await?;
            let event = seen(&next(&mut events).await?);
            ensure!(event == ("exit".into(), "one".into(), "init".into(), 7), "{event:?}");
            // The container is gone when its exit is seen, and its id is free.
            let gone = client.state(v0::StateRequest { id: "one".into() }).await;
            fails(gone, Code::Unknown, "containerd: container not found")?;
            client.create_container(old.create("one", "exit 0")?).await?;
            until_exit(&mut events, "one").await?;
            anyhow::Ok(())
        })?;
        let texts = reader.join().map_err(|_| anyhow::anyhow!("the reader died"))??;
        ensure!(texts == ("begun\nthrough\n".to_owned(), "done\n".to_owned()), "{texts:?}");
        Ok(())
    });
}

/// A client that attaches late, even after the end, finds what was written; one that never does
/// holds nothing up.
#[test]
fn late_readers_lose_nothing() {
    old("", |_, old| {
        let (late, never) = (old.fifo("late")?, old.fifo("never")?);
        old.block_on(async {
            let mut client = old.connect().await?;
            let mut events = client.events(v0::EventsRequest::default()).await?.into_inner();
            let request = v0::CreateContainerRequest {
                stdout: late.clone(),
                stderr: never.clone(),
                ..old.create("late", "echo last words; echo unread >&2")?
            };
            client.create_container(request).await?;
            until_exit(&mut events, "late").await?;
            anyhow::Ok(())
        })?;
        let mut text = String::new();
        File::open(&late)?.read_to_string(&mut text)?;
        ensure!(text == "last words\n", "{text:?}");
        // While it runs: all that was written before somebody came, up to what a pipe holds.
        let running = old.fifo("running")?;
        old.block_on(async {
            let mut client = old.connect().await?;
            let script = "dd if=/dev/zero bs=1k count=60 2>/dev/null; echo full; sleep 1000";
            let request = v0::CreateContainerRequest {
                stdout: running.clone(),
                ..old.create("run", script)?
            };
            client.create_container(request).await?;
            anyhow::Ok(())
        })?;
        wait::until("the output to be written", || {
            let ended = process::with_argument(|word| word == "count=60");
            ensure!(ended.is_empty(), "{ended:?}");
            Ok(())
        })?;
        let mut output = vec![0; (60 << 10) + "full\n".len()];
        File::open(&running)?.read_exact(&mut output)?;
        ensure!(output.ends_with(b"\0full\n"));
        old.block_on(async {
            let mut client = old.connect().await?;
            let mut events = client.events(v0::EventsRequest::default()).await?.into_inner();
            client.signal(signal("run", "init", 9)).await?;
            until_exit(&mut events, "run").await?;
            anyhow::Ok(())
        })
    });
}

#[test]
fn a_terminal_has_the_size_that_was_asked_for() {
    old("", |_, old| {
        let output = old.fifo("tty")?;
        let mut spec = old.spec(
            "tty",
            &[
                "/bin/sh",
                "-c",
                "while [ \"$(stty size 2>/dev/null)\" != '7 9' ]; do sleep 0.05; done; echo sized",
            ],
        );
        spec["process"]["terminal"] = true.into();
        let request = v0::CreateContainerRequest {
            id: "tty".to_owned(),
            bundle_path: old.bundle_of("tty", &spec)?,
            stdout: output.clone(),
            ..v0::CreateContainerRequest::default()
        };
        let reader = std::thread::spawn(move || -> Result<String> {
            let mut text = String::new();
            File::open(output)?.read_to_string(&mut text)?;
            Ok(text)
        });
        old.block_on(async {
            let mut client = old.connect().await?;
            let mut events = client.events(v0::EventsRequest::default()).await?.into_inner();
            client.create_container(request).await?;
            let resize = v0::UpdateProcessRequest {
                id: "tty".into(),
                pid: "init".into(),
                width: 9,
                height: 7,
                ..v0::UpdateProcessRequest::default()
            };
            client.update_process(resize).await?;
            until_exit(&mut events, "tty").await?;
            anyhow::Ok(())
        })?;
        let text = reader.join().map_err(|_| anyhow::anyhow!("the reader died"))??;
        ensure!(text == "sized\r\n", "{text:?}");
        Ok(())
    });
}

#[test]
fn pause_signals_limits_and_stats() {
    old("", |world, old| {
        old.block_on(async {
            let mut client = old.connect().await?;
            let mut events = client.events(v0::EventsRequest::default()).await?.into_inner();
            client.create_container(old.create("p", "sleep 1000")?).await?;
            let update = |status: &str, memory_limit| v0::UpdateContainerRequest {
                id: "p".to_owned(),
                pid: "init".to_owned(),
                status: status.to_owned(),
                resources: Some(v0::UpdateResource { memory_limit, ..Default::default() }),
            };
            let memory = process::has_memory_controller();
            let limit = |stats: &v0::StatsResponse| {
                let stats = stats.cgroup_stats.as_ref()?.memory_stats.as_ref()?;
                Some(stats.usage.as_ref()?.limit)
            };
            // The resources beside a status are not looked at.
            client.update_container(update("paused", 50 << 20)).await?;
            let twice = client.update_container(update("paused", 0)).await;
            let text = twice.err().context("paused twice")?;
            ensure!(text.message().starts_with("exit status 1: \""), "{text:?}");
            let state = client.state(v0::StateRequest { id: "p".into() }).await?.into_inner();
            ensure!(state.containers[0].status == "running", "{state:?}");
            ensure!(!state.containers[0].pids.is_empty());
            let stats = client.stats(v0::StatsRequest { id: "p".into() }).await?.into_inner();
            if memory {
                ensure!(limit(&stats).is_some_and(|limit| limit > 50 << 20), "{stats:?}");
            }
            client.update_container(update("running", 0)).await?;
            let unknown = client.update_container(update("gone", 0)).await;
            fails(unknown, Code::Unknown, "containerd: unknown container status ")?;
            if memory {
                client.update_container(update("", 50 << 20)).await?;
                let stats = client.stats(v0::StatsRequest { id: "p".into() }).await?.into_inner();
                ensure!(limit(&stats) == Some(50 << 20), "{stats:?}");
                let groups = stats.cgroup_stats.context("no figures")?;
                ensure!(groups.cpu_stats.is_some_and(|cpu| cpu.system_usage > 0));
                ensure!(groups.pids_stats.is_some_and(|pids| pids.current >= 1));
            }
            fails(
                client.signal(signal("p", "init", 999)).await,
                Code::Unknown,
                "invalid argument",
            )?;
            client.signal(signal("p", "init", 0)).await?;
            let text = "containerd: process not found for container";
            fails(client.signal(signal("p", "x", 9)).await, Code::Unknown, text)?;
            client.signal(signal("p", "init", 9)).await?;
            let all: Vec<_> = until_exit(&mut events, "p")
                .await?
                .iter()
                .map(|event| event.r#type.clone())
                .collect();
            ensure!(all == ["start-container", "pause", "resume", "exit"], "{all:?}");
            anyhow::Ok(())
        })?;
        // The newer services saw the same container, and have lost it with its end.
        ensure!(!world.log().contains("panicked"));
        Ok(())
    });
}

#[test]
fn an_oom_is_told_before_the_exit() {
    old("", |_, old| {
        if !process::has_memory_controller() {
            skip!("no control group limits memory");
        }
        let mut spec = old.spec(
            "oom",
            &["/bin/sh", "-c", "sleep 0.3; dd if=/dev/zero of=/dev/null bs=200M count=1"],
        );
        spec["linux"]["resources"] =
            serde_json::json!({"memory": {"limit": 20 << 20, "swap": 20 << 20}});
        old.block_on(async {
            let mut client = old.connect().await?;
            let mut events = client.events(v0::EventsRequest::default()).await?.into_inner();
            let request = v0::CreateContainerRequest {
                id: "oom".to_owned(),
                bundle_path: old.bundle_of("oom", &spec)?,
                ..v0::CreateContainerRequest::default()
            };
            client.create_container(request).await?;
            let all = until_exit(&mut events, "oom").await?;
            let oom = all.iter().position(|event| event.r#type == "oom");
            ensure!(oom.is_some_and(|at| at + 1 < all.len()), "{all:?}");
            anyhow::Ok(())
        })
    });
}

/// The container is one of the newer services as well; they can end it.
#[test]
fn the_newer_services_see_the_same_container() {
    old("", |world, old| {
        let mut told = world.start_ctr("events")?;
        wait::until("the first event", || {
            let name = format!("probe{}", told.stdout().len());
            world.try_ctr(&format!("namespaces create {name}"))?;
            world.try_ctr(&format!("namespaces rm {name}"))?;
            ensure!(told.stdout().contains("/namespaces/create"));
            Ok(())
        })?;
        old.block_on(async {
            let mut client = old.connect().await?;
            let request = v0::CreateContainerRequest {
                labels: vec!["role=web".to_owned()],
                ..old.create("both", "sleep 1000")?
            };
            client.create_container(request).await?;
            anyhow::Ok(())
        })?;
        ensure!(old.ctr("containers ls -q")? == "both\n");
        ensure!(old.ctr("containers info both")?.contains("\"role\": \"web\""));
        ensure!(old.ctr("tasks ls")?.contains("RUNNING"));
        ensure!(old.ctr("tasks metrics both")?.contains("both"));
        ensure!(old.ctr("namespaces ls -q")?.contains(NAMESPACE));
        ensure!(old.ctr("tasks exec --exec-id x both echo from the newer side")?.contains("newer"));
        old.block_on(async {
            let mut client = old.connect().await?;
            let mut events = client.events(v0::EventsRequest::default()).await?.into_inner();
            old.ctr("tasks pause both")?;
            old.ctr("tasks resume both")?;
            old.ctr("tasks kill -s SIGKILL both")?;
            let all: Vec<_> = until_exit(&mut events, "both").await?.iter().map(seen).collect();
            let kinds: Vec<&str> = all.iter().map(|event| event.0.as_str()).collect();
            ensure!(kinds == ["pause", "resume", "exit"] && all[2].3 == 137, "{all:?}");
            anyhow::Ok(())
        })?;
        ensure!(old.ctr("tasks ls -q")?.is_empty());
        let text = told.until_stdout("/tasks/delete")?;
        let own = |topic: &&str| text.contains(&format!(" {NAMESPACE} {topic} "));
        let topics = ["/containers/create", "/tasks/create", "/tasks/start", "/tasks/exit"];
        ensure!(topics.iter().all(own), "{text}");
        world.forgive_fifos()
    });
}

#[test]
fn a_checkpoint_is_restored() {
    old("", |world, old| {
        if let Some(reason) = crate::checkpoint::criu(world)? {
            skip!("{reason}");
        }
        old.block_on(async {
            let mut client = old.connect().await?;
            let mut events = client.events(v0::EventsRequest::default()).await?.into_inner();
            client.create_container(old.create("c", "while true; do sleep 0.1; done")?).await?;
            // The client's own folder, as Docker's.
            let folder = world.path("files/checkpoints").display().to_string();
            let list =
                || v0::ListCheckpointRequest { id: "c".into(), checkpoint_dir: folder.clone() };
            let missing = client.list_checkpoint(list()).await.err().context("a list")?;
            ensure!(missing.code() == Code::NotFound, "{missing:?}");
            let create = |exit| v0::CreateCheckpointRequest {
                id: "c".to_owned(),
                checkpoint: Some(v0::Checkpoint { name: "one".into(), exit, ..Default::default() }),
                checkpoint_dir: folder.clone(),
            };
            client.create_checkpoint(create(true)).await?;
            let all = until_exit(&mut events, "c").await?;
            ensure!(all.last().is_some_and(|event| event.status == 137), "{all:?}");
            let restore = v0::CreateContainerRequest {
                checkpoint: "one".to_owned(),
                checkpoint_dir: folder.clone(),
                ..old.create("c", "while true; do sleep 0.1; done")?
            };
            client.create_container(restore).await?;
            ensure!(seen(&next(&mut events).await?).0 == "start-container");
            let twice = client.create_checkpoint(create(false)).await.err().context("twice")?;
            ensure!(twice.code() == Code::AlreadyExists, "{twice:?}");
            let listed = client.list_checkpoint(list()).await?.into_inner().checkpoints;
            ensure!(listed.len() == 1 && listed[0].name == "one" && !listed[0].exit, "{listed:?}");
            let delete = |name: &str| v0::DeleteCheckpointRequest {
                id: "c".to_owned(),
                name: name.to_owned(),
                checkpoint_dir: folder.clone(),
            };
            client.delete_checkpoint(delete("one")).await?;
            client.delete_checkpoint(delete("unknown")).await?;
            ensure!(client.list_checkpoint(list()).await?.into_inner().checkpoints.is_empty());
            client.signal(signal("c", "init", 9)).await?;
            until_exit(&mut events, "c").await?;
            anyhow::Ok(())
        })
    });
}

/// A runtime whose start hangs costs its own caller, and only for the time limit.
#[test]
fn ten_hanging_starts_do_not_hold_up_the_eleventh() {
    old("start_timeout = \"3s\"\n", |world, old| {
        let hanging = world.path("files/hanging");
        let script = "#!/bin/sh\ncase \" $* \" in *\" create \"*) exec sleep 1000;; esac\nexec runc \"$@\"\n";
        std::fs::write(&hanging, script)?;
        std::fs::set_permissions(&hanging, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        old.block_on(async {
            let client = old.connect().await?;
            let mut starts = tokio::task::JoinSet::new();
            for number in 0..10 {
                let request = v0::CreateContainerRequest {
                    runtime: hanging.display().to_string(),
                    ..old.create(&format!("hang{number}"), "true")?
                };
                let mut client = client.clone();
                starts.spawn(async move { client.create_container(request).await });
            }
            let mut client = client;
            let mut events = client.events(v0::EventsRequest::default()).await?.into_inner();
            // Behind all of them, and not asked for again.
            let waiting = client.create_container(old.create("eleventh", "exit 3")?);
            let hanging = async {
                let text = "containerd: container did not start before the specified timeout";
                while let Some(ended) = starts.join_next().await {
                    fails(ended?, Code::Unknown, text)?;
                }
                anyhow::Ok(())
            };
            let (started, given_up) = tokio::join!(waiting, hanging);
            given_up?;
            started?;
            let all = until_exit(&mut events, "eleventh").await?;
            ensure!(all.len() == 2 && all[1].status == 3, "{all:?}");
            anyhow::Ok(())
        })?;
        wait::until("the hanging programs to be ended", || {
            let left = process::with_argument(|word| word == hanging.display().to_string());
            ensure!(left.is_empty(), "{left:?}");
            Ok(())
        })
    });
}

/// A shim that is killed takes its container with it; both are told.
#[test]
fn a_shim_that_is_killed() {
    old("", |_, old: &Old<'_>| {
        old.block_on(async {
            let mut client = old.connect().await?;
            let mut events = client.events(v0::EventsRequest::default()).await?.into_inner();
            client.create_container(old.create("s", "sleep 1000")?).await?;
            client.add_process(old.add("s", "e", "sleep 1000")).await?;
            let shims = old.shims();
            ensure!(shims.len() == 1, "{shims:?}");
            process::signal(shims[0], Signal::KILL)?;
            let all: Vec<_> = until_exit(&mut events, "s").await?.iter().map(seen).collect();
            let exits: Vec<&str> = all
                .iter()
                .filter(|event| event.0 == "exit")
                .map(|event| event.2.as_str())
                .collect();
            ensure!(exits == ["e", "init"], "{all:?}");
            ensure!(all.last().is_some_and(|event| event.3 == 137), "{all:?}");
            anyhow::Ok(())
        })
    });
}
