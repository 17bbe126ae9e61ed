//! The start of a shim, before there is any container: `containerd-shim-runc-v2 start`.

use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use e2e::process;
use rustix::process::Signal;

use crate::report::{Promise, Row, Unit};
use crate::rounds;
use crate::side::{Plan, Side};
use crate::timed;

/// Shims that are started in one round, of which the median counts.
const STARTS: usize = 5;

/// The most seconds that one start may take.
const LIMIT: &str = "20";

/// All that a shim reads of a spec before its first container.
const SPEC: &str = r#"{"ociVersion":"1.0.2","annotations":{}}"#;

/// From the start of the program until it has told the address on which the shim serves.
///
/// # Errors
///
/// A shim does not start.
pub fn measure(plan: &Plan) -> Result<Vec<Row>> {
    let mut sides: Vec<Side> =
        plan.makers.iter().map(|&maker| plan.side_without_daemon(maker)).collect::<Result<_>>()?;
    let mut next = 0;
    let samples = rounds::interleave(plan, plan.rounds(7, 2), &mut sides, |side| {
        let mut taken = Vec::with_capacity(STARTS);
        for _ in 0..STARTS {
            next += 1;
            taken.push(start(side, &format!("start{next}"))?);
        }
        Ok(vec![rounds::middle(&mut taken)])
    })?;
    Ok(vec![Row {
        what: "start of a shim, without a container".to_owned(),
        unit: Unit::Seconds,
        values: plan.medians(&samples, 0),
        promise: Promise::AtMost(0.6),
    }])
}

/// Starts one shim as a daemon does, and ends it.
fn start(side: &Side, id: &str) -> Result<f64> {
    let bundle = side.world.path(id);
    fs::create_dir(&bundle)?;
    fs::write(bundle.join("config.json"), SPEC)?;
    let _log = read_log(&bundle)?;
    let mut command = side.timer(&bundle);
    command.arg(LIMIT).arg(side.maker.shim()?);
    command.args(["-namespace", side.world.namespace(), "-address"]).arg(side.world.socket());
    command.args(["-publish-binary", "/bin/true", "-id", id, "start"]);
    let output = command.stdin(Stdio::null()).output().context("time a shim")?;
    // The serving process has the same arguments, or it has its own: its id in any case.
    for pid in process::with_argument(|word| word == id) {
        process::signal(pid, Signal::KILL)?;
    }
    side.world.forgive_sockets()?;
    if !output.status.success() {
        bail!("shim {id}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    timed::seconds(&output.stdout)
}

/// The fifo of a shim's log, with a reader: a shim waits for one.
fn read_log(bundle: &Path) -> Result<File> {
    let path = bundle.join("log");
    e2e::world::make_fifo(&path)?;
    Ok(File::options().read(true).write(true).open(path)?)
}
