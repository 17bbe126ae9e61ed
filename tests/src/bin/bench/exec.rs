//! Latency of a process in a container: the first one, and one that is added.

use std::time::Instant;

use anyhow::Result;

use crate::api::{self, Lane, Template};
use crate::report::{Promise, Row, Unit};
use crate::rounds::{self, AsSide};
use crate::side::{Plan, Side};

/// Execs of one round, of which the median counts.
const EXECS: usize = 20;

/// Tasks that are made in one round, of which the median counts.
const TASKS: usize = 5;

/// The container that execs are added to.
const HOST: &str = "host";

/// A side with its one client.
struct Caller {
    side: Side,
    runtime: tokio::runtime::Runtime,
    lane: Lane,
    template: Template,
    /// Ids are never used again.
    next: usize,
}

impl AsSide for Caller {
    fn as_side(&self) -> &Side {
        &self.side
    }
}

/// The time of `Tasks.Create` (the shim starts, the runtime creates), and of an exec of `true`: Exec,
/// Start, Wait, `DeleteProcess`. One after the other, one client.
///
/// # Errors
///
/// A call fails.
pub fn measure(plan: &Plan) -> Result<Vec<Row>> {
    let mut sides: Vec<Caller> =
        plan.sides(true)?.into_iter().map(Caller::new).collect::<Result<_>>()?;
    let samples = rounds::interleave(plan, plan.rounds(7, 2), &mut sides, Caller::run)?;
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

impl Caller {
    fn new(side: Side) -> Result<Caller> {
        let runtime = api::runtime()?;
        let (lane, template) = runtime.block_on(async {
            let lane = Lane::connect(&side.world).await?;
            let template = Template::take(&side.world, &lane, "/bin/busybox sleep 3600").await?;
            lane.start(HOST, &template).await?;
            anyhow::Ok((lane, template))
        })?;
        Ok(Caller { side, runtime, lane, template, next: 0 })
    }

    fn run(&mut self) -> Result<Vec<f64>> {
        let first = self.next;
        self.next += EXECS.max(TASKS);
        let (lane, template) = (&self.lane, &self.template);
        self.runtime.block_on(async {
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
}
