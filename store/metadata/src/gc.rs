//! The collector: which records nothing needs, and their removal.
//!
//! Marking reads a snapshot of the database and stops nobody. Only if it finds something to remove
//! does a write transaction follow; if anything was written since the snapshot, that transaction
//! marks again, so that what was created, labelled or leased meanwhile stays.

mod labels;
mod mark;

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use base_ident::Namespace;
use store_bolt::WriteTx;

use crate::metadata::{Dirty, Inner, Metadata, Ticket, Update, View};
use crate::schema::{BLOB, CONTENT, IMAGES, INGESTS, LEASES, PARENT, SNAPSHOTS};
use crate::{MetadataError, Result, Scope};

/// The label that says when an image or a lease may be collected (RFC 3339).
pub(crate) const EXPIRE: &str = "containerd.io/gc.expire";

/// A record that was removed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// A blob, by its digest.
    Blob(String),
    /// A snapshot: the event `/snapshot/remove` tells of it.
    Snapshot {
        /// The snapshotter.
        snapshotter: String,
        /// The client's key.
        key: String,
    },
    /// An image, by its name: the event `/images/delete` tells of it.
    Image(String),
    /// A lease, by its id.
    Lease(String),
    /// An ingest, by its reference.
    Ingest(String),
}

/// A record that was removed, and where.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Removed {
    /// The namespace.
    pub namespace: String,
    /// The record.
    pub resource: Resource,
}

/// The outcome of a collection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collection {
    /// What was removed.
    pub removed: Vec<Removed>,
    /// Whether the content store has to be swept.
    pub sweep_content: bool,
    /// The snapshotters that have to be swept.
    pub sweep_snapshotters: BTreeSet<String>,
    /// How long marking and removing took.
    pub elapsed: Duration,
}

impl Metadata {
    /// Removes the records that nothing needs, and says what backends have to be swept.
    ///
    /// Roots are leases that have not expired, images, containers, what sandboxes refer to, ingests
    /// that have not expired, and what has the label `containerd.io/gc.root`; references are
    /// labels. A collection is for one caller at a time; two do no harm.
    ///
    /// CANCEL: a dropped future does not take back a removal that began; what has to be swept is
    /// told by the next collection, what was removed is not.
    ///
    /// # Errors
    /// Those of a damaged file: then nothing is removed.
    pub async fn collect(&self) -> base_errors::Result<Collection> {
        self.collect_at(SystemTime::now()).await
    }

    /// As [`Metadata::collect`], with `now` as the time that expiry is measured by.
    ///
    /// # Errors
    /// As [`Metadata::collect`].
    pub async fn collect_at(&self, now: SystemTime) -> base_errors::Result<Collection> {
        let start = Instant::now();
        let inner = self.inner.clone();
        let marking = tokio::task::spawn_blocking(move || inner.mark(now));
        let (garbage, state) = marking.await.map_err(MetadataError::from)??;
        let removed = self.remove_marked(garbage, state, now).await?;
        let dirty = std::mem::take(&mut *self.inner.dirty());
        Ok(Collection {
            removed,
            sweep_content: dirty.content,
            sweep_snapshotters: dirty.snapshotters,
            elapsed: start.elapsed(),
        })
    }

    /// Removes what marking found at `state`, or what it finds now if anything changed since.
    async fn remove_marked(
        &self,
        garbage: Vec<Removed>,
        state: State,
        now: SystemTime,
    ) -> base_errors::Result<Vec<Removed>> {
        if garbage.is_empty() {
            return Ok(garbage);
        }
        let inner = self.inner.clone();
        let remove = move |tx: &mut WriteTx<'_>| -> base_errors::Result<Vec<Removed>> {
            let ticket = Ticket::new(inner.clone());
            let garbage = if inner.unchanged(state) {
                garbage
            } else {
                mark::garbage(&View { root: tx.read() }, now)?
            };
            let mut update = Update { tx, dirty: Dirty::default() };
            for garbage in &garbage {
                update.remove_garbage(garbage)?;
            }
            let dirty = update.dirty;
            tx.on_commit(move || ticket.collected(dirty));
            Ok(garbage)
        };
        self.inner.db.update_async(remove).await
    }
}

/// What was known of updates before the snapshot was taken: their number, if none was on its way.
#[derive(Clone, Copy)]
struct State(Option<u64>);

impl Inner {
    /// What can be removed, as the last committed state says.
    fn mark(&self, now: SystemTime) -> Result<(Vec<Removed>, State)> {
        // Settled before started: then equal numbers mean that every update which began has been
        // committed or undone, and the snapshot taken after that has it.
        let settled = self.settled.load(Ordering::SeqCst);
        let started = self.started.load(Ordering::SeqCst);
        let tx = self.db.view()?;
        let garbage = mark::garbage(&View { root: tx.root() }, now)?;
        Ok((garbage, State((settled == started).then_some(started))))
    }

