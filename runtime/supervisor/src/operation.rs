//! The table of operations in flight: what the daemon is doing, on what, since when.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

/// Somebody who waits for the end of a process: nobody has to wait for him.
pub(crate) const WAIT: &str = "wait";
/// The most operations that one error names.
const MAX_SHOWN: usize = 4;

/// One operation in flight, as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Grows with each operation since the daemon started.
    pub id: u64,
    /// What is done: `create`, `kill`.
    pub kind: &'static str,
    /// On what: `namespace/id`.
    pub object: String,
    /// What it does or waits for just now.
    pub phase: &'static str,
    /// Since when.
    pub started: SystemTime,
    /// How long it may take, if it is bounded.
    pub deadline: Option<Duration>,
}

impl Operation {
    /// For how long it runs.
    #[must_use]
    pub fn age(&self) -> Duration {
        SystemTime::now().duration_since(self.started).unwrap_or_default()
    }
}

/// `create default/a: creating the container, for 1.5 s of 900 s`.
impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Operation { kind, object, phase, .. } = self;
        write!(f, "{kind} {object}: ")?;
        if !phase.is_empty() {
            write!(f, "{phase}, ")?;
        }
        write!(f, "for {:.1} s", self.age().as_secs_f64())?;
        match self.deadline {
            Some(deadline) => write!(f, " of {} s", deadline.as_secs_f64()),
            None => Ok(()),
        }
    }
}

/// How the start queue stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Starts {
    /// Creates that may run at once.
    pub places: usize,
    /// Creates that have a place.
    pub running: usize,
    /// Creates that wait for one.
    pub waiting: usize,
}

/// All operations in flight.
#[derive(Clone, Default)]
pub(crate) struct Operations {
    table: Arc<Mutex<Table>>,
}

#[derive(Default)]
struct Table {
    last: u64,
    running: BTreeMap<u64, Operation>,
}

impl Operations {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters an operation, which leaves the table when the guard is dropped.
    pub(crate) fn begin(
        &self,
        kind: &'static str,
        object: String,
        deadline: Option<Duration>,
    ) -> OperationGuard {
        let mut table = self.lock();
        table.last += 1;
        let id = table.last;
        let started = SystemTime::now();
        let operation = Operation { id, kind, object, phase: "", started, deadline };
        table.running.insert(id, operation);
        OperationGuard { operations: self.clone(), id }
    }

    /// Those on `object` that somebody may have to wait for, as a text; empty if there is none.
    pub(crate) fn on(&self, object: &str) -> String {
        let table = self.lock();
        let texts: Vec<String> = table
            .running
            .values()
            .filter(|operation| operation.object == object && operation.kind != WAIT)
            .take(MAX_SHOWN)
            .map(ToString::to_string)
            .collect();
        texts.join("; ")
    }

    /// All operations, the oldest first.
    pub(crate) fn list(&self) -> Vec<Operation> {
        self.lock().running.values().cloned().collect()
    }
}

/// Keeps an operation in the table.
pub(crate) struct OperationGuard {
    operations: Operations,
    id: u64,
}

impl OperationGuard {
    /// Tells what the operation does or waits for from now on.
    pub(crate) fn phase(&self, phase: &'static str) {
        if let Some(operation) = self.operations.lock().running.get_mut(&self.id) {
            operation.phase = phase;
        }
    }
}

impl Drop for OperationGuard {
    fn drop(&mut self) {
        self.operations.lock().running.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_listed_while_they_run() {
        let operations = Operations::default();
        let first = operations.begin("create", "default/a".to_owned(), None);
        let second = operations.begin("kill", "default/b".to_owned(), Some(Duration::from_secs(1)));
        first.phase("waiting for a place");
        let list = operations.list();
        assert_eq!(list.iter().map(|operation| operation.id).collect::<Vec<_>>(), [1, 2]);
        assert_eq!((list[0].kind, list[0].phase), ("create", "waiting for a place"));
        assert_eq!(operations.on("default/a"), "create default/a: waiting for a place, for 0.0 s");
        assert_eq!(operations.on("default/b"), "kill default/b: for 0.0 s of 1 s");
        let waiter = operations.begin(WAIT, "default/b".to_owned(), None);
        assert!(!operations.on("default/b").contains("wait"), "a waiter holds nothing");
        drop(waiter);
        assert_eq!(operations.on("default/c"), "");
        drop(first);
        assert_eq!(operations.list()[0].object, "default/b");
        drop(second);
        assert!(operations.list().is_empty());
    }
}
