//! Snapshots as erofs images under overlayfs.
//!
//! ```text
//! metadata.db
//! snapshots/<id>/fs             what is written (0755); empty once it is an image
//! snapshots/<id>/work           for overlayfs (0711; of active snapshots)
//! snapshots/<id>/rwlayer.img    what is written, with a size for it: an ext4 image instead
//! snapshots/<id>/.erofslayer    tells the differ that it may put an image here
//! snapshots/<id>/layer.erofs    the layer: by the differ, or made of `fs` at the commit
//! snapshots/new-*               on its way
//! ```
//!
//! Mounts of a tree are a list whose last one stands on the ones before it: `kernel_mount` and the
//! mount manager know how to make them.

mod mkfs;

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use base_errors::{Error, Result};
use base_ident::Labels;
use kernel_mount::{Mount, UnmountFlags};

pub use self::mkfs::from_folder as make_erofs_layer;
use crate::error::{SnapshotError, failed, io_error};
use crate::folders::{Folders, Pending, make_private};
use crate::labels::max_size;
use crate::local::{Backend, Local, New, delegate};
use crate::overlay::{
    CAPABILITY_ONLY_REMAP_IDS, CAPABILITY_REBASE, CAPABILITY_REMAP_IDS, idmap, measure,
    overlay_remaps_ids,
};
use crate::snapshotter::{Info, Kind, Usage};
use crate::storage::{Storage, Tree};

const TREE_MODE: u32 = 0o700;
const FS_MODE: u32 = 0o755;
const WORK_MODE: u32 = 0o711;
const MARKER_MODE: u32 = 0o644;
/// The image of a layer.
const LAYER: &str = "layer.erofs";
/// The image that is written to.
const WRITABLE: &str = "rwlayer.img";
/// Tells the differ that it may put an image here.
const MARKER: &str = ".erofslayer";
/// Layers above it merged into one index, by other tools.
const MERGED: &str = "fsmeta.erofs";

/// How the snapshotter is set up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErofsConfig {
    /// The folder of the snapshotter.
    pub root_path: PathBuf,
    /// More options of every overlay mount.
    pub ovl_mount_options: Vec<String>,
    /// Protect images by fs-verity.
    pub enable_fsverity: bool,
    /// Protect images by the flag that forbids changes.
    pub set_immutable: bool,
    /// Bytes of the image that an active snapshot is written to; 0 is a folder without a bound.
    pub default_size: u64,
    /// `auto` (also if empty), `on` or `off`.
    pub dmverity_mode: String,
}

/// The erofs snapshotter. Cloning gives another handle of the same.
#[derive(Clone)]
pub struct ErofsSnapshotter {
    local: Local<Erofs>,
    capabilities: Vec<&'static str>,
}

delegate!(ErofsSnapshotter);

impl ErofsSnapshotter {
    /// Opens the snapshotter in `config.root_path`, which is made if it is missing. Blocks.
    ///
    /// # Errors
    /// NotImplemented if the kernel has no erofs: then the plugin is skipped. InvalidArgument for
    /// settings that this host cannot keep; those of the folders and of the database.
    pub fn open(config: ErofsConfig) -> Result<Self> {
        let refused = |text: &str| Err(SnapshotError::Config(text.to_owned()).into());
        match config.dmverity_mode.as_str() {
            "" | "auto" | "off" => {}
            "on" => {
                return refused(
                    "dmverity_mode is 'on' but dm-verity is not supported on this system",
                );
            }
            other => {
                return refused(&format!(
                    "invalid dmverity_mode {other:?}: must be \"auto\", \"on\", or \"off\""
                ));
            }
        }
        if config.enable_fsverity {
            return refused(&format!(
                "fsverity is not supported on the filesystem of {:?}",
                config.root_path
            ));
        }
        if !has_erofs() {
            return Err(SnapshotError::Skip(
                "EROFS unsupported, please `modprobe erofs`".to_owned(),
            )
            .into());
        }
        let root = config.root_path.clone();
        make_private(&root)?;
        let storage = Storage::open(&root.join("metadata.db"))?;
        let path = root.join("snapshots");
        make_private(&path)?;
        let remap_ids = overlay_remaps_ids(&root);
        let mut capabilities = vec![CAPABILITY_REBASE, CAPABILITY_ONLY_REMAP_IDS];
        if remap_ids {
            capabilities.push(CAPABILITY_REMAP_IDS);
        }
        let backend = Erofs { folders: Folders::over(path, remove_tree), config, remap_ids };
        Ok(ErofsSnapshotter { local: Local::new(storage, backend), capabilities })
    }

