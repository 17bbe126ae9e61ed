//! A daemon that is killed while it has much to do.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use e2e::world::{IMAGE, Options, check};
use e2e::{Maker, Table, World, process, wait};
use rustix::process::Signal;

use crate::skip;

/// Containers that run at the time of the crash.
const COUNT: usize = 20;

/// The tasks that the daemon knows: id to process id and status.
fn tasks(world: &World) -> Result<BTreeMap<String, (i32, String)>> {
    let table = Table::parse(&world.ctr("tasks ls")?)?;
    table.rows.iter().map(|row| Ok((row[0].clone(), (row[1].parse()?, row[2].clone())))).collect()
}

fn body(world: &World) -> Result<()> {
    if world.options().daemon == Maker::Forky {
        skip!("containerd 2.1 deletes a task that ended while it was down");
    }
    let mut starting = Vec::new();
    for number in 0..COUNT {
        starting.push(world.start_ctr(&format!("run -d {IMAGE} c{number} sleep 1000"))?);
        // Two at a time: this is not what is tested here.
        if number % 2 == 1 {
            for client in starting.drain(..) {
                client.wait()?.ok()?;
            }
        }
    }
    let before = tasks(world)?;
    ensure!(
        before.len() == COUNT && before.values().all(|(_, status)| status == "RUNNING"),
        "{before:?}"
    );
    let shims = world.shims().len();
    ensure!(shims == COUNT, "{shims} shims");
    let events = world.start_ctr("events")?;

    world.kill_daemon()?;
    drop(events);
    let (ended, _) = before["c7"];
    process::signal(ended, Signal::TERM).and_then(|()| process::signal(ended, Signal::KILL))?;
    wait::until("the container to end", || {
        ensure!(!process::runs(ended));
        Ok(())
    })?;
    for (id, (pid, _)) in &before {
        ensure!(id == "c7" || process::runs(*pid), "{id} died with the daemon");
    }
    world.start()?;

    wait::until("all tasks to be right", || {
        let after = tasks(world)?;
        let mut wanted = before.clone();
        wanted.entry("c7".to_owned()).and_modify(|task| task.1 = "STOPPED".to_owned());
        // The process id of a stopped task is told by some daemons and not by others.
        let plain = |tasks: &BTreeMap<String, (i32, String)>| -> BTreeMap<_, _> {
            tasks
                .iter()
                .map(|(id, (pid, status))| {
                    (id.clone(), (if id == "c7" { 0 } else { *pid }, status.clone()))
                })
                .collect()
        };
        if plain(&after) != plain(&wanted) {
            bail!("{after:?}");
        }
        Ok(())
    })?;
    ensure!(world.shims().len() == COUNT, "{} shims after the restart", world.shims().len());

    // The exit is reported to those who ask, whenever they ask.
    let client = world.client()?;
    let waited =
        client.block_on(client.tasks().wait(client.request(api_grpc::tasks::WaitRequest {
            container_id: "c7".into(),
            exec_id: String::new(),
        })))?;
    let waited = waited.into_inner();
    ensure!(waited.exit_status == 137 && waited.exited_at.is_some(), "{waited:?}");

    // All are usable, and a waiter that came after the restart sees the exit.
    for number in (0..COUNT).filter(|&number| number != 7) {
        let id = format!("c{number}");
        ensure!(world.ctr(&format!("tasks exec --exec-id e {id} echo {id}"))? == format!("{id}\n"));
        let mut tasks = client.tasks();
        let wait = tasks.wait(client.request(api_grpc::tasks::WaitRequest {
            container_id: id.clone(),
            exec_id: String::new(),
        }));
        let mut killer = client.tasks();
        let kill = killer.kill(client.request(api_grpc::tasks::KillRequest {
            container_id: id.clone(),
            exec_id: String::new(),
            signal: 9,
            all: false,
        }));
        let (waited, killed) = client.block_on(async { tokio::join!(wait, kill) });
        killed.with_context(|| format!("kill {id}"))?;
        let waited = waited.with_context(|| format!("wait for {id}"))?.into_inner();
        ensure!(waited.exit_status == 137, "{id}: {waited:?}");
    }
    for number in 0..COUNT {
        let deleted =
            client.block_on(client.tasks().delete(client.request(
                api_grpc::tasks::DeleteTaskRequest { container_id: format!("c{number}") },
            )));
        let deleted = deleted.with_context(|| format!("delete c{number}"))?.into_inner();
        ensure!(deleted.exit_status == 137, "c{number}: {deleted:?}");
        world.ctr(&format!("containers rm c{number}"))?;
    }
    // Deleted by other means than `ctr`, whose fifos these are.
    world.forgive_fifos()
}

