//! Waiting for something to become true.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long anything may take. Loaded machines are slow; a failed test may wait that long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Time between two looks.
const PACE: Duration = Duration::from_millis(10);

/// Asks `probe` until it gives a value; fails with `what` and the last thing seen.
///
/// # Errors
///
/// The last `Err` of `probe` when the time is over.
pub fn until<T>(what: &str, mut probe: impl FnMut() -> Result<T>) -> Result<T> {
    until_within(PATIENCE, what, &mut probe)
}

/// As [`until`], with another limit.
///
/// # Errors
///
/// The last `Err` of `probe` when the time is over.
pub fn until_within<T>(
    limit: Duration,
    what: &str,
    mut probe: impl FnMut() -> Result<T>,
) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        match probe() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() >= end => {
                bail!("waited {limit:?} for {what}: {error:#}")
            }
            Err(_) => std::thread::sleep(PACE),
        }
    }
}
