//! Snapshots as namespaces see them: records in `meta.db` over one backend that has the trees.
//!
//! [`NamespacedSnapshots`] is made once per snapshotter; [`NamespacedSnapshots::scope`] gives the
//! snapshotter of one call. Making a snapshot takes three steps, none of which waits for another
//! inside of a transaction: reserve a key of the backend, have the backend make the snapshot,
//! record it. A crash in between leaves a snapshot that no record names; its key is never
//! reserved again, so it is in nobody's way, and the next sweep removes it. Only a database that was
//! lost, or went back to a backup, reserves keys that the backend has already: then the next one is
//! tried.

mod sweep;
mod target;

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use base_errors::{Error, Result};
use base_ident::Labels;
use kernel_mount::Mount;
use store_metadata::{
    Held, Metadata, MetadataError, NewCommit, NewSnapshot, Object, Reserved, ReservedCommit, Scope,
    SnapshotRecord,
};

use self::target::Claims;
use crate::error::SnapshotError;
use crate::labels::{self, LABEL_SNAPSHOT_REF, inherited, is_inherited};
use crate::snapshotter::{Info, Snapshotter, UpdateField, Usage};

/// The snapshots of all namespaces in one backend. Cloning gives another handle of the same.
#[derive(Clone)]
pub struct NamespacedSnapshots {
    shared: Arc<Shared>,
}

struct Shared {
    metadata: Metadata,
    name: String,
    backend: Arc<dyn Snapshotter>,
    claims: Claims,
}

impl NamespacedSnapshots {
    /// Snapshot records of `metadata` over `backend`, which clients call `name`. There must be one
    /// of these per database and name.
    #[must_use]
    pub fn new(metadata: Metadata, name: &str, backend: Arc<dyn Snapshotter>) -> Self {
        let claims = Claims::default();
        NamespacedSnapshots {
            shared: Arc::new(Shared { metadata, name: name.to_owned(), backend, claims }),
        }
    }

    /// The snapshotter as the namespace of `scope` sees it, under its lease.
    #[must_use]
    pub fn scope(&self, scope: impl Into<Scope>) -> NamespacedSnapshotter {
        NamespacedSnapshotter { shared: Arc::clone(&self.shared), scope: scope.into() }
    }

    /// The snapshotter that has the trees.
    #[must_use]
    pub fn backend(&self) -> &Arc<dyn Snapshotter> {
        &self.shared.backend
    }

    /// The name by which clients know it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.name
    }
}

/// Keys that are tried if the backend has those which are new to the database. Each has a number of
/// its own, so one that is free comes soon.
const MAX_KEYS: usize = 16;

/// The snapshots of one namespace; a [`Snapshotter`].
#[derive(Clone)]
pub struct NamespacedSnapshotter {
    shared: Arc<Shared>,
    scope: Scope,
}

/// What a call wants to make.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Want {
    Active,
    View,
}

impl NamespacedSnapshotter {
    fn record(&self, key: &str) -> Result<SnapshotRecord> {
        let Shared { metadata, name, .. } = &*self.shared;
        metadata.view(|tx| match tx.snapshot(&self.scope.namespace, name, key) {
            Ok(record) => Ok(record),
            Err(error) => {
                let error = Error::from(error);
                Err(if error.is_not_found() {
                    SnapshotError::NotFound(key.to_owned()).into()
                } else {
                    error
                })
            }
        })
    }

