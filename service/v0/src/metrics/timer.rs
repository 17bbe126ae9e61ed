//! How long something takes: the newest times, and how often it happens.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Times that are looked at; as in 0.2's library.
const SAMPLE: usize = 1028;
/// How often a rate is brought up to date; as there.
const TICK: Duration = Duration::from_secs(5);
/// The minutes over which rates are taken.
const MINUTES: [f64; 3] = [1.0, 5.0, 15.0];

/// What is told about the distribution: the share, its name for graphite, and its name for people.
pub(super) const PERCENTILES: [(f64, &str, &str); 5] = [
    (0.5, "50", "median:"),
    (0.75, "75", "75%:"),
    (0.95, "95", "95%:"),
    (0.99, "99", "99%:"),
    (0.999, "999", "99.9%:"),
];

/// A timer. Times are nanoseconds.
#[derive(Debug)]
pub(crate) struct Timer(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    count: u64,
    /// The newest times; a ring once it is full.
    sample: Vec<u64>,
    next: usize,
    begun: Instant,
    rates: Option<[f64; 3]>,
    ticked: Instant,
    /// Times since the last tick.
    fresh: u64,
}

/// What a timer tells. Times are nanoseconds, rates are per second.
#[derive(Clone, Debug)]
pub(super) struct Times {
    pub(super) count: u64,
    pub(super) min: u64,
    pub(super) max: u64,
    pub(super) mean: f64,
    pub(super) deviation: f64,
    /// As in [`PERCENTILES`].
    pub(super) percentiles: [f64; 5],
    /// Over one, five and fifteen minutes, and over all of the time.
    pub(super) rates: [f64; 4],
}

impl Default for Timer {
    fn default() -> Self {
        let now = Instant::now();
        Timer(Mutex::new(Inner {
            count: 0,
            sample: Vec::new(),
            next: 0,
            begun: now,
            rates: None,
            ticked: now,
            fresh: 0,
        }))
    }
}

impl Timer {
    /// Notes that something took `time`.
    pub(crate) fn took(&self, time: Duration) {
        let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.tick(Instant::now());
        inner.count += 1;
        inner.fresh += 1;
        if inner.sample.len() < SAMPLE {
            inner.sample.push(time);
        } else {
            let at = inner.next;
            inner.sample[at] = time;
            inner.next = (at + 1) % SAMPLE;
        }
    }

    /// Notes that something took the time since `begin`.
    pub(crate) fn since(&self, begin: Instant) {
        self.took(begin.elapsed());
    }

    /// What there is to tell.
    pub(super) fn times(&self) -> Times {
        let now = Instant::now();
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.tick(now);
        let mut sample = inner.sample.clone();
        sample.sort_unstable();
        let count = inner.count;
        let lived = now.duration_since(inner.begun).as_secs_f64();
        let [one, five, fifteen] = inner.rates.unwrap_or_default();
        drop(inner);
        let values: Vec<f64> = sample.iter().map(|time| float(*time)).collect();
        let size = values.len().max(1);
        #[expect(clippy::cast_precision_loss, reason = "a thousand at most")]
        let size = size as f64;
        let mean = values.iter().sum::<f64>() / size;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / size;
        Times {
            count,
            min: sample.first().copied().unwrap_or(0),
            max: sample.last().copied().unwrap_or(0),
            mean,
            deviation: variance.sqrt(),
            percentiles: PERCENTILES.map(|(share, _, _)| percentile(&values, share)),
            rates: [one, five, fifteen, if lived > 0.0 { float(count) / lived } else { 0.0 }],
        }
    }
}

impl Inner {
    /// Brings the rates up to date.
    fn tick(&mut self, now: Instant) {
        let ticks = now.duration_since(self.ticked).as_secs() / TICK.as_secs();
        if ticks == 0 {
            return;
        }
        self.ticked = now;
        let fresh = float(std::mem::take(&mut self.fresh)) / TICK.as_secs_f64();
        let idle = i32::try_from(ticks - 1).unwrap_or(i32::MAX);
        let old = self.rates.unwrap_or([fresh; 3]);
        let mut rates = [0.0; 3];
        for ((rate, old), minutes) in rates.iter_mut().zip(old).zip(MINUTES) {
            let weight = 1.0 - (-TICK.as_secs_f64() / 60.0 / minutes).exp();
            *rate = (old + weight * (fresh - old)) * (1.0 - weight).powi(idle);
        }
        self.rates = Some(rates);
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn float(value: u64) -> f64 {
    value as f64
}

/// The value below which `share` of the sorted `values` lie, between two of them if need be.
fn percentile(values: &[f64], share: f64) -> f64 {
    let (Some(first), Some(last)) = (values.first(), values.last()) else { return 0.0 };
    #[expect(clippy::cast_precision_loss, reason = "a thousand at most")]
    let place = share * (values.len() + 1) as f64;
    if place < 1.0 {
        return *first;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between one and a thousand"
    )]
    let at = place.floor() as usize;
    match (values.get(at - 1), values.get(at)) {
        (Some(low), Some(high)) => low + (place - place.floor()) * (high - low),
        _ => *last,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_yet_is_all_zero() {
        let times = Timer::default().times();
        assert_eq!((times.count, times.min, times.max), (0, 0, 0));
        assert!(times.mean.abs() < f64::EPSILON && times.percentiles.iter().all(|p| *p < 1.0));
    }

    #[test]
    fn the_sample_is_bounded_and_keeps_the_newest() {
        let timer = Timer::default();
        for time in 0..3000 {
            timer.took(Duration::from_nanos(time));
        }
        let times = timer.times();
        assert_eq!((times.count, times.min, times.max), (3000, 3000 - 1028, 2999));
        assert_eq!(timer.0.lock().unwrap().sample.len(), SAMPLE);
        assert!(times.percentiles.windows(2).all(|pair| pair[0] <= pair[1]));
    }

    #[test]
    fn rates_rise_and_fall() {
        let timer = Timer::default();
        for _ in 0..50 {
            timer.took(Duration::from_nanos(1));
        }
        let mut inner = timer.0.lock().unwrap();
        let begin = inner.ticked;
        inner.tick(begin + TICK);
        let [one, ..] = inner.rates.unwrap();
        assert!((one - 10.0).abs() < 0.01, "{one}");
        inner.tick(begin + TICK * 13);
        let [later, _, slow] = inner.rates.unwrap();
        assert!(later < 5.0 && later < slow && slow < 10.0, "{later} {slow}");
        // However long nothing happens.
        inner.tick(begin + Duration::from_secs(1 << 33));
        assert!(inner.rates.unwrap()[0] < 0.01);
    }
}
