//! Who may touch a thing of the backend that has no record: its writer, or the sweep.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use store_metadata::{Held, Hold, Metadata};
use tokio::sync::Notify;

use crate::local::lock::lock;

/// Things that a sweep is about to remove.
///
/// A sweep claims first and reads holds and records after that; a writer holds first and looks for
/// a claim after that. So one of the two always sees the other.
#[derive(Clone)]
pub(super) struct Claims {
    metadata: Metadata,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// How often: a sweep that was given up may still be removing what the next one claims.
    claimed: Mutex<BTreeMap<Held, usize>>,
    ended: Notify,
}

/// Claims of a sweep; they end when it is dropped.
pub(super) struct Claimed {
    state: Arc<State>,
    what: Vec<Held>,
}

impl Claims {
    pub(super) fn new(metadata: Metadata) -> Self {
        Claims { metadata, state: Arc::default() }
    }

    /// Keeps `what` from being swept, after a sweep that is removing it right now has ended.
    pub(super) async fn hold(&self, what: Held) -> Hold {
        loop {
            let ended = self.state.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            let hold = self.metadata.hold(what.clone());
            if !lock(&self.state.claimed).contains_key(&what) {
                return hold;
            }
            drop(hold);
            ended.await;
        }
    }

    /// Claims things for a sweep, which must check them against holds and records after this.
    pub(super) fn claim(&self, what: Vec<Held>) -> Claimed {
        let mut claimed = lock(&self.state.claimed);
        for what in &what {
            *claimed.entry(what.clone()).or_default() += 1;
        }
        drop(claimed);
        Claimed { state: Arc::clone(&self.state), what }
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        let mut claimed = lock(&self.state.claimed);
        for what in &self.what {
            if let Some(count) = claimed.get_mut(what) {
                *count -= 1;
                if *count == 0 {
                    claimed.remove(what);
                }
            }
        }
        drop(claimed);
        self.state.ended.notify_waiters();
    }
}