    async fn create(
        &self,
        want: Want,
        key: &str,
        parent: &str,
        labels: Labels,
    ) -> Result<Vec<Mount>> {
        if key.is_empty() {
            return Err(SnapshotError::KeyEmpty.into());
        }
        let Shared { metadata, name, backend, .. } = &*self.shared;
        let target = labels.get(LABEL_SNAPSHOT_REF).filter(|target| !target.is_empty()).cloned();
        let mut taken = 0;
        let (held, backend_key, backend_parent, mounts) = loop {
            let reserved = self.reserve(key, parent, target.as_deref(), &labels).await?;
            let (backend_key, backend_parent) = match reserved {
                Reserved::New { backend, parent } => (backend, parent),
                Reserved::Exists(object) => return Err(MetadataError::AlreadyExists(object).into()),
            };
            let held = metadata.hold(Held::Snapshot(name.clone(), backend_key.clone()));
            let passed = inherited(&labels);
            let made = match want {
                Want::Active => backend.prepare(&backend_key, &backend_parent, passed).await,
                Want::View => backend.view(&backend_key, &backend_parent, passed).await,
            };
            match (made, target.as_ref()) {
                (Ok(mounts), _) => break (held, backend_key, backend_parent, mounts),
                (Err(error), Some(target)) if error.is_already_exists() => {
                    return Err(self.adopt(target.clone(), parent, backend_parent, labels).await);
                }
                (Err(error), None) if error.is_already_exists() => {
                    metadata.mark_snapshotter_dirty(name);
                    taken += 1;
                    // The caller must not take it for an answer about its own key.
                    if taken == MAX_KEYS {
                        return Err(SnapshotError::Backend(error.to_string()).into());
                    }
                }
                (Err(error), _) => return Err(error),
            }
        };
        let new = NewSnapshot {
            key: key.to_owned(),
            backend: backend_key.clone(),
            parent: parent.to_owned(),
            backend_parent,
            labels,
            times: None,
        };
        let recorded = self.put_record(new).await;
        if let Err(error) = recorded {
            // Nobody will ever ask for it by this key; if it stays, the next sweep takes it.
            if let Err(error) = backend.remove(&backend_key).await {
                tracing::warn!(key = %backend_key, %error, "failed to clean up a snapshot");
                metadata.mark_snapshotter_dirty(name);
            }
            return Err(error);
        }
        drop(held);
        Ok(mounts)
    }

    async fn reserve(
        &self,
        key: &str,
        parent: &str,
        target: Option<&str>,
        labels: &Labels,
    ) -> Result<Reserved> {
        let (scope, name) = (self.scope.clone(), self.shared.name.clone());
        let (key, parent) = (key.to_owned(), parent.to_owned());
        let (target, labels) = (target.map(str::to_owned), labels.clone());
        let reserve = move |tx: &mut store_metadata::Update<'_, '_>| {
            Ok(tx.reserve_snapshot(&scope, &name, &key, &parent, target.as_deref(), &labels)?)
        };
        self.shared.metadata.update(reserve).await
    }

    async fn put_record(&self, new: NewSnapshot) -> Result<SnapshotRecord> {
        let (scope, name) = (self.scope.clone(), self.shared.name.clone());
        self.shared.metadata.update(move |tx| Ok(tx.record_snapshot(&scope, &name, &new)?)).await
    }

    /// The labels of the record, and those that the backend adds.
    fn info(record: SnapshotRecord, backend: Info) -> Info {
        let mut labels = backend.labels;
        labels.extend(record.labels);
        Info {
            kind: backend.kind,
            name: record.key,
            parent: record.parent,
            labels,
            created_at: record.created_at,
            updated_at: record.updated_at,
        }
    }
}

#[async_trait]
impl Snapshotter for NamespacedSnapshotter {
    async fn stat(&self, key: &str) -> Result<Info> {
        let record = self.record(key)?;
        let backend = self.shared.backend.stat(&record.backend).await?;
        Ok(Self::info(record, backend))
    }

    async fn update(&self, info: &Info, fields: &[UpdateField]) -> Result<Info> {
        let record = self.record(&info.name)?;
        let mask: Vec<String> = fields
            .iter()
            .map(|field| match field {
                UpdateField::Labels => "labels".to_owned(),
                UpdateField::Label(key) => format!("labels.{key}"),
            })
            .collect();
        let updated = {
            let (scope, name) = (self.scope.clone(), self.shared.name.clone());
            let (key, labels) = (info.name.clone(), info.labels.clone());
            self.shared
                .metadata
                .update(move |tx| Ok(tx.update_snapshot(&scope, &name, &key, &labels, &mask)?))
                .await?
        };
        // The record is the truth for labels; the backend is told what concerns it.
        let passed: Vec<UpdateField> = fields
            .iter()
            .filter(|field| match field {
                UpdateField::Labels => true,
                UpdateField::Label(key) => is_inherited(key),
            })
            .cloned()
            .collect();
        let stat = self.shared.backend.stat(&record.backend).await?;
        let backend = if fields.is_empty() || !passed.is_empty() {
            let labels = inherited(&updated.labels);
            self.shared.backend.update(&Info { labels, ..stat }, &passed).await?
        } else {
            stat
        };
        Ok(Self::info(updated, backend))
    }

    async fn usage(&self, key: &str) -> Result<Usage> {
        let record = self.record(key)?;
        self.shared.backend.usage(&record.backend).await
    }