#[test]
fn twenty_containers_survive_sigkill_of_the_daemon() {
    check(Options::new(Maker::Forky), body);
}

/// The kill comes at any point of starting and deleting; what is left must be whole or gone.
#[test]
fn killed_while_containers_start_and_end() {
    check(Options::new(Maker::Forky), |world| {
        if !world.is_ours() {
            skip!("containerd leaves a shim behind now and then");
        }
        for round in 0..12_u32 {
            let mut clients = Vec::new();
            for number in 0..4 {
                clients.push(world.start_ctr(&format!(
                    "run --rm {IMAGE} r{round}n{number} sh -c 'echo {number}'"
                ))?);
            }
            // Not a proof, only another moment each time.
            std::thread::sleep(std::time::Duration::from_millis(u64::from(round) * 30));
            world.kill_daemon()?;
            for client in clients {
                let _ = client.wait()?;
            }
            world.start()?;
            let answered = world.ctr("tasks ls -q")?;
            for id in answered.lines() {
                world.try_ctr(&format!("tasks rm --force {id}"))?;
            }
            for id in world.ctr("containers ls -q")?.lines() {
                world.ctr(&format!("containers rm {id}"))?;
            }
            ensure!(world.ctr("tasks ls -q")?.is_empty(), "{}", world.ctr("tasks ls")?);
            world.forgive_fifos()?;
            world.assert_clean().with_context(|| format!("round {round}"))?;
            let shown = world.ctr(&format!("run --rm {IMAGE} after echo works"))?;
            ensure!(shown == "works\n", "{shown}");
        }
        Ok(())
    });
}

/// A shim that dies takes its container with it; the task is told as killed.
#[test]
fn a_shim_that_is_killed() {
    check(Options::new(Maker::Forky), |world| {
        world.ctr(&format!("run -d {IMAGE} one sleep 1000"))?;
        let shims = world.shims();
        ensure!(shims.len() == 1, "{shims:?}");
        process::signal(shims[0], Signal::KILL)?;
        wait::until("the task to be told as ended or gone", || {
            let table = Table::parse(&world.ctr("tasks ls")?)?;
            let status = table.row("one").map(|row| row[2].clone());
            ensure!(status.as_deref().is_none_or(|status| status == "STOPPED"), "{status:?}");
            Ok(())
        })?;
        world.try_ctr("tasks rm --force one")?;
        world.ctr("containers rm one")?;
        world.forgive_fifos()?;
        if !world.is_ours() {
            world.forgive_sockets()?;
        }
        Ok(())
    });
}

/// Ten shims that hang delay themselves alone: at the start of the daemon, and at every list.
#[test]
fn shims_that_hang_at_the_start() {
    const HUNG: usize = 10;
    const WELL: usize = 3;
    let options = Options::new(Maker::Forky).map(|mut options| {
        // Longer than this test: as long as they hang, they are being adopted.
        options.tables = "[timeouts]\n  \"io.containerd.timeout.shim.load\" = \"5m\"\n".to_owned();
        options
    });
    check(options, |world| {
        if !world.is_ours() {
            skip!("containerd waits for each shim");
        }
        for number in 0..HUNG + WELL {
            world.ctr(&format!("run -d {IMAGE} c{number:02} sleep 1000"))?;
        }
        let before = tasks(world)?;
        let mut stopped = Vec::new();
        for (_, (pid, _)) in before.iter().take(HUNG) {
            let shim = process::parent(*pid).context("no parent")?;
            process::signal(shim, Signal::STOP)?;
            stopped.push(shim);
        }
        let outcome = while_they_hang(world, &before, HUNG);
        for shim in stopped {
            process::signal(shim, Signal::CONT)?;
        }
        outcome?;
        wait::until("all tasks to be right", || {
            let after = tasks(world)?;
            ensure!(after == before, "{after:?}");
            Ok(())
        })?;
        for id in before.keys() {
            world.ctr(&format!("tasks rm --force {id}"))?;
            world.ctr(&format!("containers rm {id}"))?;
        }
        world.forgive_fifos()
    });
}

