//! How long writers wait while garbage is collected.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::api;
use crate::clients::{Clients, MANY};
use crate::content;
use crate::report::{Promise, Row, Unit};
use crate::rounds;
use crate::side::Plan;

/// Blobs that one collection removes.
const BLOBS: usize = 5000;

/// Clients that write meanwhile, each with its own connection.
const WRITERS: usize = 4;

/// How long the writers write before the collection, to compare with.
const BEFORE: Duration = Duration::from_secs(1);

/// By how much a write may be held up, in seconds.
const HELD_UP: f64 = 0.005;

/// 5,000 blobs lose their lease at once; the 99th percentile of other clients' writes meanwhile,
/// less that of the second before.
///
/// # Errors
///
/// A call fails.
pub fn measure(plan: &Plan) -> Result<Vec<Row>> {
    let mut sides = Clients::of(plan, false, MANY)?;
    let samples = rounds::interleave(plan, plan.rounds(5, 2), &mut sides, collection)?;
    let row = |what: &str, at, promise| Row {
        what: what.to_owned(),
        unit: Unit::Seconds,
        values: plan.medians(&samples, at),
        promise,
    };
    Ok(vec![
        row(
            "a write is held up by the collection of 5,000 blobs, 99th percentile",
            0,
            Promise::Within(HELD_UP),
        ),
        row("the collection, with the removal of the files", 1, Promise::None),
    ])
}

/// One collection, with writers.
fn collection(clients: &mut Clients) -> Result<Vec<f64>> {
    let round = clients.numbers(1);
    let lanes = &clients.lanes;
    clients.block_on(async {
        let lease = format!("garbage-{round}");
        lanes[0].create_lease(&lease).await?;
        let makers = lanes.iter().enumerate().map(|(at, lane)| {
            let lease = &lease;
            async move {
                for number in (at..BLOBS).step_by(MANY) {
                    let name = format!("{round}-{number}");
                    let data = name.clone().into_bytes().into();
                    content::put(lane, Some(lease), &name, data).await?;
                }
                anyhow::Ok(())
            }
        });
        api::all(makers.collect()).await?;

        let stop = Cell::new(false);
        let taken = RefCell::new(Vec::new());
        let writers = lanes.iter().take(WRITERS).enumerate().map(|(at, lane)| {
            let (stop, taken) = (&stop, &taken);
            async move {
                let mut number = 0;
                while !stop.get() {
                    number += 1;
                    let begin = Instant::now();
                    lane.create_lease(&format!("write-{round}-{at}-{number}")).await?;
                    taken.borrow_mut().push((begin, Instant::now()));
                }
                anyhow::Ok(())
            }
        });
        let collection = async {
            tokio::time::sleep(BEFORE).await;
            let begin = Instant::now();
            let deleted = lanes[WRITERS].delete_lease_sync(&lease).await;
            stop.set(true);
            deleted?;
            anyhow::Ok((begin, Instant::now()))
        };
        let (written, collected) = tokio::join!(api::all(writers.collect()), collection);
        written?;
        let (begin, end) = collected?;
        let percentile = |during: &dyn Fn(Instant, Instant) -> bool| {
            let taken = taken.borrow();
            let mut times: Vec<f64> = taken
                .iter()
                .filter(|(from, to)| during(*from, *to))
                .map(|(from, to)| (*to - *from).as_secs_f64())
                .collect();
            times.sort_by(f64::total_cmp);
            times.get(times.len() * 99 / 100).copied().unwrap_or(f64::NAN)
        };
        let before = percentile(&|_, to| to <= begin);
        let meanwhile = percentile(&|_, to| to > begin);
        Ok(vec![(meanwhile - before).max(0.0), (end - begin).as_secs_f64()])
    })
}
