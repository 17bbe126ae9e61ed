//! Remote snapshots: a backend that has the wanted snapshot already, under a key of its own.
//!
//! A client that unpacks names the committed snapshot that it is going to make by the label
//! `containerd.io/snapshot.ref`. A remote snapshotter that has it answers AlreadyExists; it is then
//! recorded under that name, and the client hears AlreadyExists and leaves the layer out.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use base_errors::Error;
use base_ident::Labels;
use store_metadata::{Held, NewSnapshot};
use tokio::sync::Notify;

use super::{NamespacedSnapshotter, Shared, target_exists};
use crate::error::SnapshotError;
use crate::labels::LABEL_SNAPSHOT_REF;
use crate::snapshotter::{Info, Kind};

/// Keys of the backend that a sweep is about to remove. Only an adopted snapshot can be on both
/// sides: other keys are new when they are made.
#[derive(Default)]
pub(super) struct Claims {
    claimed: Mutex<BTreeSet<String>>,
    ended: Notify,
}

/// Claims of a sweep; they end when it is dropped.
pub(super) struct Claimed<'a> {
    claims: &'a Claims,
    keys: Vec<String>,
}

impl Claims {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<String>> {
        // Whole after every statement, so a panic elsewhere cannot have torn it.
        self.claimed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Claims keys for a sweep, which must check them against holds and records after this.
    pub(super) fn claim(&self, keys: Vec<String>) -> Claimed<'_> {
        self.lock().extend(keys.iter().cloned());
        Claimed { claims: self, keys }
    }

    /// Waits until no sweep is removing `key`. The caller holds it already.
    async fn wait(&self, key: &str) {
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if !self.lock().contains(key) {
                return;
            }
            ended.await;
        }
    }
}

impl Drop for Claimed<'_> {
    fn drop(&mut self) {
        let mut claimed = self.claims.lock();
        for key in &self.keys {
            claimed.remove(key);
        }
        drop(claimed);
        self.claims.ended.notify_waiters();
    }
}

impl NamespacedSnapshotter {
    /// Records the backend's snapshot that `target` means. Gives the error for the client.
    pub(super) async fn adopt(
        &self,
        target: String,
        parent: &str,
        backend_parent: String,
        mut labels: Labels,
    ) -> Error {
        let Shared { metadata, name, backend, claims } = &*self.shared;
        let found = match self.find(&target, &backend_parent).await {
            Ok(Some(info)) => info,
            Ok(None) => return SnapshotError::TargetNotFound(target).into(),
            Err(error) => return error.context("failed walking backend snapshots"),
        };
        let held = metadata.hold(Held::Snapshot(name.clone(), found.name.clone()));
        claims.wait(&found.name).await;
        // A sweep that was faster has taken it: the client may try again and fetch it.
        if let Err(error) = backend.stat(&found.name).await {
            return error.context(format!("target snapshot {target:?} in backend"));
        }
        for (key, value) in found.labels {
            labels.entry(key).or_insert(value);
        }
        let new = NewSnapshot {
            key: target.clone(),
            backend: found.name,
            parent: parent.to_owned(),
            backend_parent: found.parent,
            labels,
            times: Some((found.created_at, found.updated_at)),
        };
        let recorded = self.put_record(new).await;
        drop(held);
        match recorded {
            Ok(_) => target_exists(target),
            // Another call has recorded it: the same answer.
            Err(error) if error.is_already_exists() => target_exists(target),
            Err(error) => error,
        }
    }

    async fn find(&self, target: &str, parent: &str) -> base_errors::Result<Option<Info>> {
        let quoted = |text: &str| format!("{text:?}");
        let filter = format!(
            "labels.\"{LABEL_SNAPSHOT_REF}\"=={},parent=={}",
            quoted(target),
            quoted(parent)
        );
        let list = self.shared.backend.list(&[filter]).await?;
        // A backend may not know filters.
        Ok(list.into_iter().find(|info| {
            info.kind == Kind::Committed
                && info.parent == parent
                && info.labels.get(LABEL_SNAPSHOT_REF).is_some_and(|label| label == target)
        }))
    }
}
