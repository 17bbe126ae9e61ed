//! Latency of a process in a container: the first one, and one that is added.

use std::time::Instant;

use anyhow::Result;

use crate::api::Template;
use crate::clients::Clients;
use crate::report::{Promise, Row, Unit};
use crate::rounds;
use crate::side::Plan;

/// Execs of one round, of which the median counts.
const EXECS: usize = 20;

/// Tasks that are made in one round, of which the median counts.
const TASKS: usize = 5;

/// The container that execs are added to.
const HOST: &str = "host";

/// The time of `Tasks.Create` (the shim starts, the runtime creates), and of an exec of `true`: Exec,
/// Start, Wait, `DeleteProcess`. One after the other, one client.
///
/// # Errors
///
/// A call fails.
pub fn measure(plan: &Plan) -> Result<Vec<Row>> {
    let sides = Clients::of(plan, true, 1)?.into_iter();
    let mut sides: Vec<Clients<Template>> = sides.map(with_host).collect::<Result<_>>()?;
    let samples = rounds::interleave(plan, plan.rounds(7, 2), &mut sides, tasks_and_execs)?;
    let row = |what: &str, at, promise| Row {
        what: what.to_owned(),
        unit: Unit::Seconds,
        values: plan.medians(&samples, at),
        promise,
    };
    Ok(vec![
        row("start of a shim and create of its task", 0, Promise::None),
        row("exec of `true`, round trip", 1, Promise::AtMost(0.7)),
    ])
}

/// The client with the container that execs are added to.
fn with_host(clients: Clients) -> Result<Clients<Template>> {
    let clients = clients.with_template("/bin/busybox sleep 3600")?;
    clients.block_on(clients.lanes[0].start(HOST, &clients.with))?;
    Ok(clients)
}

fn tasks_and_execs(clients: &mut Clients<Template>) -> Result<Vec<f64>> {
    let first = clients.numbers(EXECS.max(TASKS));
    let (lane, template) = (&clients.lanes[0], &clients.with);
    clients.block_on(async {
        let mut created = Vec::with_capacity(TASKS);
        for number in first..first + TASKS {
            let id = format!("task{number}");
            created.push(lane.create(&id, template).await?.as_secs_f64());
            lane.remove(&id).await?;
        }
        let mut execs = Vec::with_capacity(EXECS);
        for number in first..first + EXECS {
            let begin = Instant::now();
            lane.exec(HOST, &format!("exec{number}")).await?;
            execs.push(begin.elapsed().as_secs_f64());
        }
        Ok(vec![rounds::middle(&mut created), rounds::middle(&mut execs)])
    })
}
