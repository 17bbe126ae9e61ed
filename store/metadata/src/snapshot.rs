//! Snapshots: the names that a namespace has for snapshots of a backend.
//!
//! ```text
//! snapshots/<snapshotter>/     sequence: numbers in backend keys
//!   <key>/
//!     name                     the backend's key, "<namespace>/<number>/<key>"
//!     createdat updatedat      time
//!     parent                   key of the parent; absent for a base
//!     children/<key> = ""      back links, in step with `parent`
//!     labels/
//! ```
//!
//! Making a snapshot takes three steps, so that no transaction waits for a backend: *reserve* a
//! backend key, have the backend make the snapshot, *record* it. From before the backend's work to
//! after the record the caller has a [`crate::Hold`] on the backend key.

use std::collections::BTreeSet;
use std::time::SystemTime;

use base_ident::{Labels, Namespace, validate_labels};
use store_bolt::{Bucket, Entry};

use crate::blob::apply_labels;
use crate::encode::{put_map, put_times};
use crate::ingest::backend_key;
use crate::metadata::{Update, View};
use crate::record::{Record, find, list};
use crate::schema::{CHILDREN, LABELS, NAME, PARENT, ROOT, SNAPSHOTS};
use crate::{MetadataError, Object, Result, Scope};

/// A snapshot as a namespace has it. What kind it is, the backend knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotRecord {
    /// The client's key or name.
    pub key: String,
    /// The backend's key.
    pub backend: String,
    /// The parent's key; empty for a base.
    pub parent: String,
    /// All labels; the backend gets those that it may inherit.
    pub labels: Labels,
    /// When it was prepared or committed.
    pub created_at: SystemTime,
    /// When its labels last changed.
    pub updated_at: SystemTime,
}

/// The outcome of reserving a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reserved {
    /// The backend may make the snapshot `backend` on `parent` (empty: from nothing).
    New {
        /// The new snapshot's key in the backend.
        backend: String,
        /// The parent's key in the backend.
        parent: String,
    },
    /// It is there already (the key, or the target that the label names), and in the lease of the
    /// call now. The call's answer is AlreadyExists, which must not undo the transaction.
    Exists(Object),
}

/// The outcome of reserving a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReservedCommit {
    /// The backend may commit `backend` as `name`.
    New {
        /// The active snapshot's key in the backend.
        backend: String,
        /// The committed one's key in the backend.
        name: String,
        /// The key in the backend of the parent onto which it moves first, if it does.
        rebase: Option<String>,
    },
    /// The name is taken; as [`Reserved::Exists`].
    Exists(Object),
}

/// A snapshot to be recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSnapshot {
    /// The client's key.
    pub key: String,
    /// The backend's key, as reserved.
    pub backend: String,
    /// The parent's key; empty for a base.
    pub parent: String,
    /// The key that the backend's snapshot has as its parent there; must be that of `parent`.
    pub backend_parent: String,
    /// All labels.
    pub labels: Labels,
    /// Its time, if it is not now: when a target was found in the backend.
    pub times: Option<(SystemTime, SystemTime)>,
}

/// A commit to be recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewCommit {
    /// The committed snapshot's name.
    pub name: String,
    /// The active snapshot's key; it goes.
    pub key: String,
    /// The committed snapshot's key in the backend, as reserved.
    pub backend: String,
    /// The parent that the request names; empty if none.
    pub parent: String,
    /// All labels.
    pub labels: Labels,
}

impl SnapshotRecord {
    fn decode(record: Record<'_>) -> Result<Self> {
        let (created_at, updated_at) = record.times()?;
        Ok(SnapshotRecord {
            key: record.name()?,
            backend: record.string(NAME)?,
            parent: record.string(PARENT)?,
            labels: record.map(LABELS)?,
            created_at,
            updated_at,
        })
    }
}

impl<'a> View<'a> {
    /// A snapshot.
    ///
    /// # Errors
    /// NotFound, DataLoss.
    pub fn snapshot(
        &self,
        namespace: &Namespace,
        snapshotter: &str,
        key: &str,
    ) -> Result<SnapshotRecord> {
        let bucket = self.snapshotter(namespace, snapshotter)?;
        match find(bucket, "snapshots", key.as_bytes())? {
            Some(record) => SnapshotRecord::decode(record),
            None => Err(MetadataError::NotFound(Object::Snapshot(key.to_owned()))),
        }
    }

