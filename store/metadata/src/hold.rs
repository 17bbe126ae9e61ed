//! Things of backends that have no record yet.
//!
//! A store prepares a snapshot or commits a blob in its backend first, and writes the record after
//! that. Between the two a sweep would take the thing for garbage; a [`Hold`] says that it is not.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is held.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Held {
    /// A blob, by its digest.
    Blob(String),
    /// An ingest, by its backend reference.
    Ingest(String),
    /// A snapshot: the snapshotter, and its backend key.
    Snapshot(String, String),
}

/// What is held now, and how often.
#[derive(Debug, Default)]
pub(crate) struct Holds(Mutex<BTreeMap<Held, usize>>);

impl Holds {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Held, usize>> {
        // The map is whole after every statement, so a panic elsewhere cannot have torn it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds `what` until the guard is dropped.
    pub(crate) fn hold(self: &Arc<Self>, what: Held) -> Hold {
        *self.lock().entry(what.clone()).or_default() += 1;
        Hold { holds: self.clone(), what }
    }

    /// All that is held now.
    pub(crate) fn now(&self) -> Vec<Held> {
        self.lock().keys().cloned().collect()
    }
}

/// Keeps a thing of a backend from being swept, until it is dropped.
#[derive(Debug)]
#[must_use = "dropping it ends the hold"]
pub struct Hold {
    holds: Arc<Holds>,
    what: Held,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut held = self.holds.lock();
        if let Some(count) = held.get_mut(&self.what) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.what);
            }
        }
    }
}
