//! `ctr run --rm` of a static program.

use std::time::Duration;

use anyhow::Result;
use e2e::Maker;
use e2e::world::IMAGE;

use crate::report::{Promise, Row, Unit};
use crate::rounds;
use crate::side::Plan;

/// The most that one run may take.
const LIMIT: Duration = Duration::from_secs(60);

/// Wall time, from the start of `ctr` to its end: with the `ctr` of containerd for all, and each side
/// with the one that comes with it.
///
/// # Errors
///
/// A run fails.
pub fn measure(plan: &Plan) -> Result<Vec<Row>> {
    let mut sides = plan.sides(true)?;
    let line = format!("run --rm {IMAGE} run /bin/busybox true");
    let samples = rounds::interleave(plan, plan.rounds(30, 5), &mut sides, |side| {
        let same = side.time_ctr(Maker::Forky, &line, LIMIT)?;
        let own = side.time_ctr(side.maker, &line, LIMIT)?;
        Ok(vec![same, own])
    })?;
    let row = |what: &str, at| Row {
        what: format!("`ctr run --rm` of a static program{what}"),
        unit: Unit::Seconds,
        values: plan.medians(&samples, at),
        promise: Promise::AtMost(0.6),
    };
    Ok(vec![row("", 0), row(", each with its own `ctr`", 1)])
}
