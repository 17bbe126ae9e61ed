//! Containers per second, many at once.

use std::time::Instant;

use anyhow::Result;
use tokio::task::JoinSet;

use crate::api::{self, Lane, Template};
use crate::report::{Promise, Row, Unit};
use crate::rounds::{self, AsSide};
use crate::side::{Plan, Side};

/// Clients, each with its own connection.
const CLIENTS: usize = 16;

/// A side with its clients.
struct Clients {
    side: Side,
    runtime: tokio::runtime::Runtime,
    lanes: Vec<Lane>,
    template: Template,
    /// Ids are never used again.
    next: usize,
}

impl AsSide for Clients {
    fn as_side(&self) -> &Side {
        &self.side
    }
}

/// Lives of containers per second: snapshot, record, create, start, end, delete.
///
/// # Errors
///
/// A container fails.
pub fn measure(plan: &Plan) -> Result<Vec<Row>> {
    let each = if plan.quick { 2 } else { 6 };
    let mut sides: Vec<Clients> =
        plan.sides(true)?.into_iter().map(Clients::new).collect::<Result<_>>()?;
    let samples = rounds::interleave(plan, plan.rounds(5, 1), &mut sides, |clients| {
        clients.run(each).map(|rate| vec![rate])
    })?;
    Ok(vec![Row {
        what: format!("lives of containers, {CLIENTS} at once"),
        unit: Unit::PerSecond,
        values: plan.medians(&samples, 0),
        promise: Promise::AtLeast(1.5),
    }])
}

impl Clients {
    fn new(side: Side) -> Result<Clients> {
        let runtime = api::runtime()?;
        let (lanes, template) = runtime.block_on(async {
            let lanes = Lane::connect_many(&side.world, CLIENTS).await?;
            let template = Template::take(&side.world, &lanes[0], "/bin/busybox true").await?;
            anyhow::Ok((lanes, template))
        })?;
        Ok(Clients { side, runtime, lanes, template, next: 0 })
    }

    /// `each` lives by each client; gives how many per second.
    fn run(&mut self, each: usize) -> Result<f64> {
        let first = self.next;
        self.next += CLIENTS * each;
        let begin = Instant::now();
        self.runtime.block_on(async {
            let mut clients = JoinSet::new();
            for (number, lane) in self.lanes.iter().cloned().enumerate() {
                let template = self.template.clone();
                clients.spawn(async move {
                    for life in 0..each {
                        let id = format!("cycle{}", first + number * each + life);
                        lane.cycle(&id, &template).await?;
                    }
                    anyhow::Ok(())
                });
            }
            while let Some(ended) = clients.join_next().await {
                ended??;
            }
            anyhow::Ok(())
        })?;
        #[expect(clippy::cast_precision_loss, reason = "some hundred at most")]
        Ok((CLIENTS * each) as f64 / begin.elapsed().as_secs_f64())
    }
}
