//! The full form of the churn test: 2,000 lives while daemons and shims are killed.

use anyhow::Result;
use e2e::Maker;
use e2e::churn::{Plan as Churn, run};

use crate::report::{Promise, Row, Unit};
use crate::side::Plan;

/// Lives of the full form, three quarters of them with kills.
const LIVES: usize = 2000;

/// Lives of a quick run.
const QUICK: usize = 120;

/// Runs it for our daemon; containerd leaves things behind. Fails where the test would.
///
/// # Errors
///
/// Something is left behind, an exit is not told or told twice, the daemon's memory grows.
pub fn measure(plan: &Plan) -> Result<Vec<Row>> {
    let lives = if plan.quick { QUICK } else { LIVES };
    let calm = lives / 4;
    let side = plan.side(Maker::Ours, true)?;
    let churn = Churn { wild: lives - calm, calm, clients: 16, seed: 2 };
    let figures = run(&side.world, churn)?;
    eprintln!("bench:   {figures:?}");
    Ok(vec![Row {
        what: format!(
            "churn: {lives} lives, {} daemons and {} shims killed, nothing left; calm part",
            figures.daemons, figures.shims
        ),
        unit: Unit::PerSecond,
        values: vec![(Maker::Ours, figures.rate)],
        promise: Promise::None,
    }])
}