    /// Whether no update but the caller's own has begun since `state`.
    fn unchanged(&self, state: State) -> bool {
        state.0.is_some_and(|before| self.started.load(Ordering::SeqCst) == before + 1)
    }
}

impl Update<'_, '_> {
    fn remove_garbage(&mut self, garbage: &Removed) -> Result<()> {
        // A namespace of an older daemon may have a name that is not valid today.
        let Ok(namespace) = Namespace::new(&garbage.namespace) else {
            tracing::warn!(namespace = garbage.namespace, "garbage kept: name is not valid");
            return Ok(());
        };
        let scope = Scope::new(namespace);
        match &garbage.resource {
            Resource::Blob(_) | Resource::Ingest(_) => self.dirty.content = true,
            Resource::Snapshot { snapshotter, .. } => {
                self.dirty.snapshotters.insert(snapshotter.clone());
            }
            Resource::Image(_) | Resource::Lease(_) => {}
        }
        match &garbage.resource {
            Resource::Blob(digest) => self.remove(&scope, &[CONTENT, BLOB], digest.as_bytes())?,
            Resource::Ingest(reference) => {
                self.remove(&scope, &[CONTENT, INGESTS], reference.as_bytes())?
            }
            Resource::Image(name) => self.remove(&scope, &[IMAGES], name.as_bytes())?,
            Resource::Lease(id) => self.remove(&scope, &[LEASES], id.as_bytes())?,
            Resource::Snapshot { snapshotter, key } => {
                let path = [SNAPSHOTS, snapshotter.as_bytes(), key.as_bytes()];
                let parent = match self.view().bucket(&scope.namespace, &path)? {
                    Some(bucket) => bucket.get(PARENT)?.unwrap_or_default().to_owned(),
                    None => return Ok(()),
                };
                let parent = String::from_utf8_lossy(&parent);
                self.drop_snapshot(&scope, snapshotter, key, &parent)?;
                true
            }
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base_ident::{Digest, Labels};

    /// A collection whose marking is over, with one blob to remove, and its handle.
    fn marked() -> (tempfile::TempDir, Metadata, Digest, Vec<Removed>, State) {
        let folder = tempfile::tempdir().expect("folder");
        let metadata = Metadata::open(folder.path().join("meta.db"), crate::Options::default())
            .expect("database");
        let digest = Digest::parse(&format!("sha256:{:064x}", 1)).expect("digest");
        let blob = digest.clone();
        metadata
            .update_blocking(move |tx| {
                let scope = Scope::new(Namespace::new("default")?);
                Ok(tx.commit_ingest(&scope, "r", &blob, 1, Labels::new())?)
            })
            .expect("blob");
        let (garbage, state) = metadata.inner.mark(SystemTime::now()).expect("marking");
        assert_eq!(garbage.len(), 1);
        (folder, metadata, digest, garbage, state)
    }

    fn remove(metadata: &Metadata, garbage: Vec<Removed>, state: State) -> Vec<Removed> {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("runtime")
            .block_on(metadata.remove_marked(garbage, state, SystemTime::now()))
            .expect("removal")
    }

    #[test]
    fn garbage_that_is_leased_before_its_removal_survives() {
        let (_folder, metadata, digest, garbage, state) = marked();
        let wanted = digest.clone();
        metadata
            .update_blocking(move |tx| {
                let scope = Scope::new(Namespace::new("default")?);
                tx.create_lease(&scope, "l", &Labels::new())?;
                Ok(tx.open_ingest(&scope.with_lease("l"), "r", Some(&wanted), false)?)
            })
            .expect("lease");
        assert_eq!(remove(&metadata, garbage, state), []);
        let namespace = Namespace::new("default").expect("namespace");
        assert!(metadata.view(|tx| Ok(tx.has_blob(&namespace, &digest)?)).expect("view"));
    }

    #[test]
    fn a_failed_update_counts_as_a_change_that_is_over() {
        let (_folder, metadata, _, garbage, state) = marked();
        let failed: base_errors::Result<()> =
            metadata.update_blocking(|_| Err(base_errors::Error::unknown("no")));
        assert!(failed.is_err());
        assert_eq!(remove(&metadata, garbage, state).len(), 1);
        let (_, state) = metadata.inner.mark(SystemTime::now()).expect("marking");
        assert!(state.0.is_some(), "nothing is on its way");
    }

    #[test]
    fn without_changes_what_was_marked_is_removed() {
        let (_folder, metadata, digest, mut garbage, state) = marked();
        // Marking again would not find this one.
        let mut more = garbage[0].clone();
        more.resource = Resource::Image("none".to_owned());
        garbage.push(more);
        assert_eq!(remove(&metadata, garbage, state).len(), 2);
        let namespace = Namespace::new("default").expect("namespace");
        assert!(!metadata.view(|tx| Ok(tx.has_blob(&namespace, &digest)?)).expect("view"));
        assert!(metadata.inner.dirty().content, "a dropped collection leaves the need to sweep");
    }
}
