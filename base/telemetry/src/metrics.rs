//! Counters, gauges and histograms, written in Prometheus' text format 0.0.4.
//!
//! The names are written exactly as they were given, because dashboards were made for containerd's.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The most series of one family. A client that could make up label values could otherwise take
/// all memory; gRPC methods times codes stay far below.
const MAX_SERIES: usize = 4096;

/// Upper bounds of histogram buckets in seconds: Prometheus' defaults.
pub const SECONDS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// What a scrape shows.
#[derive(Clone, Default)]
pub struct Registry {
    families: Arc<Mutex<Vec<Arc<dyn Collect>>>>,
}

/// Something that writes metrics at a scrape.
pub trait Collect: Send + Sync {
    /// Appends its families in the text format.
    fn collect(&self, text: &mut String);
}

impl Registry {
    /// Adds a collector.
    pub fn register(&self, collector: Arc<dyn Collect>) {
        self.families.lock().unwrap_or_else(PoisonError::into_inner).push(collector);
    }

    /// A new family of counters.
    #[must_use]
    pub fn counter(&self, name: &str, help: &str, labels: &'static [&'static str]) -> Family {
        self.family(name, help, "counter", labels, &[])
    }

    /// A new family of histograms over `bounds` (upper bounds, ascending).
    #[must_use]
    pub fn histogram(
        &self,
        name: &str,
        help: &str,
        labels: &'static [&'static str],
        bounds: &'static [f64],
    ) -> Family {
        self.family(name, help, "histogram", labels, bounds)
    }

    fn family(
        &self,
        name: &str,
        help: &str,
        kind: &'static str,
        labels: &'static [&'static str],
        bounds: &'static [f64],
    ) -> Family {
        let family = Family(Arc::new(Inner {
            name: name.to_owned(),
            help: help.to_owned(),
            kind,
            labels,
            bounds,
            series: Mutex::default(),
        }));
        self.register(Arc::new(family.clone()));
        family
    }

    /// Everything, in the text format.
    #[must_use]
    pub fn encode(&self) -> String {
        let families = self.families.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut text = String::new();
        for family in families {
            family.collect(&mut text);
        }
        text
    }
}

/// A family of metrics of one name; cheap to clone.
#[derive(Clone)]
pub struct Family(Arc<Inner>);

struct Inner {
    name: String,
    help: String,
    kind: &'static str,
    labels: &'static [&'static str],
    bounds: &'static [f64],
    series: Mutex<BTreeMap<Vec<String>, Arc<Series>>>,
}

/// One line of a counter, or one histogram.
#[derive(Default)]
pub struct Series {
    value: AtomicU64,
    buckets: Vec<AtomicU64>,
    sum_micros: AtomicI64,
}

impl Series {
    /// Counts one more.
    pub fn increment(&self) {
        self.value.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts `count` more.
    pub fn add(&self, count: u64) {
        self.value.fetch_add(count, Ordering::Relaxed);
    }
}

impl Family {
    /// The series with these label values, in the order of the family's labels.
    ///
    /// Beyond the bound of series all further ones share one, which no scrape shows.
    #[must_use]
    pub fn with(&self, values: &[&str]) -> Arc<Series> {
        let mut series = self.0.series.lock().unwrap_or_else(PoisonError::into_inner);
        let key: Vec<String> = values.iter().map(|value| (*value).to_owned()).collect();
        if let Some(found) = series.get(&key) {
            return Arc::clone(found);
        }
        let made = Arc::new(Series {
            buckets: self.0.bounds.iter().map(|_| AtomicU64::new(0)).collect(),
            ..Series::default()
        });
        if series.len() < MAX_SERIES {
            series.insert(key, Arc::clone(&made));
        }
        made
    }

    /// Adds an observation of `seconds` to the histogram with these label values.
    pub fn observe(&self, values: &[&str], seconds: f64) {
        let series = self.with(values);
        series.increment();
        #[expect(clippy::cast_possible_truncation, reason = "microseconds of any call fit")]
        series.sum_micros.fetch_add((seconds * 1e6) as i64, Ordering::Relaxed);
        if let Some(bucket) = self.0.bounds.iter().position(|bound| seconds <= *bound) {
            series.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Collect for Family {
    fn collect(&self, text: &mut String) {
        let Inner { name, help, kind, labels, bounds, series } = &*self.0;
        let series = series.lock().unwrap_or_else(PoisonError::into_inner);
        if series.is_empty() {
            return;
        }
        head(text, name, help, kind);
        for (values, series) in series.iter() {
            let pairs: Vec<(&str, &str)> =
                labels.iter().copied().zip(values.iter().map(String::as_str)).collect();
            let count = series.value.load(Ordering::Relaxed);
            if bounds.is_empty() {
                sample(text, name, &pairs, &count.to_string());
                continue;
            }
            let bucket_name = format!("{name}_bucket");
            let mut below = 0;
            for (bound, bucket) in bounds.iter().zip(&series.buckets) {
                below += bucket.load(Ordering::Relaxed);
                let bound = bound.to_string();
                let mut pairs = pairs.clone();
                pairs.push(("le", &bound));
                sample(text, &bucket_name, &pairs, &below.to_string());
            }
            let mut infinite = pairs.clone();
            infinite.push(("le", "+Inf"));
            sample(text, &bucket_name, &infinite, &count.to_string());
            #[expect(clippy::cast_precision_loss, reason = "a sum for people")]
            let sum = series.sum_micros.load(Ordering::Relaxed) as f64 / 1e6;
            sample(text, &format!("{name}_sum"), &pairs, &sum.to_string());
            sample(text, &format!("{name}_count"), &pairs, &count.to_string());
        }
    }
}

/// Appends the `HELP` and `TYPE` lines of a family.
pub fn head(text: &mut String, name: &str, help: &str, kind: &str) {
    let help = help.replace('\\', "\\\\").replace('\n', "\\n");
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// Appends one line: name, labels, value.
pub fn sample(text: &mut String, name: &str, labels: &[(&str, &str)], value: &str) {
    text.push_str(name);
    for (index, (key, value)) in labels.iter().enumerate() {
        text.push(if index == 0 { '{' } else { ',' });
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let _ = write!(text, "{key}=\"{value}\"");
    }
    if !labels.is_empty() {
        text.push('}');
    }
    let _ = writeln!(text, " {value}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_and_histograms_in_the_text_format() {
        let registry = Registry::default();
        let calls = registry.counter("calls_total", "Calls.", &["method"]);
        calls.with(&["a\"b"]).add(2);
        let seconds = registry.histogram("call_seconds", "Time.", &[], &[0.1, 1.0]);
        seconds.observe(&[], 0.5);
        seconds.observe(&[], 5.0);
        assert_eq!(
            registry.encode(),
            "# HELP calls_total Calls.\n# TYPE calls_total counter\n\
             calls_total{method=\"a\\\"b\"} 2\n\
             # HELP call_seconds Time.\n# TYPE call_seconds histogram\n\
             call_seconds_bucket{le=\"0.1\"} 0\ncall_seconds_bucket{le=\"1\"} 1\n\
             call_seconds_bucket{le=\"+Inf\"} 2\ncall_seconds_sum 5.5\ncall_seconds_count 2\n"
        );
    }

    #[test]
    fn series_are_bounded() {
        let family = Registry::default().counter("x", "", &["n"]);
        for number in 0..MAX_SERIES + 10 {
            family.with(&[&number.to_string()]).increment();
        }
        let mut text = String::new();
        family.collect(&mut text);
        assert_eq!(text.lines().count(), MAX_SERIES + 2);
    }
}