fn while_they_hang(
    world: &World,
    before: &BTreeMap<String, (i32, String)>,
    hung: usize,
) -> Result<()> {
    world.kill_daemon()?;
    world.start()?;
    let well: Vec<&String> = before.keys().skip(hung).collect();
    wait::until("those that are well", || {
        let now = tasks(world)?;
        ensure!(now.keys().collect::<Vec<_>>() == well, "{now:?}");
        Ok(())
    })?;
    for id in &well {
        ensure!(world.ctr(&format!("tasks exec --exec-id e {id} echo {id}"))? == format!("{id}\n"));
    }
    let shown = operations(world)?;
    let adopting = shown.lines().filter(|line| line.contains(" adopt ")).count();
    ensure!(adopting == hung, "{shown}");
    ensure!(shown.contains("asking for the state") && shown.contains(" 300.0s "), "{shown}");
    Ok(())
}

/// What our `ctr` tells of the operations in flight.
fn operations(world: &World) -> Result<String> {
    let socket = world.socket().display().to_string();
    let ctr = Maker::Ours.ctr()?.display().to_string();
    world.run(&ctr, &["--address", &socket, "operations"])
}

/// What the daemon is doing is shown by our `ctr` and by the metrics.
#[test]
fn operations_are_shown() {
    check(Options::new(Maker::Forky), |world| {
        if !world.is_ours() {
            skip!("containerd does not tell");
        }
        let shown = operations(world)?;
        ensure!(
            shown.starts_with("starts: 0 of 10 running, 0 waiting\nID KIND NAMESPACE"),
            "{shown}"
        );
        let waiting = world.start_ctr(&format!("run --rm {IMAGE} one sleep 1000"))?;
        wait::until("the waiter to be shown", || {
            let shown = operations(world)?;
            let wanted = format!("wait {} one", world.namespace());
            let words = shown.split_whitespace().collect::<Vec<_>>().join(" ");
            ensure!(words.contains(&wanted), "{shown}");
            Ok(())
        })?;
        world.ctr("tasks kill -s KILL one")?;
        let ended = waiting.wait()?;
        ensure!(ended.status == 137, "{ended}");
        Ok(())
    });
}

/// The folder for temporary files is made, and told to all programs that the daemon starts.
#[test]
fn the_temporary_folder_is_exported() {
    let folder = match tempfile::Builder::new().prefix("ih-temp").tempdir_in("/dev/shm") {
        Ok(folder) => folder,
        Err(error) => panic!("{error}"),
    };
    let temp = folder.path().join("temp").display().to_string();
    let options = Options::new(Maker::Forky).map(|mut options| {
        options.top = format!("temp = {temp:?}");
        options
    });
    check(options, |world| {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(&temp)?.permissions().mode() & 0o7777;
        ensure!(mode == 0o700, "{mode:o}");
        world.ctr(&format!("run -d {IMAGE} one sleep 1000"))?;
        for pid in world.shims() {
            let environment = std::fs::read(format!("/proc/{pid}/environ"))?;
            let wanted = format!("TMPDIR={temp}");
            let found = environment.split(|byte| *byte == 0).any(|one| one == wanted.as_bytes());
            ensure!(found, "{}", String::from_utf8_lossy(&environment));
        }
        world.ctr("tasks rm --force one")?;
        world.ctr("containers rm one")?;
        world.forgive_fifos()
    });
}
