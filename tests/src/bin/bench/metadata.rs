//! Metadata writes per second, where a sync is free and where it costs.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use e2e::world::Daemon;
use e2e::{Maker, process, wait};
use rustix::process::Signal;
use tokio::task::JoinSet;

use crate::api::{self, Lane, Template};
use crate::report::{Promise, Row, Unit};
use crate::rounds::{self, AsSide};
use crate::side::{Plan, Side};

/// Clients of the parallel rows, each with its own connection.
const CLIENTS: usize = 16;

/// How long one client, or all, write in one round.
const SPAN: Duration = Duration::from_millis(1500);

/// What is added to each sync, in microseconds: the flush of a good disk.
const SYNC_DELAY: u32 = 1000;

/// Writes of one turn of a client: lease and container made, container and lease deleted.
const WRITES: usize = 4;

/// A side with its clients.
struct Clients {
    // Before the side: the daemon ends before its folders go.
    _slow: Option<SlowDaemon>,
    side: Side,
    runtime: tokio::runtime::Runtime,
    lanes: Vec<Lane>,
    template: Template,
    next: usize,
}

impl AsSide for Clients {
    fn as_side(&self) -> &Side {
        &self.side
    }
}

/// On a file system in memory, and with a delay in each sync.
///
/// # Errors
///
/// A write fails, or strace is not there.
pub fn measure(plan: &Plan) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (slow, where_, promise) in [
        (false, "sync is free (tmpfs)", Promise::AtLeast(2.0)),
        (true, "a sync costs 1 ms more", Promise::AtLeast(4.0)),
    ] {
        let mut sides: Vec<Clients> = plan
            .makers
            .iter()
            .map(|&maker| Clients::new(plan, maker, slow))
            .collect::<Result<_>>()?;
        let samples = rounds::interleave(plan, plan.rounds(7, 2), &mut sides, |clients| {
            Ok(vec![clients.run(1)?, clients.run(CLIENTS)?])
        })?;
        let row = |what: String, at, promise| Row {
            what,
            unit: Unit::PerSecond,
            values: plan.medians(&samples, at),
            promise,
        };
        rows.push(row(format!("metadata writes, 1 client, {where_}"), 0, Promise::None));
        rows.push(row(format!("metadata writes, {CLIENTS} clients, {where_}"), 1, promise));
    }
    Ok(rows)
}

impl Clients {
    fn new(plan: &Plan, maker: Maker, slow: bool) -> Result<Clients> {
        let runtime = api::runtime()?;
        // The template comes from the daemon as it is; a slow one takes its place.
        let side = plan.side(maker, true)?;
        let template = runtime.block_on(async {
            let lane = Lane::connect(&side.world).await?;
            Template::take(&side.world, &lane, "/bin/busybox true").await
        })?;
        let slow = if slow { Some(SlowDaemon::start(&side)?) } else { None };
        let lanes = runtime.block_on(async {
            let mut lanes = Vec::new();
            for _ in 0..CLIENTS {
                lanes.push(Lane::connect(&side.world).await?);
            }
            anyhow::Ok(lanes)
        })?;
        Ok(Clients { _slow: slow, side, runtime, lanes, template, next: 0 })
    }

    /// Writes per second of `clients` that each wait for every answer.
    fn run(&mut self, clients: usize) -> Result<f64> {
        self.next += 1;
        let round = self.next;
        let begin = Instant::now();
        let writes = self.runtime.block_on(async {
            let mut writers = JoinSet::new();
            for (number, lane) in self.lanes.iter().take(clients).cloned().enumerate() {
                let template = self.template.clone();
                writers.spawn(async move {
                    let mut writes = 0;
                    while begin.elapsed() < SPAN {
                        let id = format!("write-{round}-{number}-{writes}");
                        lane.create_lease(&id).await?;
                        lane.create_container(template.container(&id)).await?;
                        lane.delete_container(&id).await?;
                        lane.delete_lease(&id).await?;
                        writes += WRITES;
                    }
                    anyhow::Ok(writes)
                });
            }
            let mut sum = 0;
            while let Some(ended) = writers.join_next().await {
                sum += ended??;
            }
            anyhow::Ok(sum)
        })?;
        #[expect(clippy::cast_precision_loss, reason = "some ten thousand at most")]
        Ok(writes as f64 / begin.elapsed().as_secs_f64())
    }
}

/// A daemon under strace, which makes each of its syncs longer and lets all else run freely.
#[derive(Debug)]
struct SlowDaemon {
    strace: Option<Daemon>,
}

impl SlowDaemon {
    /// Ends the daemon of `side` and starts it again under strace.
    fn start(side: &Side) -> Result<SlowDaemon> {
        side.world.stop_daemon()?;
        let program = ["/usr/bin/strace", "/usr/local/bin/strace"]
            .into_iter()
            .map(PathBuf::from)
            .find(|path| path.is_file())
            .context("no strace: install Debian's package strace")?;
        let mut command: Command = side.world.command(&program);
        let calls = "fsync,fdatasync,syncfs,sync,msync";
        // With a filter in the kernel, only these calls stop the daemon.
        command.args(["--follow-forks", "--seccomp-bpf", "--quiet=all", "--signal=none"]);
        command.arg("-e").arg(format!("trace={calls}"));
        command.arg("-e").arg(format!("inject={calls}:delay_exit={SYNC_DELAY}"));
        command.arg("--output=/dev/null").arg(side.maker.daemon()?);
        // The world wrote it for the daemon that has just ended.
        command.arg("--config").arg(side.world.path("config.toml"));
        let strace = Daemon::start(command, &side.world.path("log"), side.maker)?;
        let slow = SlowDaemon { strace: Some(strace) };
        wait::until("the daemon under strace to answer", || {
            if !slow.daemons().iter().any(|&pid| process::runs(pid)) {
                bail!("it does not run:\n{}", side.world.log());
            }
            side.world.client()?.version()
        })?;
        Ok(slow)
    }

    /// The children of strace.
    fn daemons(&self) -> Vec<i32> {
        let Some(strace) = &self.strace else { return Vec::new() };
        let pid = strace.pid();
        let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        text.unwrap_or_default().split(' ').filter_map(|word| word.parse().ok()).collect()
    }
}

impl Drop for SlowDaemon {
    fn drop(&mut self) {
        // When strace is killed, what it traces runs on: the daemon goes first, then strace ends.
        for pid in self.daemons() {
            let _ = process::signal(pid, Signal::KILL);
        }
        let gone = wait::until("the daemon to end", || match self.daemons().len() {
            0 => Ok(()),
            left => bail!("{left} left"),
        });
        if let Err(error) = gone {
            eprintln!("bench: {error:#}");
        }
        drop(self.strace.take());
    }
}
