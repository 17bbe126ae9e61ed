//! The collector: which records nothing needs, and their removal.
//!
//! Marking reads a snapshot of the database and stops nobody. What it finds is removed in slices,
//! each a short transaction of its own, so that clients which write wait for one slice at most. What
//! updates touch meanwhile is in a journal; each slice first keeps what these need. So what was
//! created, labelled or leased since the snapshot stays, without marking again.

mod garbage;
mod journal;
mod labels;
mod mark;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use base_ident::Namespace;
use store_bolt::WriteTx;

use self::garbage::Garbage;
pub(crate) use self::garbage::Name;
pub(crate) use self::journal::Journal;
use self::mark::Marked;
use crate::metadata::{Inner, Metadata, Ticket, Update, View};
use crate::schema::{BLOB, CONTENT, IMAGES, INGESTS, LEASES, PARENT, SNAPSHOTS};
use crate::{MetadataError, Result, Scope};

/// How long one slice of the removal may take, besides its commit: other writers wait for it.
/// With less, the commits take most of the collection's time.
const SLICE: Duration = Duration::from_millis(2);

/// Records that a slice removes between two looks at the clock: about a tenth of it.
const STRIDE: usize = 16;

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
    /// Whether something stays because it was touched meanwhile: another collection looks again.
    pub again: bool,
    /// Why the removal ended before its end, if it did; what is in `removed` is gone.
    pub failed: Option<String>,
}

impl Metadata {
    /// Removes the records that nothing needs, and says what backends have to be swept.
    ///
    /// Roots are leases that have not expired, images, containers, what sandboxes refer to, ingests
    /// that have not expired, and what has the label `containerd.io/gc.root`; references are
    /// labels. One collection at a time; others wait.
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
        let _one_at_a_time = self.inner.collecting.lock().await;
        let start = Instant::now();
        let inner = self.inner.clone();
        let recording = inner.journal.begin();
        let expiry = inner.take_expiry();
        let marked = tokio::task::spawn_blocking({
            let inner = inner.clone();
            move || inner.mark(now)
        });
        let marked = match marked.await.map_err(MetadataError::from).and_then(|marked| marked) {
            Ok(marked) => marked,
            Err(error) => {
                inner.expires(expiry);
                return Err(error.into());
            }
        };
        inner.expires(marked.next_expiry);
        let mut removed = Vec::new();
        let outcome = self.remove_marked(marked.garbage, now, &mut removed).await;
        drop(recording);
        let dirty = std::mem::take(&mut *inner.dirty());
        let (again, failed) = match outcome {
            Ok(again) => (again, None),
            Err(error) => (true, Some(error.to_string())),
        };
        Ok(Collection {
            removed,
            sweep_content: dirty.content,
            sweep_snapshotters: dirty.snapshotters,
            elapsed: start.elapsed(),
            again,
            failed,
        })
    }

    /// When the next image, lease or ingest expires, as far as collections and updates have seen;
    /// then a collection has something to do. A time that is over says that it has now.
    #[must_use]
    pub fn next_expiry(&self) -> Option<SystemTime> {
        self.inner.next_expiry()
    }

    /// Removes what marking found, without what was touched since, and adds it to `removed`. Says
    /// whether something stays for that.
    async fn remove_marked(
        &self,
        mut garbage: Garbage,
        now: SystemTime,
        removed: &mut Vec<Removed>,
    ) -> base_errors::Result<bool> {
        while garbage.len() > 0 {
            let inner = self.inner.clone();
            let slice = move |tx: &mut WriteTx<'_>| inner.remove_slice(tx, garbage, now);
            let (rest, gone) = self.inner.db.update_async(slice).await?;
            garbage = rest;
            removed.extend(gone);
        }
        Ok(garbage.keeps_some())
    }
}

impl Inner {
    /// What can be removed, as the last committed state says. [`Journal::begin`] comes first.
    fn mark(&self, now: SystemTime) -> Result<Marked> {
        let tx = self.db.view()?;
        mark::mark(&View { root: tx.root() }, now)
    }

    /// Removes a part of the garbage; gives the rest, and what was removed.
    fn remove_slice(
        self: &Arc<Self>,
        tx: &mut WriteTx<'_>,
        mut garbage: Garbage,
        now: SystemTime,
    ) -> base_errors::Result<(Garbage, Vec<Removed>)> {
        let start = Instant::now();
        let view = View { root: tx.read() };
        match self.journal.take() {
            Some(touched) => {
                for name in touched.iter().flat_map(|touched| touched.iter()) {
                    garbage.keep(name, &view)?;
                }
            }
            None => garbage.keep_unless_in(&mark::mark(&view, now)?.garbage),
        }
        let mut removed = Vec::new();
        let mut update = Update::new(tx);
        while start.elapsed() < SLICE || removed.is_empty() {
            let begin = removed.len();
            removed.extend(std::iter::from_fn(|| garbage.next()).take(STRIDE));
            if removed.len() == begin {
                break;
            }
            update.remove_all_garbage(&removed[begin..])?;
        }
        let dirty = update.dirty;
        let ticket = Ticket::new(self.clone(), Vec::new());
        tx.on_commit(move || ticket.collected(dirty));
        Ok((garbage, removed))
    }
}

