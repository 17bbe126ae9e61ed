//! Thousands of execs in one container: what the shim and the daemon keep of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};
use e2e::memory::private_dirty;
use tokio::task::JoinSet;

use crate::api::{self, Lane, Template};
use crate::report::{Promise, Row, Unit};
use crate::side::{Plan, Side};

/// Execs of the full form.
const EXECS: usize = 20_000;

/// Execs of a quick run.
const QUICK: usize = 1_000;

/// Execs at once.
const WORKERS: usize = 8;

/// The container that execs are added to.
const HOST: &str = "host";

/// What our shim may keep of half of them: pages come and go with the moment of the look.
const SLACK: f64 = 128.0 * 1024.0;

/// The growth of private dirty memory over the second half of the execs. Buffers and tables get the
/// size of the most execs at once during the first half; what is kept of each exec grows in both.
///
/// # Errors
///
/// An exec fails, or our shim has grown.
pub fn measure(plan: &Plan) -> Result<Vec<Row>> {
    let execs = if plan.quick { QUICK } else { EXECS };
    let mut rows = [("shim", Vec::new()), ("daemon", Vec::new())];
    for &maker in &plan.makers {
        let grown = grow(&plan.side(maker, true)?, execs)?;
        if maker == e2e::Maker::Ours {
            ensure!(
                grown[0] <= SLACK,
                "the shim has grown by {} bytes in {} execs",
                grown[0],
                execs / 2
            );
        }
        for (row, bytes) in rows.iter_mut().zip(grown) {
            row.1.push((maker, bytes));
        }
    }
    let row = |(who, values)| Row {
        what: format!("growth of a {who} over the second half of {execs} execs (private dirty)"),
        unit: Unit::Bytes,
        values,
        promise: Promise::None,
    };
    Ok(rows.map(row).into())
}

/// Shim and daemon.
fn grow(side: &Side, execs: usize) -> Result<[f64; 2]> {
    api::runtime()?.block_on(async {
        let lane = Lane::connect(&side.world).await?;
        let template = Template::take(&side.world, &lane, "/bin/busybox sleep 360000").await?;
        lane.start(HOST, &template).await?;
        let shim = *side.world.shims().first().context("no shim")?;
        let daemon = side.world.daemon_pid()?;
        let look = || anyhow::Ok([private_dirty(shim)?, private_dirty(daemon)?]);
        let before = look()?;
        run(&lane, 0..execs / 2).await?;
        let middle = look()?;
        run(&lane, execs / 2..execs).await?;
        let after = look()?;
        eprintln!("bench:   {}: shim and daemon {before:?}, {middle:?}, {after:?}", side.maker);
        lane.remove(HOST).await?;
        #[expect(clippy::cast_precision_loss, reason = "memory of a process is below 2^52 bytes")]
        Ok([0, 1].map(|at| after[at].saturating_sub(middle[at]) as f64))
    })
}

/// Runs the execs of these numbers, some at once.
async fn run(lane: &Lane, numbers: std::ops::Range<usize>) -> Result<()> {
    let next = Arc::new(AtomicUsize::new(numbers.start));
    let mut workers = JoinSet::new();
    for _ in 0..WORKERS {
        let (lane, next) = (lane.clone(), Arc::clone(&next));
        workers.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= numbers.end {
                    return anyhow::Ok(());
                }
                lane.exec(HOST, &format!("exec{number}")).await?;
            }
        });
    }
    while let Some(ended) = workers.join_next().await {
        ended??;
    }
    Ok(())
}
