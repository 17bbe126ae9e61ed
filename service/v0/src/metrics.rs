//! Figures about the API's work, under the names that 0.2 gave them, for a graphite server or for
//! the standard output.
//!
//! 0.2 kept them with a library of Go, whose lines are written here: `<prefix>.<name>.<part> <value>
//! <seconds>` for graphite, a few lines for each figure otherwise. Nothing here can hold up the work
//! that it reports on: a report that cannot be sent is dropped.

mod report;
mod timer;

use std::fmt::Write as _;

pub use report::{Report, Sink, SinkError};
pub(crate) use timer::Timer;
use timer::{PERCENTILES, Times};

use crate::Api;

/// The timers of 0.2.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    /// A claim on a name.
    pub(crate) create: Timer,
    /// The removal of what has ended.
    pub(crate) delete: Timer,
    /// From the claim to the first process.
    pub(crate) start: Timer,
    /// Reading the figures of a container.
    pub(crate) stats: Timer,
    /// The start of an exec.
    pub(crate) exec: Timer,
    /// From the end of a process to its event.
    pub(crate) exit: Timer,
}

/// One figure of a report.
#[derive(Clone, Debug)]
enum Value {
    /// How many there are.
    Count(usize),
    /// A measure of the process.
    Gauge(u64),
    /// How long something takes.
    Times(Box<Times>),
}

/// A figure and its name.
type Figure = (&'static str, Value);

impl Api {
    /// All figures, by name.
    fn figures(&self) -> Vec<Figure> {
        let engine = &self.0;
        let (containers, processes) = {
            let containers = engine.containers();
            let processes = containers.values().map(|container| container.count()).sum();
            (containers.len(), processes)
        };
        let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
        let timers = &engine.timers;
        let times = |timer: &Timer| Value::Times(Box::new(timer.times()));
        vec![
            ("container-create-time", times(&timers.create)),
            ("container-delete-time", times(&timers.delete)),
            ("container-start-time", times(&timers.start)),
            ("container-stats-time", times(&timers.stats)),
            ("containers", Value::Count(containers)),
            // COMPAT: 0.2 watched one descriptor for each process.
            ("epoll-fds", Value::Count(processes)),
            ("event-subscribers", Value::Count(engine.log.subscribers())),
            ("exec-process-time", times(&timers.exec)),
            ("exit-process-time", times(&timers.exit)),
            ("fds", Value::Gauge(open_files())),
            // COMPAT: what stands for goroutines here.
            ("goroutines", Value::Gauge(u64::try_from(tasks).unwrap_or(u64::MAX))),
            ("memory-used", Value::Gauge(resident())),
            ("tasks", Value::Count(engine.supervisor.operations().len())),
        ]
    }
}

/// How many descriptors this process has.
fn open_files() -> u64 {
    let entries = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    u64::try_from(entries).unwrap_or(u64::MAX)
}

/// Resident memory of this process, in bytes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages.saturating_mul(u64::try_from(rustix::param::page_size()).unwrap_or(0))
}

/// The lines of a report for graphite's plaintext protocol, at `seconds` since the epoch.
fn graphite(figures: &[Figure], prefix: &str, seconds: u64) -> String {
    let mut text = String::new();
    for (name, value) in figures {
        let mut put = |part: &str, value: &dyn std::fmt::Display| {
            let _ = writeln!(text, "{prefix}.{name}.{part} {value} {seconds}");
        };
        match value {
            Value::Count(count) => put("count", count),
            Value::Gauge(value) => put("value", value),
            Value::Times(times) => {
                put("count", &times.count);
                put("min", &times.min);
                put("max", &times.max);
                put("mean", &format!("{:.2}", times.mean));
                put("std-dev", &format!("{:.2}", times.deviation));
                for ((_, part, _), value) in PERCENTILES.iter().zip(times.percentiles) {
                    put(&format!("{part}-percentile"), &format!("{value:.2}"));
                }
                let rates = ["one-minute", "five-minute", "fifteen-minute", "mean-rate"];
                for (part, rate) in rates.into_iter().zip(times.rates) {
                    put(part, &format!("{rate:.2}"));
                }
            }
        }
    }
    text
}

/// The lines of a report for people, each behind `head`.
fn lines(figures: &[Figure], head: &str) -> String {
    let mut text = String::new();
    for (name, value) in figures {
        let mut line = |line: std::fmt::Arguments<'_>| {
            let _ = writeln!(text, "{head}{line}");
        };
        match value {
            Value::Count(count) => {
                line(format_args!("counter {name}"));
                line(format_args!("  count:       {count:9}"));
            }
            Value::Gauge(value) => {
                line(format_args!("gauge {name}"));
                line(format_args!("  value:       {value:9}"));
            }
            Value::Times(times) => {
                line(format_args!("timer {name}"));
                line(format_args!("  count:       {:9}", times.count));
                line(format_args!("  min:         {:12.2}ns", times.min));
                line(format_args!("  max:         {:12.2}ns", times.max));
                line(format_args!("  mean:        {:12.2}ns", times.mean));
                line(format_args!("  stddev:      {:12.2}ns", times.deviation));
                for ((_, _, part), value) in PERCENTILES.iter().zip(times.percentiles) {
                    line(format_args!("  {part:<12} {value:12.2}ns"));
                }
                let rates = ["1-min rate:", "5-min rate:", "15-min rate:", "mean rate:"];
                for (part, rate) in rates.into_iter().zip(times.rates) {
                    line(format_args!("  {part:<12} {rate:12.2}"));
                }
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures() -> Vec<Figure> {
        let timer = Timer::default();
        timer.took(std::time::Duration::from_nanos(30));
        timer.took(std::time::Duration::from_nanos(10));
        vec![
            ("containers", Value::Count(2)),
            ("fds", Value::Gauge(9)),
            ("container-start-time", Value::Times(Box::new(timer.times()))),
        ]
    }

    #[test]
    fn lines_for_graphite() {
        let text = graphite(&figures(), "metrics", 77);
        let wanted = [
            "metrics.containers.count 2 77",
            "metrics.fds.value 9 77",
            "metrics.container-start-time.count 2 77",
            "metrics.container-start-time.min 10 77",
            "metrics.container-start-time.max 30 77",
            "metrics.container-start-time.mean 20.00 77",
            "metrics.container-start-time.std-dev 10.00 77",
            "metrics.container-start-time.50-percentile 20.00 77",
            "metrics.container-start-time.999-percentile 30.00 77",
            "metrics.container-start-time.fifteen-minute 0.00 77",
        ];
        for line in wanted {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
        assert_eq!(text.lines().count(), 2 + 5 + 5 + 4);
    }

    #[test]
    fn lines_for_people() {
        let text = lines(&figures(), "[containerd] ");
        assert!(
            text.contains(
                "[containerd] counter containers\n[containerd]   count:               2\n"
            )
        );
        assert!(text.contains("[containerd]   median:             20.00ns\n"), "{text}");
        assert!(text.lines().all(|line| line.starts_with("[containerd] ")));
    }

    #[test]
    fn this_process_has_figures() {
        assert!(open_files() > 2 && resident() > 100_000);
    }
}
