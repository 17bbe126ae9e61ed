//! One writer per reference.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher as _, Hasher as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use crate::error::ContentError;
use crate::store::IngestStatus;

/// How often a held reference is tried, as containerd: about half a second in all.
const TRIES: u32 = 10;

/// Locks a mutex; what a panicking holder left behind is consistent, since holders only move values.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The references that are being written. INVARIANT: as many entries as there are open writers.
#[derive(Clone, Debug, Default)]
pub(crate) struct RefLocks(Arc<Mutex<HashMap<String, Held>>>);

#[derive(Debug)]
struct Held {
    since: SystemTime,
    live: Option<Arc<Live>>,
}

/// The state of an ingest that is open, before or beside its files.
#[derive(Debug)]
pub(crate) struct Live(Mutex<LiveState>);

/// What [`Live`] holds.
#[derive(Clone, Debug)]
pub(crate) struct LiveState {
    pub(crate) status: IngestStatus,
    /// True once the ingest was given up while open: nothing may be written for it any more.
    pub(crate) aborted: bool,
}

impl Live {
    pub(crate) fn new(status: IngestStatus) -> Arc<Self> {
        Arc::new(Live(Mutex::new(LiveState { status, aborted: false })))
    }

    pub(crate) fn status(&self) -> IngestStatus {
        lock(&self.0).status.clone()
    }

    pub(crate) fn aborted(&self) -> bool {
        lock(&self.0).aborted
    }

    pub(crate) fn abort(&self) {
        lock(&self.0).aborted = true;
    }

    /// Sets the number of bytes that were found.
    pub(crate) fn found(&self, offset: u64) {
        lock(&self.0).status.offset = offset;
    }

    /// Forgets all bytes; the ingest was changed now.
    pub(crate) fn truncated(&self) {
        let mut state = lock(&self.0);
        state.status.offset = 0;
        state.status.updated_at = SystemTime::now();
    }

    /// Counts bytes that were received now.
    pub(crate) fn advance(&self, length: u64) {
        let mut state = lock(&self.0);
        state.status.offset += length;
        state.status.updated_at = SystemTime::now();
    }
}

impl RefLocks {
    /// Takes the lock of `reference`, with containerd's tries and random pauses.
    ///
    /// # Errors
    /// [`ContentError::Locked`] when it is held all the time.
    pub(crate) async fn acquire(&self, reference: &str) -> Result<RefLock, ContentError> {
        let mut tries = 0;
        loop {
            let since = match self.try_acquire(reference) {
                Ok(lock) => return Ok(lock),
                Err(since) => since,
            };
            tries += 1;
            if tries == TRIES {
                return Err(ContentError::locked(reference, since));
            }
            let random = std::hash::RandomState::new().build_hasher().finish();
            tokio::time::sleep(Duration::from_millis(random % (1 << tries))).await;
        }
    }

    fn try_acquire(&self, reference: &str) -> Result<RefLock, SystemTime> {
        match lock(&self.0).entry(reference.to_owned()) {
            Entry::Occupied(held) => Err(held.get().since),
            Entry::Vacant(free) => {
                free.insert(Held { since: SystemTime::now(), live: None });
                Ok(RefLock { locks: self.clone(), reference: reference.to_owned() })
            }
        }
    }

    /// The open ingest of `reference`.
    pub(crate) fn live(&self, reference: &str) -> Option<Arc<Live>> {
        lock(&self.0).get(reference).and_then(|held| held.live.clone())
    }

    /// All open ingests.
    pub(crate) fn all_live(&self) -> Vec<Arc<Live>> {
        lock(&self.0).values().filter_map(|held| held.live.clone()).collect()
    }
}

/// A held reference; dropping it frees the reference.
#[derive(Debug)]
pub(crate) struct RefLock {
    locks: RefLocks,
    reference: String,
}

impl RefLock {
    /// Shows the open ingest to those who ask for its state.
    pub(crate) fn show(&self, live: &Arc<Live>) {
        if let Some(held) = lock(&self.locks.0).get_mut(&self.reference) {
            held.live = Some(Arc::clone(live));
        }
    }
}

impl Drop for RefLock {
    fn drop(&mut self) {
        lock(&self.locks.0).remove(&self.reference);
    }
}
