//! What the numbers were measured on.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result};
use e2e::Maker;

use crate::side::Plan;

/// Lines about the machine, the date and the programs.
///
/// # Errors
///
/// A program does not tell its version.
pub fn facts(plan: &Plan) -> Result<Vec<String>> {
    let now = prost_types::Timestamp::from(SystemTime::now()).to_string();
    let date = now.split('.').next().unwrap_or_default().trim_end_matches('Z');
    let mut programs = Vec::new();
    for &maker in &plan.makers {
        if maker != Maker::Ours {
            programs.push(version(&maker.daemon()?)?);
        }
    }
    programs.push(version(Path::new("runc"))?);
    let rounds = if plan.quick { "few rounds" } else { "full rounds" };
    Ok(vec![
        format!("Measured {date} UTC, {rounds}, load at the start: {}", load()?),
        format!("Machine: {} x {}, {}, Linux {}", cores(), model(), memory()?, kernel()?),
        format!("Against: {}; for all the same OCI runtime and `ctr` 2.1", programs.join(", ")),
    ])
}

/// The machine's load: the averages over 1, 5 and 15 minutes.
///
/// # Errors
///
/// No `/proc`.
pub fn load() -> Result<String> {
    let text = fs::read_to_string("/proc/loadavg")?;
    Ok(text.split(' ').take(3).collect::<Vec<_>>().join(" "))
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn model() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("model name"));
    line.map_or("unknown processor", |line| line.trim_start_matches([' ', '\t', ':'])).to_owned()
}

fn memory() -> Result<String> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:")).context("MemTotal")?;
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(format!("{} GiB", kibibytes.div_ceil(1 << 20)))
}

fn kernel() -> Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned())
}

/// The first line of `program --version`, without words that do not tell a version.
fn version(program: &Path) -> Result<String> {
    let output = Command::new(program)
        .arg("--version")
        .output()
        .with_context(|| program.display().to_string())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().next().unwrap_or_default();
    let known = ["version", ""];
    let words = line.split(' ').filter(|word| !word.contains('/') && !known.contains(word));
    Ok(words.take(2).collect::<Vec<_>>().join(" "))
}
