//! Snapshots as subvolumes of btrfs.
//!
//! ```text
//! metadata.db
//! active/<id>       what is written
//! view/<id>         looks, read-only
//! snapshots/<id>    committed, read-only
//! */new-*           on its way
//! ```
//!
//! A commit makes a read-only copy of the active subvolume, and removes that when it has a record.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use base_errors::Result;
use base_fs::DirFd;
use base_ident::Labels;
use kernel_mount::Mount;
use rustix::fs::{Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::error::{SnapshotError, failed, io_error};
use crate::folders::{Folders, Pending, make_private};
use crate::local::{Backend, Local, New, delegate};
use crate::snapshotter::{Info, Kind, Usage};
use crate::storage::{Storage, Tree};

/// The mode of a new tree's top folder, and of the folders of subvolumes.
const MODE: u32 = 0o755;
/// Folders within folders that are measured; two descriptors each.
const MAX_DEPTH: usize = 400;

/// The btrfs snapshotter. Cloning gives another handle of the same.
#[derive(Clone)]
pub struct BtrfsSnapshotter {
    local: Local<Btrfs>,
}

delegate!(BtrfsSnapshotter);

impl BtrfsSnapshotter {
    /// Opens the snapshotter in `root`, which is made (0700) if it is missing. Blocks.
    ///
    /// # Errors
    /// NotImplemented if it is not on btrfs: then the plugin is skipped. Those of the folders and
    /// of the database.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        let root = root.into();
        make_private(&root)?;
        let mount = kernel_mount::mountinfo::lookup(&root)?;
        if mount.kind != "btrfs" || !kernel_mount::is_btrfs(&root)? {
            return Err(SnapshotError::Skip(format!(
                "path {} ({}) must be a btrfs filesystem to be used with the btrfs snapshotter",
                root.display(),
                mount.kind
            ))
            .into());
        }
        rustix::fs::chmod(&root, Mode::RWXU)
            .map_err(|errno| base_fs::Error::new("chmod", &root, errno))?;
        let folder = |name: &str| -> Result<Folders> {
            use std::os::unix::fs::DirBuilderExt as _;
            let path = root.join(name);
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(MODE)
                .create(&path)
                .map_err(|error| io_error("mkdir", &path, &error))?;
            Ok(Folders::over(path, remove_volume))
        };
        let backend = Btrfs {
            device: mount.source,
            active: folder("active")?,
            view: folder("view")?,
            committed: folder("snapshots")?,
        };
        let storage = Storage::open(&root.join("metadata.db"))?;
        Ok(BtrfsSnapshotter { local: Local::new(storage, backend) })
    }
}

struct Btrfs {
    device: String,
    active: Folders,
    view: Folders,
    committed: Folders,
}

impl Btrfs {
    fn folder(&self, kind: Kind) -> &Folders {
        match kind {
            Kind::Active => &self.active,
            Kind::View => &self.view,
            Kind::Committed => &self.committed,
        }
    }
}

impl Backend for Btrfs {
    type Draft = Pending;

    fn make(&self, new: &New<'_>, _labels: &mut Labels) -> Result<Pending> {
        self.folder(new.kind).begin_with(|path| {
            match new.parent {
                None => {
                    kernel_mount::create_subvolume(path)?;
                    let mode = Mode::from_raw_mode(MODE);
                    rustix::fs::chmod(path, mode)
                        .map_err(|errno| base_fs::Error::new("chmod", path, errno))?;
                }
                Some((parent, _)) => {
                    let parent = self.committed.tree(parent);
                    kernel_mount::snapshot_subvolume(&parent, path, new.kind == Kind::View)?;
                }
            }
            Ok(())
        })
    }

    fn placed(&self, tree: &Tree, _labels: &Labels) -> Result<()> {
        // DURABILITY: a subvolume's name, which no sync of a file takes with it, before anybody hears
        // of it.
        let path = self.folder(tree.kind).tree(tree.id);
        base_fs::failpoint::hit("btrfs.name").map_err(failed(&path))?;
        Ok(base_fs::sync_file_system(&path)?)
    }

    fn mounts(&self, tree: &Tree, _labels: &Labels) -> Result<Vec<Mount>> {
        let path = self.folder(tree.kind).tree(tree.id);
        let mut options = vec![format!("subvolid={}", kernel_mount::subvolume_id(&path)?)];
        if tree.kind != Kind::Active {
            options.push("ro".to_owned());
        }
        Ok(vec![Mount {
            kind: "btrfs".to_owned(),
            source: self.device.clone(),
            target: String::new(),
            options,
        }])
    }