    /// All snapshots of a namespace and snapshotter, in the order of their keys.
    ///
    /// # Errors
    /// DataLoss of the whole list; a damaged record is left out.
    pub fn snapshots(
        &self,
        namespace: &Namespace,
        snapshotter: &str,
    ) -> Result<Vec<SnapshotRecord>> {
        let bucket = self.snapshotter(namespace, snapshotter)?;
        list(bucket, "snapshots", SnapshotRecord::decode, |_| true)
    }

    fn snapshotter(&self, namespace: &Namespace, snapshotter: &str) -> Result<Option<Bucket<'a>>> {
        self.bucket(namespace, &[SNAPSHOTS, snapshotter.as_bytes()])
    }

    /// The backend's key of `key`; an error of the object that `missing` makes if there is none.
    fn backend(
        &self,
        namespace: &Namespace,
        snapshotter: &str,
        key: &str,
        missing: fn(String) -> Object,
    ) -> Result<String> {
        let bucket = self.snapshotter(namespace, snapshotter)?;
        match find(bucket, "snapshots", key.as_bytes())? {
            Some(record) => record.string(NAME),
            None => Err(MetadataError::NotFound(missing(key.to_owned()))),
        }
    }

    /// Whether a snapshot is the parent of another.
    fn has_children(&self, namespace: &Namespace, snapshotter: &str, key: &str) -> Result<bool> {
        let Some(bucket) = self.snapshotter(namespace, snapshotter)? else { return Ok(false) };
        let Some(links) = bucket.path(&[key.as_bytes(), CHILDREN])? else { return Ok(false) };
        for entry in links.iter() {
            let (child, _) = entry?;
            // COMPAT: the collector of containerd leaves links to children that it removed.
            if let Some(child) = bucket.bucket(child)?
                && child.get(PARENT)? == Some(key.as_bytes())
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The backend keys that all namespaces have of `snapshotter`.
    pub(crate) fn backend_snapshot_names(&self, snapshotter: &str) -> Result<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        let Some(namespaces) = self.root.bucket(ROOT)? else { return Ok(names) };
        for entry in namespaces.iter() {
            let (_, Entry::Bucket(namespace)) = entry? else { continue };
            let path = [SNAPSHOTS, snapshotter.as_bytes()];
            let Some(snapshots) = namespace.path(&path)? else { continue };
            for snapshot in snapshots.iter() {
                let (_, Entry::Bucket(snapshot)) = snapshot? else { continue };
                if let Some(name) = snapshot.get(NAME)? {
                    names.insert(String::from_utf8_lossy(name).into_owned());
                }
            }
        }
        Ok(names)
    }
}

impl Update<'_, '_> {
    fn lease_snapshot(&mut self, scope: &Scope, snapshotter: &str, key: &str) -> Result<()> {
        self.lease(scope, &[SNAPSHOTS, snapshotter.as_bytes()], key.as_bytes())?;
        Ok(())
    }

    fn has_snapshot(&self, scope: &Scope, snapshotter: &str, key: &str) -> Result<bool> {
        let path = [SNAPSHOTS, snapshotter.as_bytes(), key.as_bytes()];
        Ok(self.view().bucket(&scope.namespace, &path)?.is_some())
    }

    /// Reserves a backend key for the snapshot `key` on `parent` (empty: from nothing). `target` is
    /// the label `containerd.io/snapshot.ref`, if the client gave it: a committed snapshot that it
    /// wants instead.
    ///
    /// # Errors
    /// NotFound for an unknown parent or lease; InvalidArgument for labels that are too large.
    pub fn reserve_snapshot(
        &mut self,
        scope: &Scope,
        snapshotter: &str,
        key: &str,
        parent: &str,
        target: Option<&str>,
        labels: &Labels,
    ) -> Result<Reserved> {
        validate_labels(labels).map_err(MetadataError::field("info.Labels"))?;
        if let Some(target) = target.filter(|target| !target.is_empty())
            && self.has_snapshot(scope, snapshotter, target)?
        {
            self.lease_snapshot(scope, snapshotter, target)?;
            return Ok(Reserved::Exists(Object::TargetSnapshot(target.to_owned())));
        }
        if self.has_snapshot(scope, snapshotter, key)? {
            self.lease_snapshot(scope, snapshotter, key)?;
            return Ok(Reserved::Exists(Object::Snapshot(key.to_owned())));
        }
        let parent = if parent.is_empty() {
            String::new()
        } else {
            let view = self.view();
            view.backend(&scope.namespace, snapshotter, parent, Object::ParentSnapshot)?
        };
        let mut bucket = self.create(scope, &[SNAPSHOTS, snapshotter.as_bytes()])?;
        let sequence = bucket.next_sequence()?;
        Ok(Reserved::New { backend: backend_key(&scope.namespace, sequence, key), parent })
    }

