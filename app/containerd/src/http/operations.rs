//! The operations in flight and the start queue, as Prometheus wants them.

use std::collections::BTreeMap;
use std::time::Duration;

use base_telemetry::metrics::{Collect, head, sample};
use runtime_supervisor::{Operation, Starts, Supervisor};

/// What a scrape shows of the supervisor.
pub struct OperationMetrics(pub Supervisor);

impl Collect for OperationMetrics {
    fn collect(&self, text: &mut String) {
        write(text, &self.0.operations(), self.0.starts());
    }
}

#[derive(Default)]
struct Kind {
    count: u64,
    oldest: Duration,
    overdue: u64,
}

fn write(text: &mut String, operations: &[Operation], starts: Starts) {
    let mut kinds: BTreeMap<&str, Kind> = BTreeMap::new();
    for operation in operations {
        let (kind, age) = (kinds.entry(operation.kind).or_default(), operation.age());
        kind.count += 1;
        kind.oldest = kind.oldest.max(age);
        kind.overdue += u64::from(operation.deadline.is_some_and(|deadline| age > deadline));
    }
    let mut family = |name: &str, help: &str, value: &dyn Fn(&Kind) -> String| {
        head(text, name, help, "gauge");
        for (kind, figures) in &kinds {
            sample(text, name, &[("kind", kind)], &value(figures));
        }
    };
    family("ironhull_operations", "Operations in flight", &|kind| kind.count.to_string());
    family("ironhull_operations_oldest_seconds", "Age of the oldest operation", &|kind| {
        format!("{:.3}", kind.oldest.as_secs_f64())
    });
    family("ironhull_operations_overdue", "Operations past their deadline", &|kind| {
        kind.overdue.to_string()
    });
    for (name, help, value) in [
        ("ironhull_start_places", "Creates that may run at once", starts.places),
        ("ironhull_starts_running", "Creates that have a place", starts.running),
        ("ironhull_starts_waiting", "Creates that wait for a place", starts.waiting),
    ] {
        head(text, name, help, "gauge");
        sample(text, name, &[], &value.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    #[test]
    fn operations_are_counted_by_kind() {
        let operation = |kind, age: u64, deadline| Operation {
            id: 1,
            kind,
            object: "default/a".to_owned(),
            phase: "",
            started: SystemTime::now() - Duration::from_secs(age),
            deadline,
        };
        let operations = [
            operation("kill", 10, Some(Duration::from_secs(5))),
            operation("kill", 1, Some(Duration::from_secs(5))),
            operation("wait", 100, None),
        ];
        let mut text = String::new();
        write(&mut text, &operations, Starts { places: 10, running: 3, waiting: 4 });
        for line in [
            "ironhull_operations{kind=\"kill\"} 2",
            "ironhull_operations_overdue{kind=\"kill\"} 1",
            "ironhull_operations_overdue{kind=\"wait\"} 0",
            "ironhull_starts_waiting 4",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(text.contains("ironhull_operations_oldest_seconds{kind=\"wait\"} 100."), "{text}");
    }
}
