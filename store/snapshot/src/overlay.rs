//! Snapshots as layers of overlayfs.
//!
//! ```text
//! metadata.db
//! snapshots/<id>/fs      the layer (0755; owner of the parent's, or of the mapped root)
//! snapshots/<id>/work    for overlayfs (0711; of active snapshots)
//! snapshots/new-*        on its way
//! ```
//!
//! A tree is the stack of `fs` of a snapshot and its parents. Removing drops the record; the folder
//! goes with [`Snapshotter::cleanup`], or at once with [`OverlayConfig::sync_remove`].

mod config;
pub(crate) mod idmap;
mod mounts;
mod probe;
mod quota;

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use base_errors::{Error, Result};
use base_ident::Labels;
use kernel_mount::Mount;

pub use self::config::{
    CAPABILITY_ONLY_REMAP_IDS, CAPABILITY_REBASE, CAPABILITY_REMAP_IDS, OverlayConfig,
};
pub use self::probe::Probe;
pub(crate) use self::probe::overlay_remaps_ids;
use crate::error::{SnapshotError, blocking, io_error};
use crate::folders::{Folders, Pending, make_private};
use crate::labels::{self, LABEL_MAX_SIZE};
use crate::snapshotter::{Info, Kind, Snapshotter, UpdateField, Usage};
use crate::storage::{Storage, Tree};

/// The mode of a layer's top folder.
const FS_MODE: u32 = 0o755;
/// The mode of the folder that overlayfs works in.
const WORK_MODE: u32 = 0o711;
/// The mode of a snapshot's own folder.
const TREE_MODE: u32 = 0o700;
/// Shows where the layer is, if configured.
const LABEL_UPPERDIR: &str = "containerd.io/snapshot/overlay.upperdir";

/// The overlayfs snapshotter. Cloning gives another handle of the same.
#[derive(Clone)]
pub struct OverlaySnapshotter {
    shared: Arc<Shared>,
}

struct Shared {
    storage: Storage,
    folders: Folders,
    config: OverlayConfig,
    probe: Probe,
    /// Options of every overlay mount, behind the folders.
    options: Vec<String>,
}

impl OverlaySnapshotter {
    /// Opens the snapshotter in `config.root_path`, which is made if it is missing. Blocks.
    ///
    /// # Errors
    /// NotImplemented if overlayfs does not work there: then the plugin is skipped. Those of the
    /// folders and of the database.
    pub fn open(config: OverlayConfig) -> Result<Self> {
        make_private(&config.root_path)?;
        let probe = Probe::run(&config.root_path)?;
        let storage = Storage::open(&config.root_path.join("metadata.db"))?;
        let folders = Folders::open(&config.root_path)?;
        let options = mounts::common_options(&config.mount_options, &probe);
        Ok(OverlaySnapshotter {
            shared: Arc::new(Shared { storage, folders, config, probe, options }),
        })
    }

    /// The capabilities of the plugin.
    #[must_use]
    pub fn capabilities(&self) -> Vec<&'static str> {
        self.shared.config.capabilities(&self.shared.probe)
    }

    /// The folder of the snapshotter.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.shared.config.root_path
    }
}

impl Shared {
    fn upper(&self, id: u64) -> PathBuf {
        self.folders.tree(id).join("fs")
    }

    fn work(&self, id: u64) -> PathBuf {
        self.folders.tree(id).join("work")
    }

    /// The folders of a new snapshot, still without id. Blocks.
    fn begin(&self, kind: Kind) -> Result<Pending> {
        let pending = self.folders.begin(TREE_MODE)?;
        make(&pending.path().join("fs"), FS_MODE)?;
        if kind == Kind::Active {
            make(&pending.path().join("work"), WORK_MODE)?;
        }
        Ok(pending)
    }

    async fn create(
        self: Arc<Self>,
        kind: Kind,
        key: &str,
        parent: &str,
        labels: Labels,
    ) -> Result<Vec<Mount>> {
        let root = idmap::root(&labels)?;
        let limit = labels::max_size(&labels)?.filter(|_| kind == Kind::Active);
        let own = key.to_owned();
        let (key, parent) = (key.to_owned(), parent.to_owned());
        let shared = Arc::clone(&self);
        let (mut pending, nearest) = {
            let parent = parent.clone();
            blocking(move || {
                // A bad parent costs no folders; the transaction checks it again.
                let nearest = match parent.as_str() {
                    "" => None,
                    parent => Some(shared.storage.view(|tx| match tx.has(parent)? {
                        true => Ok(tx.info(parent)?.0),
                        false => Err(SnapshotError::ParentNotFound(parent.to_owned()).into()),
                    })?),
                };
                let pending = shared.begin(kind)?;
                let top_owner = match (root, nearest) {
                    (Some(root), _) => Some(root),
                    (None, Some(id)) => Some(owner(&shared.upper(id))?),
                    (None, None) => None,
                };
                if let Some((uid, gid)) = top_owner {
                    let top = pending.path().join("fs");
                    std::os::unix::fs::lchown(&top, Some(uid), Some(gid))
                        .map_err(|error| io_error("chown", &top, &error))?;
                }
                Ok((pending, nearest))
            })
            .await?
        };
        let in_tx = labels.clone();
        let tree = self
            .storage
            .update(move |tx| {
                let tree = tx.create(kind, &key, &parent, &in_tx)?;
                if tree.parents.first().copied() != nearest {
                    return Err(SnapshotError::Replaced(parent).into());
                }
                pending.place(tree.id)?;
                // Dropped with the commit, if that fails: then the folder goes as well.
                tx.on_commit(move || pending.settle());
                Ok(tree)
            })
            .await?;
        if let Some(bytes) = limit {
            let (upper, work) = (self.upper(tree.id), self.work(tree.id));
            let limited = blocking(move || quota::limit(tree.id, &[&upper, &work], bytes)).await;
            if let Err(error) = limited {
                self.storage.update(move |tx| tx.remove(&own)).await?;
                return Err(error);
            }
        }
        Ok(self.mounts_of(&tree, &labels))
    }