    /// Records a snapshot that the backend has made.
    ///
    /// # Errors
    /// AlreadyExists if another call was faster: the caller removes the backend's snapshot; NotFound
    /// for a parent that went away, and for an unknown lease; InvalidArgument if the backend has
    /// another parent.
    pub fn record_snapshot(
        &mut self,
        scope: &Scope,
        snapshotter: &str,
        new: &NewSnapshot,
    ) -> Result<SnapshotRecord> {
        let mut labels = new.labels.clone();
        validate_labels(&labels).map_err(MetadataError::field("info.Labels"))?;
        labels.retain(|_, value| !value.is_empty());
        if self.has_snapshot(scope, snapshotter, &new.key)? {
            return Err(MetadataError::AlreadyExists(Object::Snapshot(new.key.clone())));
        }
        if !new.parent.is_empty() {
            let view = self.view();
            let parent =
                view.backend(&scope.namespace, snapshotter, &new.parent, Object::ParentSnapshot)?;
            if parent != new.backend_parent {
                return Err(MetadataError::ParentMismatch {
                    parent: new.parent.clone(),
                    target: new.key.clone(),
                });
            }
        }
        self.lease_snapshot(scope, snapshotter, &new.key)?;
        let now = SystemTime::now();
        let (created_at, updated_at) = new.times.unwrap_or((now, now));
        let record = SnapshotRecord {
            key: new.key.clone(),
            backend: new.backend.clone(),
            parent: new.parent.clone(),
            labels,
            created_at,
            updated_at,
        };
        self.put_snapshot(scope, snapshotter, &record)?;
        Ok(record)
    }

    /// Writes a record and the link in its parent.
    fn put_snapshot(
        &mut self,
        scope: &Scope,
        snapshotter: &str,
        record: &SnapshotRecord,
    ) -> Result<()> {
        let key = record.key.as_bytes();
        self.touch(scope, &[SNAPSHOTS, snapshotter.as_bytes(), key]);
        let mut snapshots = self.create(scope, &[SNAPSHOTS, snapshotter.as_bytes()])?;
        let mut bucket = snapshots.create_bucket_if_missing(key)?;
        bucket.put(NAME, record.backend.as_bytes())?;
        put_times(&mut bucket, record.created_at, record.updated_at)?;
        put_map(&mut bucket, LABELS, &record.labels)?;
        if !record.parent.is_empty() {
            bucket.put(PARENT, record.parent.as_bytes())?;
            let mut parent = snapshots.create_bucket_if_missing(record.parent.as_bytes())?;
            parent.create_bucket_if_missing(CHILDREN)?.put(key, b"")?;
        }
        Ok(())
    }

    /// Reserves a backend key to commit the active snapshot `key` as `name`. `parent`, if not empty,
    /// is that of a snapshot which has none yet.
    ///
    /// # Errors
    /// NotFound for unknown keys, parents and leases; InvalidArgument for labels that are too large.
    pub fn reserve_commit(
        &mut self,
        scope: &Scope,
        snapshotter: &str,
        name: &str,
        key: &str,
        parent: &str,
        labels: &Labels,
    ) -> Result<ReservedCommit> {
        validate_labels(labels).map_err(MetadataError::field("info.Labels"))?;
        if self.view().snapshotter(&scope.namespace, snapshotter)?.is_none() {
            return Err(MetadataError::NotFound(Object::Snapshotter(snapshotter.to_owned())));
        }
        if self.has_snapshot(scope, snapshotter, name)? {
            self.lease_snapshot(scope, snapshotter, name)?;
            return Ok(ReservedCommit::Exists(Object::Snapshot(name.to_owned())));
        }
        let active = self.view().snapshot(&scope.namespace, snapshotter, key)?;
        let moves = active.parent.is_empty() && !parent.is_empty();
        let parent = if moves { parent } else { active.parent.as_str() };
        let mut rebase = None;
        if !parent.is_empty() {
            let view = self.view();
            let parent =
                view.backend(&scope.namespace, snapshotter, parent, Object::ParentSnapshot)?;
            rebase = Some(parent).filter(|_| moves);
        }
        let mut bucket = self.create(scope, &[SNAPSHOTS, snapshotter.as_bytes()])?;
        let sequence = bucket.next_sequence()?;
        let name = backend_key(&scope.namespace, sequence, name);
        Ok(ReservedCommit::New { backend: active.backend, name, rebase })
    }