    /// The capabilities of the plugin.
    #[must_use]
    pub fn capabilities(&self) -> Vec<&'static str> {
        self.capabilities.clone()
    }
}

fn has_erofs() -> bool {
    fs::read_to_string("/proc/filesystems")
        .is_ok_and(|text| text.lines().any(|line| line.split_whitespace().last() == Some("erofs")))
}

/// Removes a snapshot's folder, whatever protects or covers it.
fn remove_tree(path: &Path) -> Result<()> {
    let layer = path.join(LAYER);
    // A link leads to an image that is somebody else's.
    if fs::symlink_metadata(&layer).is_ok_and(|metadata| metadata.is_file()) {
        // Without the flag it is as good; where it cannot be taken away the removal says so.
        let _ = kernel_mount::set_immutable(&layer, false);
    }
    // COMPAT: earlier daemons mounted images on this folder.
    kernel_mount::unmount_all(&path.join("fs"), UnmountFlags::DETACH)?;
    Ok(base_fs::remove_all(path)?)
}

struct Erofs {
    folders: Folders,
    config: ErofsConfig,
    remap_ids: bool,
}

impl Erofs {
    fn upper(&self, id: u64) -> PathBuf {
        self.folders.tree(id).join("fs")
    }

    fn layer(&self, id: u64) -> PathBuf {
        self.folders.tree(id).join(LAYER)
    }

    fn in_block_mode(&self) -> bool {
        self.config.default_size > 0
    }

    fn image(&self, id: u64) -> Result<Mount> {
        let path = self.layer(id);
        if let Err(error) = fs::metadata(&path) {
            return Err(Error::from(io_error("stat", &path, &error))
                .context("failed to find valid erofs layer blob"));
        }
        let mut options = vec!["ro".to_owned(), "loop".to_owned()];
        let mut verity = path.clone().into_os_string();
        verity.push(".dmverity");
        if self.config.dmverity_mode != "off" && Path::new(&verity).exists() {
            options.push(format!("X-containerd.dmverity={}", Path::new(&verity).display()));
        }
        Ok(Mount { kind: "erofs".to_owned(), source: text(&path), target: String::new(), options })
    }

    /// The merged index at `parents[at]` with all layers from there down, if there is one.
    fn merged(&self, parents: &[u64]) -> Option<Mount> {
        let path = self.folders.tree(*parents.first()?).join(MERGED);
        if fs::metadata(&path).ok()?.len() == 0 {
            return None;
        }
        let mut options = vec!["ro".to_owned(), "loop".to_owned()];
        options.extend(parents.iter().rev().map(|id| format!("device={}", text(&self.layer(*id)))));
        Some(Mount {
            kind: "erofs".to_owned(),
            source: text(&path),
            target: String::new(),
            options,
        })
    }

    /// The image that an active snapshot is written to.
    fn writable(&self, id: u64, labels: &Labels, mode: &str) -> Result<Mount> {
        let size = max_size(labels)?.unwrap_or(self.config.default_size);
        Ok(Mount {
            kind: "mkfs/ext4".to_owned(),
            source: text(&self.folders.tree(id).join(WRITABLE)),
            target: String::new(),
            options: vec![
                "X-containerd.mkfs.fs=ext4".to_owned(),
                format!("X-containerd.mkfs.size={size}"),
                mode.to_owned(),
                "loop".to_owned(),
            ],
        })
    }

