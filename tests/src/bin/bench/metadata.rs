//! Metadata writes per second, where a sync is free and where it costs.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::api::Template;
use crate::clients::{Clients, MANY};
use crate::report::{Promise, Row, Unit};
use crate::rounds;
use crate::side::Plan;

/// How long one client, or all, write in one round.
const SPAN: Duration = Duration::from_millis(1500);

/// Writes of one turn of a client: lease and container made, container and lease deleted.
const WRITES: usize = 4;

/// Writes of a turn that has a snapshot and an image as well.
const WRITES_OF_ALL: usize = 8;

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
        let sides = Clients::of(plan, true, MANY)?.into_iter();
        let mut sides: Vec<Clients<Template>> = sides
            .map(|clients| {
                // The template comes from the daemon as it is; a slow one takes its place.
                let clients = clients.with_template("/bin/busybox true")?;
                if slow { clients.slowed() } else { Ok(clients) }
            })
            .collect::<Result<_>>()?;
        let samples = rounds::interleave(plan, plan.rounds(7, 2), &mut sides, |clients| {
            Ok(vec![
                writes(clients, 1, false)?,
                writes(clients, MANY, false)?,
                writes(clients, MANY, true)?,
            ])
        })?;
        let row = |what: String, at, promise| Row {
            what,
            unit: Unit::PerSecond,
            values: plan.medians(&samples, at),
            promise,
        };
        rows.push(row(format!("metadata writes, 1 client, {where_}"), 0, Promise::None));
        rows.push(row(format!("metadata writes, {MANY} clients, {where_}"), 1, promise));
        let all = format!("the same with snapshots and images, {MANY} clients, {where_}");
        rows.push(row(all, 2, promise));
    }
    Ok(rows)
}

/// Writes per second of `count` clients that each wait for every answer; `all` kinds of records, or
/// leases and containers alone.
fn writes(clients: &mut Clients<Template>, count: usize, all: bool) -> Result<f64> {
    let round = clients.numbers(1);
    let begin = Instant::now();
    let writes: Vec<usize> = clients.at_once(count, |number, lane| {
        let template = clients.with.clone();
        async move {
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
            Ok(writes)
        }
    })?;
    #[expect(clippy::cast_precision_loss, reason = "some ten thousand at most")]
    Ok(writes.iter().sum::<usize>() as f64 / begin.elapsed().as_secs_f64())
}
