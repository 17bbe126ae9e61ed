//! Latency of the smallest call.

use std::time::Instant;

use anyhow::Result;

use crate::api::{self, Lane};
use crate::report::{Promise, Row, Unit};
use crate::rounds::{self, AsSide};
use crate::side::{Plan, Side};

/// Calls of one round, of which the median counts.
const CALLS: usize = 2000;

/// A side with its one client.
struct Caller {
    side: Side,
    runtime: tokio::runtime::Runtime,
    lane: Lane,
}

impl AsSide for Caller {
    fn as_side(&self) -> &Side {
        &self.side
    }
}

/// `Version`, one call after the other on one connection.
///
/// # Errors
///
/// A call fails.
pub fn measure(plan: &Plan) -> Result<Vec<Row>> {
    let mut sides: Vec<Caller> =
        plan.sides(false)?.into_iter().map(Caller::new).collect::<Result<_>>()?;
    let samples = rounds::interleave(plan, plan.rounds(15, 3), &mut sides, |caller| {
        caller.run().map(|median| vec![median])
    })?;
    Ok(vec![Row {
        what: "latency of a call (Version), one client".to_owned(),
        unit: Unit::Seconds,
        values: plan.medians(&samples, 0),
        promise: Promise::AtMost(0.7),
    }])
}

impl Caller {
    fn new(side: Side) -> Result<Caller> {
        let runtime = api::runtime()?;
        let lane = runtime.block_on(Lane::connect(&side.world))?;
        Ok(Caller { side, runtime, lane })
    }

    fn run(&mut self) -> Result<f64> {
        let mut version = self.lane.version();
        self.runtime.block_on(async {
            let mut taken = Vec::with_capacity(CALLS);
            for _ in 0..CALLS {
                let begin = Instant::now();
                version.version(()).await?;
                taken.push(begin.elapsed().as_secs_f64());
            }
            Ok(rounds::middle(&mut taken))
        })
    }
}
