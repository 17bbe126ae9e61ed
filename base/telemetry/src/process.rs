//! Figures of this process, under the names of Prometheus' own process collector.

use std::fs;

use crate::metrics::{Collect, head, sample};

/// Clock ticks a second in `/proc/<pid>/stat`: fixed by the kernel's user interface.
const TICKS: f64 = 100.0;

/// Reads `/proc/self` at each scrape. Figures that cannot be read are left out.
pub struct ProcessCollector;

impl Collect for ProcessCollector {
    fn collect(&self, text: &mut String) {
        let mut gauge = |name: &str, help: &str, kind: &str, value: Option<f64>| {
            if let Some(value) = value {
                head(text, name, help, kind);
                sample(text, name, &[], &value.to_string());
            }
        };
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let smaps = fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
        gauge(
            "process_cpu_seconds_total",
            "Total user and system CPU time spent in seconds.",
            "counter",
            stat_field(&stat, 14).zip(stat_field(&stat, 15)).map(|(u, s)| (u + s) / TICKS),
        );
        gauge(
            "process_open_fds",
            "Number of open file descriptors.",
            "gauge",
            #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
            fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as f64),
        );
        gauge(
            "process_max_fds",
            "Maximum number of open file descriptors.",
            "gauge",
            soft_limit(&fs::read_to_string("/proc/self/limits").unwrap_or_default()),
        );
        gauge(
            "process_start_time_seconds",
            "Start time of the process since unix epoch in seconds.",
            "gauge",
            boot_time(&fs::read_to_string("/proc/stat").unwrap_or_default())
                .zip(stat_field(&stat, 22))
                .map(|(boot, ticks)| boot + ticks / TICKS),
        );
        gauge("process_threads", "Number of threads.", "gauge", stat_field(&stat, 20));
        gauge(
            "process_virtual_memory_bytes",
            "Virtual memory size in bytes.",
            "gauge",
            stat_field(&stat, 23),
        );
        gauge(
            "process_resident_memory_bytes",
            "Resident memory size in bytes.",
            "gauge",
            smaps_field(&smaps, "Rss:"),
        );
        gauge(
            "process_private_dirty_memory_bytes",
            "Memory that only this process has, in bytes.",
            "gauge",
            smaps_field(&smaps, "Private_Dirty:"),
        );
    }
}

/// Field `number` (from 1, as in proc(5)) of a `stat` file; the name in parentheses may hold blanks.
fn stat_field(stat: &str, number: usize) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(number.checked_sub(3)?)?.parse().ok()
}

/// When the machine was started, in seconds since the epoch, from `/proc/stat`.
fn boot_time(stat: &str) -> Option<f64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// A figure of `smaps_rollup`, in bytes.
fn smaps_field(smaps: &str, key: &str) -> Option<f64> {
    let line = smaps.lines().find_map(|line| line.strip_prefix(key))?;
    let kilobytes: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1024.0)
}

/// The soft limit of open files in a `limits` file.
fn soft_limit(limits: &str) -> Option<f64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_blanks_do_not_shift_fields() {
        assert_eq!(stat_field("1 (a) b) S 2 3", 4), Some(2.0));
    }

    #[test]
    fn this_process_has_figures() {
        let mut text = String::new();
        ProcessCollector.collect(&mut text);
        for name in
            ["process_cpu_seconds_total", "process_open_fds", "process_resident_memory_bytes"]
        {
            assert!(text.contains(&format!("\n{name} ")), "{name} in {text}");
        }
    }
}