impl Update<'_, '_> {
    /// Removes records; finds the bucket of blobs once for all of a namespace that stand together.
    fn remove_all_garbage(&mut self, garbage: &[Removed]) -> Result<()> {
        let blob = |removed: &Removed| matches!(removed.resource, Resource::Blob(_));
        let together = |a: &Removed, b: &Removed| blob(a) && blob(b) && a.namespace == b.namespace;
        for run in garbage.chunk_by(together) {
            let namespace = Namespace::new(&run[0].namespace);
            let (true, Ok(namespace)) = (run.len() > 1, namespace) else {
                run.iter().try_for_each(|removed| self.remove_garbage(removed))?;
                continue;
            };
            self.dirty.content = true;
            let Some(mut blobs) = self.open(&Scope::new(namespace), &[CONTENT, BLOB])? else {
                continue;
            };
            for removed in run {
                let Resource::Blob(digest) = &removed.resource else { continue };
                match blobs.delete_bucket(digest.as_bytes()) {
                    // Its client was quicker.
                    Ok(()) | Err(store_bolt::Error::BucketNotFound { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

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

    fn digest(number: usize) -> Digest {
        Digest::parse(&format!("sha256:{number:064x}")).expect("digest")
    }

    fn scope() -> Scope {
        Scope::new(Namespace::new("default").expect("namespace"))
    }

    fn blob(metadata: &Metadata, number: usize, needs: &[usize]) {
        let labels: Labels = needs
            .iter()
            .map(|other| {
                (format!("containerd.io/gc.ref.content.{other}"), digest(*other).to_string())
            })
            .collect();
        metadata
            .update_blocking(move |tx| {
                Ok(tx.commit_ingest(&scope(), "r", &digest(number), 1, labels)?)
            })
            .expect("blob");
    }

    fn has(metadata: &Metadata, number: usize) -> bool {
        let namespace = scope().namespace;
        metadata.view(|tx| Ok(tx.has_blob(&namespace, &digest(number))?)).expect("view")
    }

    /// Blobs 1 (needs 2, which needs 3) and 4; marked. Then `meanwhile`, then the removal.
    fn collect(meanwhile: impl FnOnce(&Metadata)) -> (tempfile::TempDir, Metadata, usize, bool) {
        let folder = tempfile::tempdir_in("/dev/shm").expect("folder");
        let metadata = Metadata::open(folder.path().join("meta.db"), crate::Options::default())
            .expect("database");
        for (number, needs) in [(1, &[2][..]), (2, &[3]), (3, &[]), (4, &[])] {
            blob(&metadata, number, needs);
        }
        let recording = metadata.inner.journal.begin();
        let now = SystemTime::now();
        let marked = metadata.inner.mark(now).expect("marking");
        assert_eq!(marked.garbage.len(), 4);
        meanwhile(&metadata);
        let mut removed = Vec::new();
        let again = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("runtime")
            .block_on(metadata.remove_marked(marked.garbage, now, &mut removed))
            .expect("removal");
        drop(recording);
        (folder, metadata, removed.len(), again)
    }

    fn leased(metadata: &Metadata, number: usize) {
        metadata
            .update_blocking(move |tx| {
                tx.create_lease(&scope(), "l", &Labels::new())?;
                let scope = scope().with_lease("l");
                Ok(tx.open_ingest(&scope, "r", Some(&digest(number)), false)?)
            })
            .expect("lease");
    }

    #[test]
    fn without_changes_what_was_marked_is_removed() {
        let (_folder, metadata, removed, again) = collect(|_| {});
        assert_eq!((removed, again), (4, false));
        assert!((1..=4).all(|number| !has(&metadata, number)));
        assert!(metadata.inner.dirty().content, "a dropped collection leaves the need to sweep");
    }

    #[test]
    fn garbage_that_is_leased_before_its_removal_survives_with_what_it_needs() {
        let (_folder, metadata, removed, again) = collect(|metadata| leased(metadata, 2));
        assert_eq!((removed, again), (2, true));
        assert_eq!([1, 2, 3, 4].map(|number| has(&metadata, number)), [false, true, true, false]);
    }

    #[test]
    fn garbage_that_something_new_refers_to_survives() {
        let (_folder, metadata, removed, _) = collect(|metadata| {
            blob(metadata, 5, &[4]);
        });
        assert_eq!(removed, 3);
        assert!(has(&metadata, 4));
    }

    #[test]
    fn a_label_on_what_lives_keeps_what_it_names() {
        let (_folder, metadata, removed, _) = collect(|metadata| {
            metadata
                .update_blocking(|tx| {
                    let needs = Labels::from([(
                        "containerd.io/gc.ref.content".to_owned(),
                        digest(3).to_string(),
                    )]);
                    tx.create_lease(&scope(), "other", &Labels::new())?;
                    let kind = "content".to_owned();
                    let resource = crate::LeaseResource { id: digest(1).to_string(), kind };
                    tx.add_lease_resource(&scope(), "other", &resource)?;
                    Ok(tx.update_blob(&scope(), &digest(4), &needs, &[])?)
                })
                .expect("labels");
        });
        assert_eq!(removed, 0);
        assert!((1..=4).all(|number| has(&metadata, number)));
    }

    #[test]
    fn with_too_many_changes_marking_is_done_again() {
        let (_folder, metadata, removed, _) = collect(|metadata| {
            metadata.inner.journal.ran(
                std::iter::repeat_n(Name::at(b"n", &[b"images", b"x"]).expect("name"), 70_000)
                    .collect(),
            );
            leased(metadata, 2);
        });
        assert_eq!(removed, 2);
        assert!(has(&metadata, 2) && has(&metadata, 3));
    }

    #[test]
    fn a_failed_update_touches_nothing() {
        let (_folder, _metadata, removed, _) = collect(|metadata| {
            let failed: base_errors::Result<()> = metadata.update_blocking(|tx| {
                tx.create_lease(&scope(), "l", &Labels::new())?;
                tx.open_ingest(&scope().with_lease("l"), "r", Some(&digest(2)), false)?;
                Err(base_errors::Error::unknown("no"))
            });
            assert!(failed.is_err());
        });
        assert_eq!(removed, 4);
    }
}