    /// The mounts of a tree without a parent.
    fn base_mounts(&self, tree: &Tree, labels: &Labels) -> Result<Vec<Mount>> {
        let mode = if tree.kind == Kind::View { "ro" } else { "rw" };
        if self.in_block_mode() && tree.kind == Kind::Active {
            let upper = Mount {
                kind: "format/mkdir/bind".to_owned(),
                source: "{{ mount 0 }}/upper".to_owned(),
                target: String::new(),
                options: vec![
                    "X-containerd.mkdir.path={{ mount 0 }}/upper:0755".to_owned(),
                    mode.to_owned(),
                    "rbind".to_owned(),
                ],
            };
            return Ok(vec![self.writable(tree.id, labels, mode)?, upper]);
        }
        Ok(vec![Mount {
            kind: "bind".to_owned(),
            source: text(&self.upper(tree.id)),
            target: String::new(),
            options: vec![mode.to_owned(), "rbind".to_owned()],
        }])
    }

    fn make_folders(&self, path: &Path, new: &New<'_>, owner: Option<(u32, u32)>) -> Result<()> {
        make(path, TREE_MODE)?;
        let top = path.join("fs");
        make(&top, FS_MODE)?;
        if let Some((uid, gid)) = owner {
            std::os::unix::fs::lchown(&top, Some(uid), Some(gid))
                .map_err(|error| io_error("chown", &top, &error))?;
        }
        if new.kind == Kind::Active {
            if !self.in_block_mode() {
                make(&path.join("work"), WORK_MODE)?;
            }
            let marker = path.join(MARKER);
            fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(MARKER_MODE)
                .open(&marker)
                .map_err(|error| io_error("create", &marker, &error))?;
        }
        Ok(())
    }

    /// Makes the image of what was written, unless the differ has put one there.
    fn convert(&self, id: u64) -> Result<()> {
        let layer = self.layer(id);
        if layer.exists() {
            return Ok(());
        }
        let writable = self.folders.tree(id).join(WRITABLE);
        if !writable.exists() {
            return mkfs::from_folder(&self.upper(id), &layer);
        }
        let image = Mount {
            kind: "ext4".to_owned(),
            source: text(&writable),
            target: String::new(),
            options: ["ro", "loop", "noload"].map(str::to_owned).to_vec(),
        };
        let mounted = kernel_mount::TempMount::new(&[image], None)?;
        let upper = mounted.path().join("upper");
        // Nothing was ever mounted there: an empty layer.
        let from = if upper.exists() { upper } else { self.upper(id) };
        mkfs::from_folder(&from, &layer)?;
        mounted.close()?;
        Ok(())
    }
}

impl Backend for Erofs {
    type Draft = Pending;
    const REBASE: bool = true;

    fn make(&self, new: &New<'_>, labels: &mut Labels) -> Result<Pending> {
        // A size that is none is told now, not at the first mount.
        max_size(labels)?;
        // In an image the owner is the image's business.
        let owner = match (self.in_block_mode(), idmap::root(labels)?, new.parent) {
            (true, ..) | (false, None, None) => None,
            (false, Some(root), _) => Some(root),
            (false, None, Some((parent, _))) => {
                let top = self.upper(parent);
                let metadata = fs::symlink_metadata(&top)
                    .map_err(|error| Error::from(io_error("stat", &top, &error)))
                    .map_err(|error| error.context("failed to stat parent"))?;
                Some((metadata.uid(), metadata.gid()))
            }
        };
        self.folders.begin_with(|path| self.make_folders(path, new, owner))
    }

    fn placed(&self, tree: &Tree, _labels: &Labels) -> Result<()> {
        // DURABILITY: the folders with their names, before anybody hears of them.
        base_fs::failpoint::hit("erofs.name").map_err(failed(&self.folders.tree(tree.id)))?;
        self.folders.sync_name(tree.id)
    }

