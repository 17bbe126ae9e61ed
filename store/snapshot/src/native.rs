//! Snapshots as plain copies: for any file system, and for tests.
//!
//! ```text
//! metadata.db
//! snapshots/<id>/      the whole tree (0755); none for a view with a parent
//! snapshots/new-*      on its way
//! ```
//!
//! A view shows its parent's folder. Removing drops the record and then the folder.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use base_errors::{Error, Result};
use base_ident::Labels;
use kernel_mount::Mount;

use crate::error::{SnapshotError, blocking};
use crate::folders::{Folders, make_private};
use crate::labels;
use crate::overlay::measure;
use crate::snapshotter::{Info, Kind, Snapshotter, UpdateField, Usage};
use crate::storage::{Storage, Tree};

/// The mode of a tree's folder.
const TREE_MODE: u32 = 0o755;

/// The native snapshotter. Cloning gives another handle of the same.
#[derive(Clone)]
pub struct NativeSnapshotter {
    shared: Arc<Shared>,
}

struct Shared {
    storage: Storage,
    folders: Folders,
}

impl NativeSnapshotter {
    /// Opens the snapshotter in `root`, which is made if it is missing. Blocks.
    ///
    /// # Errors
    /// Those of the folders and of the database.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        let root = root.into();
        make_private(&root)?;
        let storage = Storage::open(&root.join("metadata.db"))?;
        let folders = Folders::open(&root)?;
        Ok(NativeSnapshotter { shared: Arc::new(Shared { storage, folders }) })
    }
}

impl Shared {
    fn mounts_of(&self, tree: &Tree) -> Vec<Mount> {
        let source = match (tree.kind, tree.parents.first()) {
            (Kind::View, Some(parent)) => *parent,
            _ => tree.id,
        };
        let mode = if tree.kind == Kind::View { "ro" } else { "rw" };
        vec![Mount {
            kind: "bind".to_owned(),
            source: self.folders.tree(source).to_string_lossy().into_owned(),
            target: String::new(),
            options: vec!["rbind".to_owned(), mode.to_owned()],
        }]
    }

    /// CANCEL: a copy that is given up goes on to its end and is removed.
    async fn create(
        self: Arc<Self>,
        kind: Kind,
        key: &str,
        parent: &str,
        labels: Labels,
    ) -> Result<Vec<Mount>> {
        let (key, parent) = (key.to_owned(), parent.to_owned());
        let shared = Arc::clone(&self);
        let (pending, nearest) = {
            let (key, parent) = (key.clone(), parent.clone());
            blocking(move || {
                // What is wrong already costs no copy; the transaction checks it again.
                let nearest = shared.storage.view(|tx| {
                    if tx.has(&key)? {
                        return Err(SnapshotError::Exists(key.clone()).into());
                    }
                    if parent.is_empty() {
                        return Ok(None);
                    }
                    if !tx.has(&parent)? {
                        return Err(SnapshotError::ParentNotFound(parent.clone()).into());
                    }
                    match tx.info(&parent)? {
                        (id, info, _) if info.kind == Kind::Committed => Ok(Some(id)),
                        _ => Err(SnapshotError::ParentNotCommitted(parent.clone()).into()),
                    }
                })?;
                if kind == Kind::View && nearest.is_some() {
                    return Ok((None, nearest));
                }
                let pending = shared.folders.begin(TREE_MODE)?;
                if let Some(id) = nearest {
                    base_fs::copy_tree(shared.folders.tree(id), pending.path())?;
                }
                Ok((Some(pending), nearest))
            })
            .await?
        };
        let tree = self
            .storage
            .update(move |tx| {
                let tree = tx.create(kind, &key, &parent, &labels)?;
                if tree.parents.first().copied() != nearest {
                    return Err(SnapshotError::Replaced(parent).into());
                }
                if let Some(mut pending) = pending {
                    pending.place(tree.id)?;
                    // Dropped with the commit, if that fails: then the folder goes as well.
                    tx.on_commit(move || pending.settle());
                }
                Ok(tree)
            })
            .await?;
        Ok(self.mounts_of(&tree))
    }
}

#[async_trait]
impl Snapshotter for NativeSnapshotter {
    async fn stat(&self, key: &str) -> Result<Info> {
        self.shared.storage.view(|tx| Ok(tx.info(key)?.1))
    }

    async fn update(&self, info: &Info, fields: &[UpdateField]) -> Result<Info> {
        let (new, fields) = (info.clone(), fields.to_vec());
        self.shared.storage.update(move |tx| tx.update(&new, &fields)).await
    }

    async fn usage(&self, key: &str) -> Result<Usage> {
        let (id, info, usage) = self.shared.storage.view(|tx| tx.info(key))?;
        if info.kind != Kind::Active {
            return Ok(usage);
        }
        let path = self.shared.folders.tree(id);
        blocking(move || measure(&path)).await
    }

    async fn mounts(&self, key: &str) -> Result<Vec<Mount>> {
        let tree = self.shared.storage.view(|tx| tx.tree(key))?;
        Ok(self.shared.mounts_of(&tree))
    }

    async fn prepare(&self, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>> {
        Arc::clone(&self.shared).create(Kind::Active, key, parent, labels).await
    }

    async fn view(&self, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>> {
        Arc::clone(&self.shared).create(Kind::View, key, parent, labels).await
    }

    async fn commit(&self, name: &str, key: &str, labels: Labels, parent: &str) -> Result<()> {
        let context = |error: Error| error.context(format!("failed to commit snapshot {key}"));
        let (id, info, _) = self.shared.storage.view(|tx| tx.info(key))?;
        if info.kind != Kind::Active {
            return Err(context(SnapshotError::NotActive(key.to_owned()).into()));
        }
        // A full copy already holds what its parent holds: no other one can be put below it.
        if !parent.is_empty() && parent != info.parent {
            return Err(context(SnapshotError::RebaseUnsupported(key.to_owned()).into()));
        }
        let path = self.shared.folders.tree(id);
        let usage = blocking(move || measure(&path)).await?;
        let (name, owned, parent) = (name.to_owned(), key.to_owned(), parent.to_owned());
        self.shared
            .storage
            .update(move |tx| tx.commit(id, &owned, &name, usage, &labels, &parent))
            .await
            .map_err(context)
    }

    async fn remove(&self, key: &str) -> Result<()> {
        let owned = key.to_owned();
        let (id, _) = self
            .shared
            .storage
            .update(move |tx| tx.remove(&owned))
            .await
            .map_err(|error| error.context(format!("failed to remove snapshot {key}")))?;
        let path = self.shared.folders.tree(id);
        blocking(move || {
            // The record is gone, so this is garbage whatever happens.
            if let Err(error) = base_fs::remove_all(&path) {
                tracing::warn!(path = %path.display(), %error, "failed to remove directory");
            }
            Ok(())
        })
        .await
    }

    async fn list(&self, filters: &[String]) -> Result<Vec<Info>> {
        let filter = labels::parse(filters)?;
        let list = self.shared.storage.view(|tx| tx.list(&filter))?;
        Ok(list.into_iter().map(|(_, info)| info).collect())
    }

    async fn cleanup(&self) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        blocking(move || shared.folders.cleanup(&shared.storage)).await
    }
}