    fn mounts_of(&self, tree: &Tree, labels: &Labels) -> Vec<Mount> {
        mounts::plan(&mounts::Plan {
            kind: tree.kind,
            upper: self.upper(tree.id),
            work: self.work(tree.id),
            lower: tree.parents.iter().map(|id| self.upper(*id)).collect(),
            options: &self.options,
            idmap: if self.probe.remap_ids { idmap::options(labels) } else { Vec::new() },
        })
    }

    fn shown(&self, id: u64, mut info: Info) -> Info {
        if self.config.upperdir_label {
            let path = self.upper(id).to_string_lossy().into_owned();
            info.labels.insert(LABEL_UPPERDIR.to_owned(), path);
        }
        info
    }
}

fn make(path: &Path, mode: u32) -> Result<()> {
    fs::DirBuilder::new()
        .mode(mode)
        .create(path)
        .and_then(|()| Ok(rustix::fs::chmod(path, rustix::fs::Mode::from_raw_mode(mode))?))
        .map_err(|error| io_error("mkdir", path, &error).into())
}

fn owner(path: &Path) -> Result<(u32, u32)> {
    let metadata = fs::symlink_metadata(path).map_err(|error| {
        Error::from(io_error("stat", path, &error)).context("failed to stat parent")
    })?;
    Ok((metadata.uid(), metadata.gid()))
}

#[async_trait]
impl Snapshotter for OverlaySnapshotter {
    async fn stat(&self, key: &str) -> Result<Info> {
        let (id, info, _) = self.shared.storage.view(|tx| tx.info(key))?;
        Ok(self.shared.shown(id, info))
    }

    async fn update(&self, info: &Info, fields: &[UpdateField]) -> Result<Info> {
        let (mut new, fields) = (info.clone(), fields.to_vec());
        // Shown, never stored.
        new.labels.remove(LABEL_UPPERDIR);
        let (id, info) = self
            .shared
            .storage
            .update(move |tx| {
                let info = tx.update(&new, &fields)?;
                Ok((tx.view()?.info(&info.name)?.0, info))
            })
            .await?;
        Ok(self.shared.shown(id, info))
    }

    async fn usage(&self, key: &str) -> Result<Usage> {
        let (id, info, usage) = self.shared.storage.view(|tx| tx.info(key))?;
        if info.kind != Kind::Active {
            return Ok(usage);
        }
        let path = self.shared.upper(id);
        blocking(move || measure(&path)).await
    }

    async fn mounts(&self, key: &str) -> Result<Vec<Mount>> {
        let (tree, labels) =
            self.shared.storage.view(|tx| Ok((tx.tree(key)?, tx.info(key)?.1.labels)))?;
        let shared = Arc::clone(&self.shared);
        blocking(move || {
            // A loss of power may take the empty folders of a young snapshot, but not its record.
            // Only the snapshot's own: a lost layer must show.
            let own = shared.folders.tree(tree.id);
            if !own.exists() {
                make(&own, TREE_MODE)?;
                make(&shared.upper(tree.id), FS_MODE)?;
                if tree.kind == Kind::Active {
                    make(&shared.work(tree.id), WORK_MODE)?;
                }
            }
            Ok(shared.mounts_of(&tree, &labels))
        })
        .await
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
        let path = self.shared.upper(id);
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
        let (id, limited) = self
            .shared
            .storage
            .update(move |tx| {
                let limited = tx.view()?.info(&owned)?.1.labels.contains_key(LABEL_MAX_SIZE);
                Ok((tx.remove(&owned)?.0, limited))
            })
            .await
            .map_err(|error| error.context(format!("failed to remove snapshot {key}")))?;
        if limited {
            let root = self.shared.config.root_path.clone();
            blocking(move || {
                quota::unlimit(id, &root);
                Ok(())
            })
            .await?;
        }
        if self.shared.config.sync_remove { self.cleanup().await } else { Ok(()) }
    }

    async fn list(&self, filters: &[String]) -> Result<Vec<Info>> {
        let filter = labels::parse(filters)?;
        let list = self.shared.storage.view(|tx| tx.list(&filter))?;
        Ok(list.into_iter().map(|(id, info)| self.shared.shown(id, info)).collect())
    }

    async fn cleanup(&self) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        blocking(move || shared.folders.cleanup(&shared.storage)).await
    }
}

/// What a folder takes. Blocks.
pub(crate) fn measure(path: &Path) -> Result<Usage> {
    let usage = base_fs::disk_usage(path)?;
    Ok(Usage { inodes: usage.inodes, size: usage.size })
}