    fn mounts(&self, tree: &Tree, labels: &Labels) -> Result<Vec<Mount>> {
        let active = tree.kind == Kind::Active;
        match tree.parents.as_slice() {
            [] => return self.base_mounts(tree, labels),
            [only] if !active => return Ok(vec![self.image(*only)?]),
            _ => {}
        }
        let mut mounts = Vec::new();
        let mut options = Vec::new();
        if active && self.in_block_mode() {
            mounts.push(self.writable(tree.id, labels, "rw")?);
            for folder in ["upper", "work"] {
                options.push(format!("X-containerd.mkdir.path={{{{ mount 0 }}}}/{folder}:0755"));
            }
            for folder in ["work", "upper"] {
                options.push(format!("{folder}dir={{{{ mount 0 }}}}/{folder}"));
            }
        } else if active {
            options.push(format!("workdir={}", text(&self.folders.tree(tree.id).join("work"))));
            options.push(format!("upperdir={}", text(&self.upper(tree.id))));
        }
        let first = mounts.len();
        for at in 0..tree.parents.len() {
            if let Some(merged) = self.merged(&tree.parents[at..]) {
                mounts.push(merged);
                break;
            }
            mounts.push(self.image(tree.parents[at])?);
        }
        if self.remap_ids {
            options.extend(idmap::options(labels));
        }
        let last = mounts.len() - 1;
        let (kind, source) = if first < last {
            options.push(format!("lowerdir={{{{ overlay {first} {last} }}}}"));
            ("format/mkdir/overlay", "overlay".to_owned())
        } else if active {
            options.push(format!("lowerdir={{{{ mount {first} }}}}"));
            ("format/mkdir/overlay", "overlay".to_owned())
        } else {
            // Overlayfs takes no single lower folder.
            options.extend(["ro".to_owned(), "rbind".to_owned()]);
            ("format/bind", format!("{{{{ mount {first} }}}}"))
        };
        if source == "overlay" {
            options.extend(self.config.ovl_mount_options.iter().cloned());
        }
        mounts.push(Mount { kind: kind.to_owned(), source, target: String::new(), options });
        Ok(mounts)
    }

    fn measure(&self, id: u64, _parent: Option<u64>) -> Result<Usage> {
        for name in [WRITABLE, LAYER] {
            let path = self.folders.tree(id).join(name);
            if path.exists() {
                return measure(&path);
            }
        }
        measure(&self.upper(id))
    }

    fn seal(
        &self,
        id: u64,
        _parent: Option<u64>,
        _before: &Info,
        _labels: &mut Labels,
    ) -> Result<(Usage, Box<dyn Send>)> {
        self.convert(id)?;
        let layer = self.layer(id);
        // DURABILITY: the image, by whomever it was made, and its name, before the record.
        base_fs::failpoint::hit("erofs.seal").map_err(failed(&layer))?;
        fs::File::open(&layer)
            .and_then(|file| file.sync_all())
            .map_err(|error| io_error("sync", &layer, &error))?;
        base_fs::fsync_dir(self.folders.tree(id))?;
        if self.config.set_immutable
            && let Err(error) = kernel_mount::set_immutable(&layer, true)
        {
            tracing::warn!(%error, "failed to set IMMUTABLE_FL");
        }
        Ok((measure(&layer)?, Box::new(())))
    }

    /// The folder stays, as its owner is that of children; what is in it is in the image now.
    fn sealed(&self, id: u64) {
        // DURABILITY: the record is there; what the image was made of is of no use.
        if let Err(error) = base_fs::failpoint::hit("erofs.tidy") {
            tracing::warn!(%error, "what a layer was made of stays until it is removed");
            return;
        }
        let upper = self.upper(id);
        let names = fs::read_dir(&upper).into_iter().flatten().flatten();
        let writable = self.folders.tree(id).join(WRITABLE);
        for path in names.map(|entry| entry.path()).chain([writable]) {
            if let Err(error) = base_fs::remove_all(&path) {
                tracing::warn!(path = %path.display(), %error, "failed to remove directory");
            }
        }
    }

    fn removed(&self, id: u64, _kind: Kind, _labels: &Labels) -> Result<()> {
        self.folders.remove(id)
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

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
