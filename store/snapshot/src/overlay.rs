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
//! goes with [`crate::Snapshotter::cleanup`], or at once with [`OverlayConfig::sync_remove`].

mod config;
pub(crate) mod idmap;
mod mounts;
mod probe;
mod quota;

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use base_errors::{Error, Result};
use base_ident::Labels;
use kernel_mount::Mount;

pub use self::config::{
    CAPABILITY_ONLY_REMAP_IDS, CAPABILITY_REBASE, CAPABILITY_REMAP_IDS, OverlayConfig,
};
pub use self::probe::Probe;
pub(crate) use self::probe::overlay_remaps_ids;
use crate::error::io_error;
use crate::folders::{Folders, Pending, make_private};
use crate::labels::{self, LABEL_MAX_SIZE};
use crate::local::{Backend, Local, New, delegate};
use crate::snapshotter::{Info, Kind, Usage};
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
    local: Local<Overlay>,
}

delegate!(OverlaySnapshotter);

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
        let backend = Overlay { folders, config, probe, options };
        Ok(OverlaySnapshotter { local: Local::new(storage, backend) })
    }

    /// The capabilities of the plugin.
    #[must_use]
    pub fn capabilities(&self) -> Vec<&'static str> {
        let Overlay { config, probe, .. } = self.local.backend();
        config.capabilities(probe)
    }

    /// The folder of the snapshotter.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.local.backend().config.root_path
    }
}

struct Overlay {
    folders: Folders,
    config: OverlayConfig,
    probe: Probe,
    /// Options of every overlay mount, behind the folders.
    options: Vec<String>,
}

impl Overlay {
    fn upper(&self, id: u64) -> PathBuf {
        self.folders.tree(id).join("fs")
    }

    fn work(&self, id: u64) -> PathBuf {
        self.folders.tree(id).join("work")
    }
}

impl Backend for Overlay {
    type Draft = Pending;
    const REBASE: bool = true;
    const OWN_LABEL: Option<&'static str> = Some(LABEL_UPPERDIR);

    fn make(&self, new: &New<'_>, labels: &mut Labels) -> Result<Pending> {
        let root = idmap::root(labels)?;
        labels::max_size(labels)?;
        let pending = self.folders.begin(TREE_MODE)?;
        let top = pending.path().join("fs");
        make(&top, FS_MODE)?;
        if new.kind == Kind::Active {
            make(&pending.path().join("work"), WORK_MODE)?;
        }
        let top_owner = match (root, new.parent) {
            (Some(root), _) => Some(root),
            (None, Some((parent, _))) => Some(owner(&self.upper(parent))?),
            (None, None) => None,
        };
        if let Some((uid, gid)) = top_owner {
            std::os::unix::fs::lchown(&top, Some(uid), Some(gid))
                .map_err(|error| io_error("chown", &top, &error))?;
        }
        Ok(pending)
    }

    fn placed(&self, tree: &Tree, labels: &Labels) -> Result<()> {
        match labels::max_size(labels)? {
            Some(bytes) if tree.kind == Kind::Active => {
                quota::limit(tree.id, &[&self.upper(tree.id), &self.work(tree.id)], bytes)
            }
            _ => Ok(()),
        }
    }

    fn shown(&self, id: u64, mut info: Info) -> Info {
        if self.config.upperdir_label {
            let path = self.upper(id).to_string_lossy().into_owned();
            info.labels.insert(LABEL_UPPERDIR.to_owned(), path);
        }
        info
    }

    fn mounts(&self, tree: &Tree, labels: &Labels) -> Result<Vec<Mount>> {
        // A loss of power may take the empty folders of a young snapshot, but not its record.
        // Only the snapshot's own: a lost layer must show.
        let own = self.folders.tree(tree.id);
        if !own.exists() {
            make(&own, TREE_MODE)?;
            make(&self.upper(tree.id), FS_MODE)?;
            if tree.kind == Kind::Active {
                make(&self.work(tree.id), WORK_MODE)?;
            }
        }
        Ok(mounts::plan(&mounts::Plan {
            kind: tree.kind,
            upper: self.upper(tree.id),
            work: self.work(tree.id),
            lower: tree.parents.iter().map(|id| self.upper(*id)).collect(),
            options: &self.options,
            idmap: if self.probe.remap_ids { idmap::options(labels) } else { Vec::new() },
        }))
    }

    fn measure(&self, id: u64, _parent: Option<u64>) -> Result<Usage> {
        measure(&self.upper(id))
    }

    fn flush(&self, id: u64) -> Result<()> {
        self.folders.flush(id)
    }

    fn removed(&self, id: u64, _kind: Kind, labels: &Labels) -> Result<()> {
        if labels.contains_key(LABEL_MAX_SIZE) {
            quota::unlimit(id, &self.config.root_path);
        }
        // Else the folder goes with the cleanup.
        if self.config.sync_remove { self.folders.remove(id) } else { Ok(()) }
    }

    fn cleanup(&self, storage: &Storage) -> Result<()> {
        self.folders.cleanup(storage)
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

/// What a folder takes. Blocks.
pub(crate) fn measure(path: &Path) -> Result<Usage> {
    let usage = base_fs::disk_usage(path)?;
    Ok(Usage { inodes: usage.inodes, size: usage.size })
}
