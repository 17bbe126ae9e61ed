//! A daemon that starts again while containers run.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tokio::task::JoinSet;

use crate::api::{self, Lane, Template};
use crate::report::{Promise, Row, Unit};
use crate::rounds;
use crate::side::{Plan, Side};

/// Containers that are made at the same time before the measure.
const STARTERS: usize = 4;

/// Between two looks at the socket.
const PACE: Duration = Duration::from_millis(1);

/// The most that a start may take.
const LIMIT: Duration = Duration::from_secs(60);

/// Time from the start of the program until the socket answers, and until all tasks are right.
///
/// # Errors
///
/// A container or a daemon does not start, or a task is not right.
pub fn measure(plan: &Plan, containers: usize) -> Result<Vec<Row>> {
    let mut sides = plan.sides(true)?;
    for side in &sides {
        rounds::check()?;
        fill(side, containers)?;
    }
    let samples =
        rounds::interleave(plan, plan.rounds(7, 2), &mut sides, |side| again(side, containers))?;
    let row = |what: &str, at, limit| Row {
        what: format!("start with {containers} running containers: {what}"),
        unit: Unit::Seconds,
        values: plan.medians(&samples, at),
        promise: Promise::Within(limit),
    };
    Ok(vec![row("answering", 0, 0.1), row("all tasks right", 1, 1.0)])
}

/// Starts `containers` that sleep.
fn fill(side: &Side, containers: usize) -> Result<()> {
    api::runtime()?.block_on(async {
        let lane = Lane::connect(&side.world).await?;
        let template = Template::take(&side.world, &lane, "/bin/busybox sleep 3600").await?;
        let mut starters = JoinSet::new();
        for starter in 0..STARTERS {
            let (lane, template) = (lane.clone(), template.clone());
            starters.spawn(async move {
                for number in (starter..containers).step_by(STARTERS) {
                    lane.start(&format!("restart{number}"), &template).await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(ended) = starters.join_next().await {
            ended??;
        }
        let running = lane.running_tasks().await?;
        if running != containers {
            bail!("{running} of {containers} containers run");
        }
        Ok(())
    })
}

/// Kills the daemon and starts it again.
fn again(side: &mut Side, containers: usize) -> Result<Vec<f64>> {
    side.world.kill_daemon()?;
    let runtime = api::runtime()?;
    let begin = Instant::now();
    side.world.launch(side.maker)?;
    runtime.block_on(async {
        let lane = loop {
            if let Ok(lane) = answering(side).await {
                break lane;
            }
            if begin.elapsed() > LIMIT {
                bail!("no answer after {LIMIT:?}\n{}", side.world.log());
            }
            tokio::time::sleep(PACE).await;
        };
        let answers = begin.elapsed();
        loop {
            let running = lane.running_tasks().await?;
            if running == containers {
                break;
            }
            if begin.elapsed() > LIMIT {
                bail!("{running} of {containers} tasks run after {LIMIT:?}");
            }
            tokio::time::sleep(PACE).await;
        }
        Ok(vec![answers.as_secs_f64(), begin.elapsed().as_secs_f64()])
    })
}

async fn answering(side: &Side) -> Result<Lane> {
    let lane = Lane::connect(&side.world).await?;
    lane.version().version(()).await?;
    Ok(lane)
}
