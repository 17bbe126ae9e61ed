//! `ctr run --rm` of a static program.

use std::time::Duration;

use anyhow::Result;
use e2e::world::IMAGE;

use crate::report::{Promise, Row, Unit};
use crate::rounds;
use crate::side::Plan;

/// The most that one run may take.
const LIMIT: Duration = Duration::from_secs(60);

/// Wall time, from the start of `ctr` to its end.
///
/// # Errors
///
/// A run fails.
pub fn measure(plan: &Plan) -> Result<Vec<Row>> {
    let mut sides = plan.sides(true)?;
    let line = format!("run --rm {IMAGE} run /bin/busybox true");
    let samples = rounds::interleave(plan, plan.rounds(30, 5), &mut sides, |side| {
        Ok(vec![side.time_ctr(&line, LIMIT)?])
    })?;
    Ok(vec![Row {
        what: "`ctr run --rm` of a static program".to_owned(),
        unit: Unit::Seconds,
        values: plan.medians(&samples, 0),
        promise: Promise::AtMost(0.6),
    }])
}
