//! Memory that a daemon and a shim cost alone: private dirty pages.

use std::time::Duration;

use anyhow::{Result, bail};
use e2e::memory::private_dirty;
use e2e::wait;
use e2e::world::IMAGE;

use crate::report::{Promise, Row, Unit};
use crate::rounds;
use crate::side::{Plan, Side};

/// Containers whose shims are looked at.
const CONTAINERS: usize = 10;

/// What is not in the first milliseconds is part of being idle: collectors and timers have run.
const SETTLE: Duration = Duration::from_secs(2);

/// Daemon and shim.
///
/// # Errors
///
/// A daemon or a container does not start.
pub fn measure(plan: &Plan) -> Result<Vec<Row>> {
    let row = |what: String, values| Row {
        what,
        unit: Unit::Bytes,
        values,
        promise: Promise::AtMost(1.0 / 3.0),
    };
    let mut sides: Vec<Side> =
        plan.makers.iter().map(|&maker| plan.side_without_daemon(maker)).collect::<Result<_>>()?;
    let daemons = rounds::interleave(plan, plan.rounds(5, 1), &mut sides, daemon)?;
    let mut sides = plan.sides(true)?;
    let shims = rounds::interleave(plan, plan.rounds(3, 1), &mut sides, shim)?;
    Ok(vec![
        row("memory of an idle daemon (private dirty)".to_owned(), plan.medians(&daemons, 0)),
        row(
            format!("memory of a shim, mean of {CONTAINERS} (private dirty)"),
            plan.medians(&shims, 0),
        ),
    ])
}

/// A daemon that has just started and answered `ctr version`.
fn daemon(side: &mut Side) -> Result<Vec<f64>> {
    side.world.start()?;
    side.world.ctr("version")?;
    std::thread::sleep(SETTLE);
    let bytes = private_dirty(side.world.daemon_pid()?)?;
    side.world.stop_daemon()?;
    Ok(vec![to_f64(bytes)])
}

/// The shims of containers that sleep.
fn shim(side: &mut Side) -> Result<Vec<f64>> {
    for number in 0..CONTAINERS {
        side.world.ctr(&format!("run --detach {IMAGE} memory{number} /bin/busybox sleep 600"))?;
    }
    std::thread::sleep(SETTLE);
    let shims = side.world.shims();
    if shims.len() != CONTAINERS {
        bail!("{} shims for {CONTAINERS} containers", shims.len());
    }
    let mut sum = 0.0;
    for pid in shims {
        sum += to_f64(private_dirty(pid)?);
    }
    for number in 0..CONTAINERS {
        side.world.ctr(&format!("tasks rm --force memory{number}"))?;
        side.world.ctr(&format!("containers rm memory{number}"))?;
    }
    wait::until("the shims to end", || match side.world.shims().len() {
        0 => Ok(()),
        left => bail!("{left} left"),
    })?;
    #[expect(clippy::cast_precision_loss, reason = "a small constant")]
    Ok(vec![sum / CONTAINERS as f64])
}

#[expect(clippy::cast_precision_loss, reason = "memory of a process is far below 2^52 bytes")]
fn to_f64(bytes: u64) -> f64 {
    bytes as f64
}
