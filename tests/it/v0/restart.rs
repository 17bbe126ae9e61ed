//! Daemons that end while containers run: live-restore, and replay.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use api_grpc::v0;
use e2e::v0::{Old, fails, next, seen, until_exit};
use e2e::{process, wait};
use rustix::process::Signal;
use tonic::Code;

use super::old;

/// Containers that run when the daemon ends.
const COUNT: usize = 5;

fn kill(id: &str) -> v0::SignalRequest {
    v0::SignalRequest { id: id.to_owned(), pid: "init".to_owned(), signal: 9 }
}

/// The pids of all containers, by id.
async fn pids(old: &Old<'_>) -> Result<BTreeMap<String, i32>> {
    let state = old.connect().await?.state(v0::StateRequest::default()).await?.into_inner();
    let mut pids = BTreeMap::new();
    for container in state.containers {
        ensure!(container.status == "running", "{container:?}");
        let init = container.processes.iter().find(|process| process.pid == "init");
        let pid = init.context("no init")?.system_pid;
        pids.insert(container.id.clone(), i32::try_from(pid)?);
    }
    Ok(pids)
}

/// Docker's live-restore: stored events first, by the time of the last one that it saw; then live.
#[test]
fn containers_survive_the_daemon_and_what_happened_is_replayed() {
    old("", |world, old| {
        let last = old.block_on(async {
            let mut client = old.connect().await?;
            let mut events = client.events(v0::EventsRequest::default()).await?.into_inner();
            for number in 0..COUNT {
                client.create_container(old.create(&format!("c{number}"), "sleep 1000")?).await?;
            }
            client.add_process(old.add("c0", "stays", "sleep 1000")).await?;
            let mut ends = old.add("c0", "ends", "while [ ! -e /tmp/never ]; do sleep 1; done");
            ends.terminal = false;
            client.add_process(ends).await?;
            let mut last = None;
            for _ in 0..COUNT + 2 {
                last = next(&mut events).await?.timestamp;
            }
            anyhow::Ok(last)
        })?;
        for kill_daemon in [true, false] {
            let before = old.block_on(pids(old))?;
            let round = usize::from(!kill_daemon);
            ensure!(before.len() == COUNT - round, "{before:?}");
            let state = old.block_on(async {
                let request = v0::StateRequest { id: "c0".into() };
                anyhow::Ok(old.connect().await?.state(request).await?.into_inner())
            })?;
            let processes = &state.containers[0].processes;
            let exec = processes.iter().find(|process| process.pid == "ends");
            if kill_daemon {
                world.kill_daemon()?
            } else {
                ensure!(world.stop_daemon()? == 0)
            }
            let mut ended = vec![before[&format!("c{}", round + 1)]];
            if let Some(exec) = exec.filter(|_| kill_daemon) {
                ended.push(i32::try_from(exec.system_pid)?);
            }
            for pid in ended {
                process::signal(pid, Signal::KILL)?;
                wait::until("a process to end", || {
                    ensure!(!process::runs(pid));
                    Ok(())
                })?;
            }
            world.start()?;
            let after = wait::until("the ended container to be gone", || {
                let after = old.block_on(pids(old))?;
                ensure!(after.len() == COUNT - round - 1, "{after:?}");
                Ok(after)
            })?;
            ensure!(after.iter().all(|(id, pid)| before.get(id) == Some(pid)), "{after:?}");
        }
        old.block_on(async {
            let mut client = old.connect().await?;
            let request = v0::EventsRequest { timestamp: last, ..Default::default() };
            let mut events = client.events(request).await?.into_inner();
            let mut exits = Vec::new();
            for _ in 0..3 {
                exits.push(seen(&next(&mut events).await?));
            }
            exits.sort();
            let exit = |id: &str, pid: &str| ("exit".into(), id.into(), pid.into(), 137);
            ensure!(
                exits == [exit("c0", "ends"), exit("c1", "init"), exit("c2", "init")],
                "{exits:?}"
            );
            // All can be used as before; the exec that lived on is still watched.
            let state = client.state(v0::StateRequest { id: "c0".into() }).await?.into_inner();
            let mut names: Vec<_> =
                state.containers[0].processes.iter().map(|process| process.pid.as_str()).collect();
            names.sort_unstable();
            ensure!(names == ["init", "stays"], "{names:?}");
            fails(
                client.create_container(old.create("c0", "true")?).await,
                Code::AlreadyExists,
                &format!("mkdir {}/c0: file exists", old.state_dir().display()),
            )?;
            client.add_process(old.add("c0", "again", "exit 4")).await?;
            ensure!(seen(&next(&mut events).await?).0 == "start-process");
            ensure!(
                seen(&next(&mut events).await?) == ("exit".into(), "c0".into(), "again".into(), 4)
            );
            for id in ["c3", "c4", "c0"] {
                client.signal(kill(id)).await?;
                let all: Vec<_> = until_exit(&mut events, id).await?.iter().map(seen).collect();
                let wanted = if id == "c0" {
                    vec![exit(id, "stays"), exit(id, "init")]
                } else {
                    vec![exit(id, "init")]
                };
                ensure!(all == wanted, "{all:?}");
            }
            // Stored events alone end; they are what was seen live, of one container or of all.
            let request = v0::EventsRequest { timestamp: last, stored_only: true, id: "c0".into() };
            let mut stored = client.events(request).await?.into_inner();
            let mut names = Vec::new();
            while let Some(event) = stored.message().await? {
                names.push(event.pid);
            }
            ensure!(names == ["ends", "again", "again", "stays", "init"], "{names:?}");
            anyhow::Ok(())
        })
    });
}

