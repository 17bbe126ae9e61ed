//! Memory of processes.

use std::fs;

use anyhow::{Context, Result};

/// Private dirty bytes of `pid`: what it costs alone, without shared code and page cache.
///
/// # Errors
///
/// The process is gone.
pub fn private_dirty(pid: i32) -> Result<u64> {
    rollup(pid, "Private_Dirty:")
}

/// Resident bytes of `pid`.
///
/// # Errors
///
/// The process is gone.
pub fn resident(pid: i32) -> Result<u64> {
    rollup(pid, "Rss:")
}

fn rollup(pid: i32, key: &str) -> Result<u64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let number = line.and_then(|line| line.split_whitespace().next()).context(path)?;
    Ok(number.parse::<u64>()? * 1024)
}
