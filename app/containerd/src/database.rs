//! `containerd bolt`: what an administrator sees of a database file.

use std::path::Path;

use anyhow::{Result, bail};

/// Prints every problem of `file`; fails if there is one. Of a damaged file it tells also whether the
/// state before the newest is whole, to which the daemon goes back by itself.
#[expect(clippy::print_stdout, reason = "the command's output")]
pub fn check(file: &Path) -> Result<()> {
    let report = store_bolt::check(file)?;
    println!("txid {}, pages {}, used {}", report.txid, report.pages, report.used);
    for problem in &report.problems {
        println!("page {}: {}", problem.page, problem.reason);
    }
    if report.is_clean() {
        return Ok(());
    }
    if let Some(older) = store_bolt::examine(file, true)?.older {
        let state = if older.is_clean() { "whole" } else { "damaged too" };
        println!("txid {}, the state before: {state}", older.txid);
    }
    bail!("{}: damaged", file.display());
}

/// Copies what can be read of `file` to the new file `to`, with the gaps filled from an older copy;
/// prints what was lost.
#[expect(clippy::print_stdout, reason = "the command's output")]
pub fn salvage(file: &Path, to: &Path, fill: Option<&Path>) -> Result<()> {
    if to.exists() {
        bail!("{}: exists already", to.display());
    }
    let report = store_bolt::salvage(file, to)?;
    for problem in &report.problems {
        println!("lost: page {}: {}", problem.page, problem.reason);
    }
    if let Some(copy) = fill {
        let filled = store_bolt::fill(copy, to, &report.damaged)?;
        println!("filled: {filled} keys");
    }
    println!("problems {}, {} written", report.problems.len(), to.display());
    Ok(())
}

/// Prints all that `file` holds.
#[expect(clippy::print_stdout, reason = "the command's output")]
pub fn dump(file: &Path) -> Result<()> {
    let mut text = String::new();
    let dumped = store_bolt::dump(file, &mut text);
    print!("{text}");
    Ok(dumped?)
}
