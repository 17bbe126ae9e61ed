//! Containers per second, many at once.

use std::time::Instant;

use anyhow::Result;

use crate::api::Template;
use crate::clients::{Clients, MANY};
use crate::report::{Promise, Row, Unit};
use crate::rounds;
use crate::side::Plan;

/// Lives of containers per second: snapshot, record, create, start, end, delete.
///
/// # Errors
///
/// A container fails.
pub fn measure(plan: &Plan) -> Result<Vec<Row>> {
    let each = if plan.quick { 2 } else { 6 };
    let sides = Clients::of(plan, true, MANY)?.into_iter();
    let mut sides: Vec<Clients<Template>> =
        sides.map(|clients| clients.with_template("/bin/busybox true")).collect::<Result<_>>()?;
    let samples = rounds::interleave(plan, plan.rounds(5, 1), &mut sides, |clients| {
        lives(clients, each).map(|rate| vec![rate])
    })?;
    Ok(vec![Row {
        what: format!("lives of containers, {MANY} at once"),
        unit: Unit::PerSecond,
        values: plan.medians(&samples, 0),
        promise: Promise::AtLeast(1.5),
    }])
}

/// `each` lives by each client; gives how many per second.
fn lives(clients: &mut Clients<Template>, each: usize) -> Result<f64> {
    let first = clients.numbers(MANY * each);
    let begin = Instant::now();
    clients.at_once(MANY, |number, lane| {
        let template = clients.with.clone();
        async move {
            for life in 0..each {
                let id = format!("cycle{}", first + number * each + life);
                lane.cycle(&id, &template).await?;
            }
            Ok(())
        }
    })?;
    #[expect(clippy::cast_precision_loss, reason = "some hundred at most")]
    Ok((MANY * each) as f64 / begin.elapsed().as_secs_f64())
}
