//! Metadata writes per second, where a sync is free and where it costs.

use std::time::{Duration, Instant};

use anyhow::Result;
use e2e::Maker;
use tokio::task::JoinSet;

use crate::api::{self, Lane, Template};
use crate::report::{Promise, Row, Unit};
use crate::rounds::{self, AsSide};
use crate::side::{Plan, Side};
use crate::slow::SlowDaemon;

/// Clients of the parallel rows, each with its own connection.
const CLIENTS: usize = 16;

/// How long one client, or all, write in one round.
const SPAN: Duration = Duration::from_millis(1500);

/// Writes of one turn of a client: lease and container made, container and lease deleted.
const WRITES: usize = 4;

/// Writes of a turn that has a snapshot and an image as well.
const WRITES_OF_ALL: usize = 8;

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
            Ok(vec![
                clients.run(1, false)?,
                clients.run(CLIENTS, false)?,
                clients.run(CLIENTS, true)?,
            ])
        })?;
        let row = |what: String, at, promise| Row {
            what,
            unit: Unit::PerSecond,
            values: plan.medians(&samples, at),
            promise,
        };
        rows.push(row(format!("metadata writes, 1 client, {where_}"), 0, Promise::None));
        rows.push(row(format!("metadata writes, {CLIENTS} clients, {where_}"), 1, promise));
        let all = format!("the same with snapshots and images, {CLIENTS} clients, {where_}");
        rows.push(row(all, 2, promise));
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
        let lanes = runtime.block_on(Lane::connect_many(&side.world, CLIENTS))?;
        Ok(Clients { _slow: slow, side, runtime, lanes, template, next: 0 })
    }

    /// Writes per second of `clients` that each wait for every answer; `all` kinds of records, or
    /// leases and containers alone.
    fn run(&mut self, clients: usize, all: bool) -> Result<f64> {
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
                        if all {
                            lane.snapshot(&id, &template).await?;
                            lane.create_image(&id, writes).await?;
                            lane.delete_image(&id).await?;
                        }
                        lane.delete_container(&id).await?;
                        lane.delete_lease(&id).await?;
                        writes += if all { WRITES_OF_ALL } else { WRITES };
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