    fn measure(&self, id: u64, parent: Option<u64>) -> Result<Usage> {
        let child = DirFd::open(self.active.tree(id))?;
        let parent = parent.map(|id| DirFd::open(self.committed.tree(id))).transpose()?;
        let mut usage = Usage::default();
        let top = child.stat_self()?;
        if !parent.as_ref().map(DirFd::stat_self).transpose()?.is_some_and(|old| same(&old, &top)) {
            count(&mut usage, &top);
        }
        measure(parent.as_ref(), &child, 0, &mut HashSet::new(), &mut usage)?;
        Ok(usage)
    }

    fn seal(
        &self,
        id: u64,
        parent: Option<u64>,
        _before: &Info,
        _labels: &mut Labels,
    ) -> Result<(Usage, Box<dyn Send>)> {
        let usage = self.measure(id, parent)?;
        let hold = self.committed.hold(id);
        // Left by a commit that did not come to its record.
        self.committed.remove(id)?;
        // DURABILITY: the system call returns when the copy, with all that was written before, is
        // on the disk.
        let copy = self.committed.tree(id);
        base_fs::failpoint::hit("btrfs.copy").map_err(failed(&copy))?;
        kernel_mount::snapshot_subvolume(&self.active.tree(id), &copy, true)?;
        // DURABILITY: two trees until the record says which one counts.
        base_fs::failpoint::hit("btrfs.copied")
            .map_err(failed(&copy))
            .inspect_err(|_| self.unseal(id))?;
        Ok((usage, Box::new(hold)))
    }

    fn sealed(&self, id: u64) {
        // DURABILITY: the record is there; the tree that was written to is of no use.
        if let Err(error) = base_fs::failpoint::hit("btrfs.sealed") {
            tracing::warn!(%error, "the subvolume stays until the next cleanup");
            return;
        }
        warn(self.active.remove(id));
    }

    fn unseal(&self, id: u64) {
        warn(self.committed.remove(id));
    }

    fn removed(&self, id: u64, kind: Kind, _labels: &Labels) -> Result<()> {
        self.folder(kind).remove(id)
    }

    fn cleanup(&self, storage: &Storage) -> Result<()> {
        for kind in [Kind::Active, Kind::View, Kind::Committed] {
            self.folder(kind).cleanup_but(storage, |other| other == kind)?;
        }
        Ok(())
    }
}

/// Removes a subvolume, which may be read-only; or whatever else somebody has put there.
fn remove_volume(path: &Path) -> Result<()> {
    match kernel_mount::delete_subvolume(path) {
        Err(error) if matches!(error.errno(), Some(Errno::INVAL | Errno::NOTDIR)) => {
            Ok(base_fs::remove_all(path)?)
        }
        result => Ok(result?),
    }
}

fn warn(result: Result<()>) {
    if let Err(error) = result {
        tracing::warn!(%error, "failed to delete subvolume");
    }
}

fn count(usage: &mut Usage, stat: &Stat) {
    usage.inodes += 1;
    usage.size += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
}

/// A copy keeps numbers and times of inodes until they change.
fn same(old: &Stat, new: &Stat) -> bool {
    (old.st_ino, old.st_size, old.st_ctime, old.st_ctime_nsec)
        == (new.st_ino, new.st_size, new.st_ctime, new.st_ctime_nsec)
}

/// Adds what `child` has that its parent has not.
fn measure(
    parent: Option<&DirFd>,
    child: &DirFd,
    depth: usize,
    seen: &mut HashSet<u64>,
    usage: &mut Usage,
) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(SnapshotError::Backend("folders are too deep to be measured".to_owned()).into());
    }
    let fail = |errno| base_fs::Error::new("read", child.path(), errno);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let readable = rustix::fs::openat(child, ".", flags, Mode::empty()).map_err(fail)?;
    for entry in Dir::new(readable).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let bytes = entry.file_name().to_bytes();
        if bytes == b"." || bytes == b".." {
            continue;
        }
        let name: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(bytes);
        let stat = child.stat(name)?;
        let old = parent.and_then(|parent| parent.stat(name).ok());
        if !old.is_some_and(|old| same(&old, &stat))
            && (stat.st_nlink < 2 || seen.insert(stat.st_ino))
        {
            count(usage, &stat);
        }
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let below = parent.and_then(|parent| parent.open_dir(name).ok());
            measure(below.as_ref(), &child.open_dir(name)?, depth + 1, seen, usage)?;
        }
    }
    Ok(())
}
