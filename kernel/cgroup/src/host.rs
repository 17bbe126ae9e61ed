//! Figures of the whole machine that stand beside a group's.

use std::path::Path;

use crate::{Error, Result};

/// Nanoseconds of one clock tick. The kernel tells user programs 100 ticks a second on every
/// machine that we run on.
pub(crate) const TICK_NANOSECONDS: u64 = 10_000_000;

/// The processor time that the machine has spent since its start, in nanoseconds, idle time
/// included: the first seven figures of `/proc/stat`, as containerd 0.2 tells it.
///
/// # Errors
/// If `/proc` is not there.
pub fn system_cpu_nanoseconds() -> Result<u64> {
    let path = Path::new("/proc/stat");
    let text = std::fs::read_to_string(path).map_err(|error| Error::io("read", path, &error))?;
    Ok(parse(&text))
}

fn parse(text: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix("cpu ")).unwrap_or_default();
    let ticks = line
        .split_ascii_whitespace()
        .take(7)
        .filter_map(|figure| figure.parse::<u64>().ok())
        .fold(0u64, u64::saturating_add);
    ticks.saturating_mul(TICK_NANOSECONDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seven_figures_count() {
        assert_eq!(parse("cpu  1 2 3 4 5 6 7 100 100\ncpu0 9 9\n"), 28 * TICK_NANOSECONDS);
        assert_eq!(parse(""), 0);
        assert!(system_cpu_nanoseconds().expect("stat") > 0);
    }
}
