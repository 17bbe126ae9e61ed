//! `containerd bolt`: what an administrator sees of a database file.

use std::path::Path;

use anyhow::{Result, bail};

/// Prints every problem of `file`; fails if there is one.
#[expect(clippy::print_stdout, reason = "the command's output")]
pub fn check(file: &Path) -> Result<()> {
    let report = store_bolt::check(file)?;
    println!("txid {}, pages {}, used {}", report.txid, report.pages, report.used);
    for problem in &report.problems {
        println!("page {}: {}", problem.page, problem.reason);
    }
    if !report.is_clean() {
        bail!("{}: damaged", file.display());
    }
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