    /// Records a commit that the backend has made. The active key and its place in the lease go.
    ///
    /// # Errors
    /// AlreadyExists if another call took the name; NotFound for what went away meanwhile.
    pub fn record_commit(
        &mut self,
        scope: &Scope,
        snapshotter: &str,
        new: &NewCommit,
    ) -> Result<SnapshotRecord> {
        let mut labels = new.labels.clone();
        validate_labels(&labels).map_err(MetadataError::field("info.Labels"))?;
        labels.retain(|_, value| !value.is_empty());
        if self.has_snapshot(scope, snapshotter, &new.name)? {
            return Err(MetadataError::AlreadyExists(Object::Snapshot(new.name.clone())));
        }
        let active = self.view().snapshot(&scope.namespace, snapshotter, &new.key)?;
        let parent = if active.parent.is_empty() { &new.parent } else { &active.parent };
        if !parent.is_empty() && !self.has_snapshot(scope, snapshotter, parent)? {
            return Err(MetadataError::NotFound(Object::ParentSnapshot(parent.clone())));
        }
        self.lease_snapshot(scope, snapshotter, &new.name)?;
        let now = SystemTime::now();
        let record = SnapshotRecord {
            key: new.name.clone(),
            backend: new.backend.clone(),
            parent: parent.clone(),
            labels,
            created_at: now,
            updated_at: now,
        };
        self.put_snapshot(scope, snapshotter, &record)?;
        self.drop_snapshot(scope, snapshotter, &new.key, parent)?;
        Ok(record)
    }

    /// Removes a record, the link in its parent and its place in the lease.
    pub(crate) fn drop_snapshot(
        &mut self,
        scope: &Scope,
        snapshotter: &str,
        key: &str,
        parent: &str,
    ) -> Result<()> {
        let path = [SNAPSHOTS, snapshotter.as_bytes()];
        self.remove(scope, &path, key.as_bytes())?;
        if !parent.is_empty() {
            let links = [SNAPSHOTS, snapshotter.as_bytes(), parent.as_bytes(), CHILDREN];
            if let Some(mut links) = self.open(scope, &links)? {
                links.delete(key.as_bytes())?;
            }
        }
        self.unlease(scope, &path, key.as_bytes())
    }

    /// Changes labels of a snapshot: those that `mask` names (`labels`, `labels.<key>`), all of them
    /// if it is empty. Gives the new record.
    ///
    /// # Errors
    /// NotFound; InvalidArgument for other paths and labels that are too large.
    pub fn update_snapshot(
        &mut self,
        scope: &Scope,
        snapshotter: &str,
        key: &str,
        labels: &Labels,
        mask: &[String],
    ) -> Result<SnapshotRecord> {
        let mut new = self.view().snapshot(&scope.namespace, snapshotter, key)?;
        apply_labels(&mut new.labels, labels, mask, || format!("snapshot {key:?}"))?;
        new.updated_at = SystemTime::now();
        let path = [SNAPSHOTS, snapshotter.as_bytes(), key.as_bytes()];
        let mut bucket = self.create(scope, &path)?;
        put_times(&mut bucket, new.created_at, new.updated_at)?;
        put_map(&mut bucket, LABELS, &new.labels)?;
        Ok(new)
    }

    /// Removes the record of a snapshot without children. The next sweep removes the backend's
    /// snapshot, or the caller does, if nothing else needs it.
    ///
    /// # Errors
    /// NotFound; FailedPrecondition if it has children.
    pub fn remove_snapshot(
        &mut self,
        scope: &Scope,
        snapshotter: &str,
        key: &str,
    ) -> Result<SnapshotRecord> {
        let record = self.view().snapshot(&scope.namespace, snapshotter, key)?;
        if self.view().has_children(&scope.namespace, snapshotter, key)? {
            return Err(MetadataError::HasChildren);
        }
        self.drop_snapshot(scope, snapshotter, key, &record.parent)?;
        self.dirty.deletions += 1;
        self.dirty.snapshotters.insert(snapshotter.to_owned());
        Ok(record)
    }
}
