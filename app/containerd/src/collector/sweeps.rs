//! Sweeps: the removal of what no record names, each backend by itself.
//!
//! A backend that hangs keeps its own sweep busy and nothing else: there is one sweep of it at most,
//! and one more is remembered.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use service_grpc::Stores;
use store_metadata::Collection;
use tokio::sync::watch;

/// The name of the content store among the backends; no snapshotter has it.
const CONTENT: &str = "";

/// After this long a sweep is given up; the next one goes on. Trees of millions of files take
/// minutes.
const SWEEP_DEADLINE: Duration = Duration::from_secs(15 * 60);

/// A sweep that took longer is told of.
const SLOW_SWEEP: Duration = Duration::from_secs(10);

/// How long a client waits for the sweeps of the collection that it asked for. The records are gone
/// by then, whatever the backend does.
pub(super) const SWEEP_PATIENCE: Duration = Duration::from_secs(10);

#[derive(Default)]
struct State {
    running: bool,
    again: bool,
}

/// The sweeps of one backend.
struct Backend {
    state: Mutex<State>,
    /// Sweeps that have ended.
    ended: watch::Sender<u64>,
}

impl Backend {
    fn state(&self) -> MutexGuard<'_, State> {
        // Each change of the state is complete in itself.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All backends of a daemon.
pub(super) struct Sweeps {
    stores: Stores,
    backends: BTreeMap<String, Arc<Backend>>,
}

/// Sweeps that were asked for.
#[derive(Clone)]
pub(super) struct Asked(Vec<(watch::Receiver<u64>, u64)>);

impl Asked {
    /// Waits until they have ended, but not longer than `patience`.
    pub(super) async fn wait(self, patience: Duration) {
        let all = join_all(self.0.into_iter().map(|(mut ended, number)| async move {
            // An error says that the daemon ends.
            let _ = ended.wait_for(|ended| *ended >= number).await;
        }));
        if tokio::time::timeout(patience, all).await.is_err() {
            tracing::warn!("a sweep takes long; its client does not wait for it any more");
        }
    }
}

impl Sweeps {
    pub(super) fn new(stores: Stores) -> Self {
        let names = std::iter::once(CONTENT).chain(stores.snapshots.keys().map(String::as_str));
        let backends = names
            .map(|name| {
                let backend = Backend { state: Mutex::default(), ended: watch::Sender::new(0) };
                (name.to_owned(), Arc::new(backend))
            })
            .collect();
        Sweeps { stores, backends }
    }

    /// Has swept what a collection says; returns at once.
    pub(super) fn ask(&self, collection: &Collection) -> Asked {
        let content = collection.sweep_content.then_some(CONTENT);
        let names = collection.sweep_snapshotters.iter().map(String::as_str).chain(content);
        Asked(names.filter_map(|name| self.ask_one(name)).collect())
    }

    fn ask_one(&self, name: &str) -> Option<(watch::Receiver<u64>, u64)> {
        let backend = self.backends.get(name)?;
        let mut state = backend.state();
        let ended = *backend.ended.borrow();
        if state.running {
            // The one that runs may have listed the backend already.
            state.again = true;
            return Some((backend.ended.subscribe(), ended + 2));
        }
        state.running = true;
        let (stores, name) = (self.stores.clone(), name.to_owned());
        // Clients wait for it by `ended`; a panic ends the process.
        tokio::spawn(run(Arc::clone(backend), stores, name));
        Some((backend.ended.subscribe(), ended + 1))
    }
}

async fn run(backend: Arc<Backend>, stores: Stores, name: String) {
    loop {
        let start = Instant::now();
        let sweep = tokio::time::timeout(SWEEP_DEADLINE, sweep(&stores, &name));
        if sweep.await.is_err() {
            tracing::error!(backend = shown(&name), "a sweep was given up: deadline exceeded");
            mark(&stores, &name);
        }
        if start.elapsed() > SLOW_SWEEP {
            tracing::warn!(backend = shown(&name), elapsed = ?start.elapsed(), "slow sweep");
        }
        let mut state = backend.state();
        backend.ended.send_modify(|ended| *ended += 1);
        if !std::mem::take(&mut state.again) {
            state.running = false;
            return;
        }
    }
}

/// One sweep; a failure is tried again with the next collection.
async fn sweep(stores: &Stores, name: &str) {
    let result = if name == CONTENT {
        stores.content.sweep().await.map(|_| ())
    } else if let Some(snapshots) = stores.snapshots.get(name) {
        snapshots.sweep().await.map(|_| ())
    } else {
        Ok(())
    };
    if let Err(error) = result {
        tracing::error!(backend = shown(name), %error, "sweep failed");
        mark(stores, name);
    }
}

fn mark(stores: &Stores, name: &str) {
    if name == CONTENT {
        stores.metadata.mark_content_dirty();
    } else {
        stores.metadata.mark_snapshotter_dirty(name);
    }
}

fn shown(name: &str) -> &str {
    if name == CONTENT { "content" } else { name }
}
