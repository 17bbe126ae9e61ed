//! What updates touch while a collection is on its way.
//!
//! A collection marks a snapshot of the records. What an update does that the snapshot does not
//! have, is in the journal from the moment at which its closure has run: so the removal, which
//! comes after that closure in the same queue, always hears of it. An update whose commit fails may
//! have left its entry; that keeps too much, never too little.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::garbage::Name;

/// Names in the journal of one collection, at most: about 10 MB. With more, the removal marks once
/// more inside of its transaction.
const MAX_NAMES: usize = 65_536;

type Touched = Arc<Vec<Name>>;

#[derive(Default)]
struct State {
    next: u64,
    /// Of updates that have run and are not known to be committed or undone.
    unsettled: HashMap<u64, Touched>,
    /// Since the collection began; `None` if there is none.
    since: Option<Since>,
}

#[derive(Default)]
struct Since {
    touched: Vec<Touched>,
    names: usize,
    overflow: bool,
}

impl Since {
    fn add(&mut self, touched: &Touched) {
        if touched.is_empty() || self.overflow {
            return;
        }
        self.names += touched.len();
        if self.names > MAX_NAMES {
            *self = Since { overflow: true, ..Since::default() };
        } else {
            self.touched.push(Arc::clone(touched));
        }
    }
}

/// The names that updates touched.
#[derive(Default)]
pub(crate) struct Journal(Mutex<State>);

impl Journal {
    fn state(&self) -> MutexGuard<'_, State> {
        // Each change of the state is complete in itself.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The closure of an update has run; gives its number for [`Journal::settled`].
    pub(crate) fn ran(&self, touched: Vec<Name>) -> u64 {
        let touched = Arc::new(touched);
        let mut state = self.state();
        state.next += 1;
        let number = state.next;
        if let Some(since) = &mut state.since {
            since.add(&touched);
        }
        state.unsettled.insert(number, touched);
        number
    }

    /// The update is visible to every later reader, or undone.
    pub(crate) fn settled(&self, number: u64) {
        self.state().unsettled.remove(&number);
    }

    /// Begins to record, with what a snapshot taken after this may lack. One recording at a time.
    pub(super) fn begin(&self) -> Recording<'_> {
        let mut state = self.state();
        let mut since = Since::default();
        for touched in state.unsettled.values() {
            since.add(touched);
        }
        state.since = Some(since);
        Recording(self)
    }

    /// What was touched since the last call; `None` if it was too much.
    pub(super) fn take(&self) -> Option<Vec<Touched>> {
        let mut state = self.state();
        let since = state.since.as_mut()?;
        if std::mem::take(&mut since.overflow) {
            return None;
        }
        since.names = 0;
        Some(std::mem::take(&mut since.touched))
    }
}

/// Ends the recording when it is dropped.
pub(super) struct Recording<'a>(&'a Journal);

impl Drop for Recording<'_> {
    fn drop(&mut self) {
        self.0.state().since = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touched(key: &str) -> Vec<Name> {
        Name::at(b"n", &[b"images", key.as_bytes()]).into_iter().collect()
    }

    #[test]
    fn a_recording_has_what_was_not_settled_when_it_began() {
        let journal = Journal::default();
        let settled = journal.ran(touched("a"));
        journal.settled(settled);
        journal.ran(touched("b"));
        let recording = journal.begin();
        journal.ran(touched("c"));
        let names: Vec<_> =
            journal.take().expect("names").into_iter().map(|t| t[0].clone()).collect();
        assert_eq!(names, [touched("b"), touched("c")].concat());
        assert!(journal.take().expect("names").is_empty());
        drop(recording);
        assert!(journal.take().is_none());
    }

    #[test]
    fn too_many_names_are_told() {
        let journal = Journal::default();
        let _recording = journal.begin();
        let many = vec![touched("a")[0].clone(); MAX_NAMES];
        journal.ran(many);
        journal.ran(touched("b"));
        assert!(journal.take().is_none());
        journal.ran(touched("c"));
        assert_eq!(journal.take().expect("names").len(), 1);
    }
}