/// The daemon is killed at any point of starts and ends: each container that was answered has one
/// exit, each exec at most one, before it.
#[test]
fn killed_while_containers_start_and_end() {
    old("", |world, old| {
        let mut answered = Vec::new();
        for round in 0..4_u64 {
            let client = old.block_on(old.connect())?;
            let mut starts = Vec::new();
            for number in 0..6 {
                starts.push(old.create(&format!("r{round}n{number}"), "sleep 0.2; exit 3")?);
            }
            let created = old.block_on(async {
                let mut calls = tokio::task::JoinSet::new();
                for request in starts {
                    let mut client = client.clone();
                    calls.spawn(async move {
                        let id = request.id.clone();
                        client.create_container(request).await.ok().map(|_| id)
                    });
                }
                // Not a proof, only another moment each time.
                tokio::time::sleep(std::time::Duration::from_millis(round * 300)).await;
                world.kill_daemon()?;
                let mut created = Vec::new();
                while let Some(ended) = calls.join_next().await {
                    created.extend(ended?);
                }
                anyhow::Ok(created)
            })?;
            answered.extend(created);
            world.start()?;
            wait::until("all containers to end", || {
                let state = old.block_on(async {
                    anyhow::Ok(old.connect().await?.state(v0::StateRequest::default()).await?)
                })?;
                ensure!(state.get_ref().containers.is_empty(), "{state:?}");
                Ok(())
            })?;
        }
        let mut exits = BTreeMap::new();
        let mut started = BTreeSet::new();
        old.block_on(async {
            let timestamp = Some(api_shim::Timestamp { seconds: 1, nanos: 0 });
            let request = v0::EventsRequest { timestamp, stored_only: true, ..Default::default() };
            let mut stored = old.connect().await?.events(request).await?.into_inner();
            while let Some(event) = stored.message().await? {
                if event.r#type == "start-container" {
                    ensure!(started.insert(event.id.clone()), "{} starts twice", event.id);
                } else if event.r#type == "exit" {
                    ensure!(started.contains(&event.id), "{} ends without a start", event.id);
                    *exits.entry(event.id).or_insert(0) += 1;
                }
            }
            anyhow::Ok(())
        })?;
        for id in &answered {
            ensure!(exits.get(id) == Some(&1), "{id} of {exits:?}");
        }
        ensure!(exits.values().all(|count| *count == 1), "{exits:?}");
        Ok(())
    });
}
