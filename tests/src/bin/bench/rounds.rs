//! Rounds: every side in turn, and an end that cleans up.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};

use crate::side::{Plan, Side};

/// Set by SIGINT and SIGTERM; looked at between rounds, so that everything is taken down.
static STOPPED: AtomicBool = AtomicBool::new(false);

/// Samples of one side: for each round the values of all metrics of a measure.
pub type Samples = Vec<Vec<f64>>;

/// Makes SIGINT and SIGTERM end the bench between two rounds.
///
/// # Errors
///
/// The signals cannot be watched.
pub fn stop_at_signals() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        STOPPED.store(true, Ordering::Relaxed);
        eprintln!("bench: stopping");
    });
    Ok(())
}

/// Fails when a signal has asked the bench to end.
///
/// # Errors
///
/// It has.
pub fn check() -> Result<()> {
    if STOPPED.load(Ordering::Relaxed) {
        bail!("stopped by a signal");
    }
    Ok(())
}

/// Runs `once` for every side, `rounds` times and once before that does not count. The side that
/// begins changes from round to round. Gives the samples side by side, in the order of `sides`.
///
/// # Errors
///
/// The first error of `once`, with the side's name.
pub fn interleave<S: AsSide>(
    plan: &Plan,
    rounds: usize,
    sides: &mut [S],
    mut once: impl FnMut(&mut S) -> Result<Vec<f64>>,
) -> Result<Vec<Samples>> {
    let mut samples: Vec<Samples> = sides.iter().map(|_| Vec::new()).collect();
    for round in 0..=rounds {
        for step in 0..sides.len() {
            check()?;
            let at = (round + step) % sides.len();
            let name = sides[at].as_side().maker;
            let values = once(&mut sides[at]).with_context(|| format!("{name}, round {round}"))?;
            if plan.samples {
                let note = if round == 0 { " (not counted)" } else { "" };
                eprintln!("bench:   {name}: {values:.4?}{note}");
            }
            if round > 0 {
                samples[at].push(values);
            }
        }
    }
    Ok(samples)
}

/// Anything that belongs to one side.
pub trait AsSide {
    /// The side.
    fn as_side(&self) -> &Side;
}

impl AsSide for Side {
    fn as_side(&self) -> &Side {
        self
    }
}

/// The median of metric `at` over all rounds.
#[must_use]
pub fn median(samples: &Samples, at: usize) -> f64 {
    let mut values: Vec<f64> = samples.iter().map(|values| values[at]).collect();
    middle(&mut values)
}

/// The median of `values`, which are sorted for it; not a number if there are none.
#[must_use]
pub fn middle(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => values[half],
        _ => f64::midpoint(values[half - 1], values[half]),
    }
}

#[cfg(test)]
mod tests {
    use super::middle;

    #[test]
    fn the_middle_of_odd_even_and_no_values() {
        assert_eq!(middle(&mut [3.0, 1.0, 2.0]).to_bits(), 2.0_f64.to_bits());
        assert_eq!(middle(&mut [4.0, 1.0, 2.0, 3.0]).to_bits(), 2.5_f64.to_bits());
        assert!(middle(&mut []).is_nan());
    }
}
