//! Changing tree records.

use std::time::SystemTime;

use base_errors::Result;
use base_ident::Labels;
use store_bolt::{BucketMut, WriteTx};

use super::encode::parent_key;
use super::view::{Tree, View};
use super::{
    CREATED_AT, ID, INODES, KIND, LABELS, PARENT, PARENTS, SIZE, SNAPSHOTS, UPDATED_AT, V1,
};
use crate::error::SnapshotError;
use crate::labels;
use crate::snapshotter::{Info, Kind, UpdateField, Usage};
use store_bolt::value::{count, time, uvarint};

/// A write transaction on the records.
pub struct Update<'a, 'tx> {
    tx: &'a mut WriteTx<'tx>,
}

impl<'a, 'tx> Update<'a, 'tx> {
    pub(super) fn new(tx: &'a mut WriteTx<'tx>) -> Self {
        Update { tx }
    }

    /// The records as this transaction sees them.
    ///
    /// # Errors
    /// Those of the database.
    pub fn view(&self) -> Result<View<'_>> {
        Ok(View::new(self.tx.read())?)
    }

    /// Runs `then` when this transaction is durable; drops it if it fails. It must be short.
    pub fn on_commit(&mut self, then: impl FnOnce() + Send + 'static) {
        self.tx.on_commit(then);
    }

    fn snapshots(&mut self) -> Result<BucketMut<'_>> {
        Ok(self.tx.create_bucket_if_missing(&[V1, SNAPSHOTS])?)
    }

    fn parents(&mut self) -> Result<BucketMut<'_>> {
        Ok(self.tx.create_bucket_if_missing(&[V1, PARENTS])?)
    }

    /// Makes the record of an active snapshot or a view.
    ///
    /// # Errors
    /// AlreadyExists; NotFound or InvalidArgument for the parent.
    pub fn create(&mut self, kind: Kind, key: &str, parent: &str, labels: &Labels) -> Result<Tree> {
        self.create_as(None, kind, key, parent, labels)
    }

    /// A new id for a snapshot whose record comes later. It is never given twice.
    ///
    /// # Errors
    /// Those of the database.
    pub fn reserve_id(&mut self) -> Result<u64> {
        self.parents()?;
        Ok(self.snapshots()?.next_sequence()?)
    }

    /// As [`Update::create`], with an id from [`Update::reserve_id`].
    ///
    /// # Errors
    /// As [`Update::create`].
    pub fn create_as(
        &mut self,
        reserved: Option<u64>,
        kind: Kind,
        key: &str,
        parent: &str,
        labels: &Labels,
    ) -> Result<Tree> {
        if key.is_empty() {
            return Err(SnapshotError::KeyEmpty.into());
        }
        self.check_parent(parent)?;
        let view = self.view()?;
        if view.has(key)? {
            return Err(SnapshotError::Exists(key.to_owned()).into());
        }
        let parents = view.chain(parent)?;
        // Both buckets are always there together, as containerd makes them.
        self.parents()?;
        let id = match reserved {
            Some(id) => id,
            None => self.snapshots()?.next_sequence()?,
        };
        let now = SystemTime::now();
        self.put(
            id,
            &Info {
                kind,
                name: key.to_owned(),
                parent: parent.to_owned(),
                labels: labels.clone(),
                created_at: now,
                updated_at: now,
            },
        )?;
        if let Some(nearest) = parents.first() {
            self.parents()?.put(&parent_key(*nearest, id), key.as_bytes())?;
        }
        Ok(Tree { id, kind, parents })
    }

    fn check_parent(&self, parent: &str) -> Result<()> {
        if parent.is_empty() {
            return Ok(());
        }
        let view = self.view()?;
        if !view.has(parent)? {
            return Err(SnapshotError::ParentNotFound(parent.to_owned()).into());
        }
        if view.info(parent)?.1.kind != Kind::Committed {
            return Err(SnapshotError::ParentNotCommitted(parent.to_owned()).into());
        }
        Ok(())
    }

    fn put(&mut self, id: u64, info: &Info) -> Result<()> {
        let mut snapshots = self.snapshots()?;
        let mut bucket = snapshots.create_bucket_if_missing(info.name.as_bytes())?;
        bucket.put(ID, &uvarint(id))?;
        bucket.put(
            KIND,
            &[match info.kind {
                Kind::View => 1,
                Kind::Active => 2,
                Kind::Committed => 3,
            }],
        )?;
        if !info.parent.is_empty() {
            bucket.put(PARENT, info.parent.as_bytes())?;
        }
        bucket.put(CREATED_AT, &time(info.created_at))?;
        bucket.put(UPDATED_AT, &time(info.updated_at))?;
        if bucket.as_read().bucket(LABELS)?.is_some() {
            bucket.delete_bucket(LABELS)?;
        }
        if info.labels.values().any(|value| !value.is_empty()) {
            let mut labels = bucket.create_bucket(LABELS)?;
            for (key, value) in info.labels.iter().filter(|(_, value)| !value.is_empty()) {
                labels.put(key.as_bytes(), value.as_bytes())?;
            }
        }
        Ok(())
    }

    /// Turns the active snapshot `key`, which must have this `id`, into the committed `name`.
    ///
    /// The id stays; labels are replaced, times are now. `parent`, if not empty, becomes the parent
    /// of a snapshot that has none.
    ///
    /// # Errors
    /// AlreadyExists for the name; NotFound for the key or the parent; FailedPrecondition if it is
    /// not active; InvalidArgument for another parent than it has.
    pub fn commit(
        &mut self,
        id: u64,
        key: &str,
        name: &str,
        usage: Usage,
        labels: &Labels,
        parent: &str,
    ) -> Result<()> {
        if name.is_empty() {
            return Err(SnapshotError::KeyEmpty.into());
        }
        let view = self.view()?;
        if view.has(name)? {
            return Err(SnapshotError::NameExists(name.to_owned()).into());
        }
        if !view.has(key)? {
            return Err(SnapshotError::ActiveNotFound(key.to_owned()).into());
        }
        let (stored, mut info, _) = view.info(key)?;
        if info.kind != Kind::Active {
            return Err(SnapshotError::NotActive(key.to_owned()).into());
        }
        if stored != id {
            return Err(SnapshotError::Replaced(key.to_owned()).into());
        }
        if !parent.is_empty() && info.parent != parent {
            if !info.parent.is_empty() {
                return Err(SnapshotError::Rebase {
                    key: key.to_owned(),
                    has: info.parent,
                    wanted: parent.to_owned(),
                }
                .into());
            }
            if view.has(parent)? && view.info(parent)?.1.kind != Kind::Committed {
                let error =
                    base_errors::Error::from(SnapshotError::ParentNotCommitted(parent.to_owned()));
                // COMPAT: at a commit the class is another one than at a prepare.
                return Err(base_errors::Error::failed_precondition(error.message()));
            }
            self.check_parent(parent)?;
            parent.clone_into(&mut info.parent);
        }
        let nearest = self.view()?.chain(&info.parent)?.first().copied();
        self.snapshots()?.delete_bucket(key.as_bytes())?;
        let now = SystemTime::now();
        info.kind = Kind::Committed;
        name.clone_into(&mut info.name);
        info.labels = labels.clone();
        info.created_at = now;
        info.updated_at = now;
        self.put(id, &info)?;
        let mut snapshots = self.snapshots()?;
        let mut bucket = snapshots.create_bucket_if_missing(name.as_bytes())?;
        bucket.put(INODES, &count(usage.inodes))?;
        bucket.put(SIZE, &count(usage.size))?;
        if let Some(nearest) = nearest {
            self.parents()?.put(&parent_key(nearest, id), name.as_bytes())?;
        }
        Ok(())
    }

    /// Removes the record of a snapshot without children; gives its id and kind.
    ///
    /// # Errors
    /// NotFound; FailedPrecondition if it has children.
    pub fn remove(&mut self, key: &str) -> Result<(u64, Kind)> {
        let view = self.view()?;
        let (id, info, _) = view.info(key)?;
        if view.has_children(id)? {
            return Err(SnapshotError::HasChildren.into());
        }
        let nearest = match info.parent.as_str() {
            "" => None,
            parent => Some(view.info(parent)?.0),
        };
        self.snapshots()?.delete_bucket(key.as_bytes())?;
        if let Some(nearest) = nearest {
            self.parents()?.delete(&parent_key(nearest, id))?;
        }
        Ok((id, info.kind))
    }

    /// Changes labels.
    ///
    /// # Errors
    /// NotFound.
    pub fn update(&mut self, new: &Info, fields: &[UpdateField]) -> Result<Info> {
        let (id, mut info, _) = self.view()?.info(&new.name)?;
        labels::apply(&mut info.labels, &new.labels, fields);
        info.updated_at = SystemTime::now();
        self.put(id, &info)?;
        Ok(info)
    }
}
