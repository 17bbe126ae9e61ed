//! The table of operations in flight: what the daemon is doing, on what, since when.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

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
        drop(first);
        assert_eq!(operations.list()[0].object, "default/b");
        drop(second);
        assert!(operations.list().is_empty());
    }
}
