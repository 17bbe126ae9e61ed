//! Latency of the smallest call.

use std::time::Instant;

use anyhow::Result;

use crate::clients::Clients;
use crate::report::{Promise, Row, Unit};
use crate::rounds;
use crate::side::Plan;

/// Calls of one round, of which the median counts.
const CALLS: usize = 2000;

/// `Version`, one call after the other on one connection.
///
/// # Errors
///
/// A call fails.
pub fn measure(plan: &Plan) -> Result<Vec<Row>> {
    let mut sides = Clients::of(plan, false, 1)?;
    let samples = rounds::interleave(plan, plan.rounds(15, 3), &mut sides, |clients| {
        call(clients).map(|median| vec![median])
    })?;
    Ok(vec![Row {
        what: "latency of a call (Version), one client".to_owned(),
        unit: Unit::Seconds,
        values: plan.medians(&samples, 0),
        promise: Promise::AtMost(0.7),
    }])
}

fn call(clients: &mut Clients) -> Result<f64> {
    let mut version = clients.lanes[0].version();
    clients.block_on(async {
        let mut taken = Vec::with_capacity(CALLS);
        for _ in 0..CALLS {
            let begin = Instant::now();
            version.version(()).await?;
            taken.push(begin.elapsed().as_secs_f64());
        }
        Ok(rounds::middle(&mut taken))
    })
}