    async fn mounts(&self, key: &str) -> Result<Vec<Mount>> {
        let record = self.record(key)?;
        self.shared.backend.mounts(&record.backend).await
    }

    async fn prepare(&self, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>> {
        self.create(Want::Active, key, parent, labels).await
    }

    async fn view(&self, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>> {
        self.create(Want::View, key, parent, labels).await
    }

    /// CANCEL: the backend may have committed without a record; the active key is then lost, the
    /// name is free, and the next sweep removes the tree.
    async fn commit(&self, name: &str, key: &str, labels: Labels, parent: &str) -> Result<()> {
        if name.is_empty() {
            return Err(SnapshotError::KeyEmpty.into());
        }
        let Shared { metadata, name: snapshotter, backend, .. } = &*self.shared;
        let mut taken = 0;
        let (to, holds) = loop {
            let reserved = {
                let (scope, snapshotter) = (self.scope.clone(), snapshotter.clone());
                let (name, key) = (name.to_owned(), key.to_owned());
                let (parent, labels) = (parent.to_owned(), labels.clone());
                metadata
                    .update(move |tx| {
                        Ok(tx.reserve_commit(
                            &scope,
                            &snapshotter,
                            &name,
                            &key,
                            &parent,
                            &labels,
                        )?)
                    })
                    .await?
            };
            let (from, to, rebase) = match reserved {
                ReservedCommit::New { backend, name, rebase } => (backend, name, rebase),
                ReservedCommit::Exists(object) => {
                    return Err(MetadataError::AlreadyExists(object).into());
                }
            };
            let holds = [&from, &to]
                .map(|key| metadata.hold(Held::Snapshot(snapshotter.clone(), key.clone())));
            let parent = rebase.unwrap_or_default();
            match backend.commit(&to, &from, inherited(&labels), &parent).await {
                Ok(()) => break (to, holds),
                Err(error) if error.is_already_exists() => {
                    metadata.mark_snapshotter_dirty(snapshotter);
                    taken += 1;
                    // The caller must not take it for an answer about its own name.
                    if taken == MAX_KEYS {
                        return Err(SnapshotError::Backend(error.to_string()).into());
                    }
                }
                Err(error) => return Err(error),
            }
        };
        // DURABILITY: the backend has the tree under its new key; this record gives it its name.
        base_fs::failpoint::hit("snapshot.commit.record")
            .map_err(|errno| base_fs::Error::new("record", name, errno))?;
        let commit = NewCommit {
            name: name.to_owned(),
            key: key.to_owned(),
            backend: to,
            parent: parent.to_owned(),
            labels,
        };
        let (scope, snapshotter) = (self.scope.clone(), snapshotter.clone());
        metadata.update(move |tx| Ok(tx.record_commit(&scope, &snapshotter, &commit)?)).await?;
        drop(holds);
        Ok(())
    }

    /// Removes the record; the tree goes with the next sweep.
    async fn remove(&self, key: &str) -> Result<()> {
        self.record(key)?;
        let (scope, name) = (self.scope.clone(), self.shared.name.clone());
        let key = key.to_owned();
        self.shared.metadata.update(move |tx| Ok(tx.remove_snapshot(&scope, &name, &key)?)).await?;
        Ok(())
    }

    async fn list(&self, filters: &[String]) -> Result<Vec<Info>> {
        let filter = labels::parse(filters)?;
        let Shared { metadata, name, backend, .. } = &*self.shared;
        let records = metadata.view(|tx| Ok(tx.snapshots(&self.scope.namespace, name)?))?;
        if records.is_empty() {
            return Ok(Vec::new());
        }
        let mut trees: HashMap<String, Info> =
            backend.list(&[]).await?.into_iter().map(|info| (info.name.clone(), info)).collect();
        // A record whose tree is gone is left out, as in containerd.
        Ok(records
            .into_iter()
            .filter_map(|record| {
                let backend = trees.remove(&record.backend)?;
                Some(Self::info(record, backend))
            })
            .filter(|info| labels::matches(&filter, info))
            .collect())
    }

    async fn cleanup(&self) -> Result<()> {
        self.shared.backend.cleanup().await
    }
}

/// The error for a target that exists by now.
fn target_exists(target: String) -> Error {
    MetadataError::AlreadyExists(Object::TargetSnapshot(target)).into()
}
