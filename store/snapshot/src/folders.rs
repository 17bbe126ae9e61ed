//! The folders of trees: `snapshots/<id>`, and `snapshots/new-*` while one is being made.
//!
//! A folder without a record is garbage, unless it belongs to a call that is still on its way:
//! those are remembered here, so that a cleanup beside them does not take them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base_errors::Result;

use crate::error::io_error;
use crate::local::Draft;
use crate::snapshotter::Kind;
use crate::storage::Storage;

/// Tries for a name that nobody has. Random, so one is enough in practice.
const NAME_TRIES: u32 = 16;

/// The folder of a snapshotter's trees.
#[derive(Clone, Debug)]
pub(crate) struct Folders {
    path: PathBuf,
    /// How a tree is removed.
    remove: fn(&Path) -> Result<()>,
    /// Names in use by running calls, and by how many.
    busy: Arc<Mutex<BTreeMap<String, usize>>>,
}

/// A folder on its way. Dropped without [`Pending::settle`], what was made is removed.
#[derive(Debug)]
pub(crate) struct Pending {
    folders: Folders,
    temporary: String,
    placed: Option<u64>,
    settled: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Holders only change one entry at a time, so a panic cannot have torn the map.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes a folder of a snapshotter (0700) with all above it.
pub(crate) fn make_private(path: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| io_error("mkdir", path, &error).into())
}

impl Folders {
    /// The folder `snapshots` in `root`, which is made (0700) if it is missing.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let path = root.join("snapshots");
        make_private(&path)?;
        Ok(Folders::over(path, |path| Ok(base_fs::remove_all(path)?)))
    }

    /// The folder `path`, which exists, whose trees are removed by `remove`.
    pub(crate) fn over(path: PathBuf, remove: fn(&Path) -> Result<()>) -> Self {
        Folders { path, remove, busy: Arc::default() }
    }

    /// Removes the tree with this id; one that is not there is removed already. Blocks.
    pub(crate) fn remove(&self, id: u64) -> Result<()> {
        (self.remove)(&self.tree(id))
    }

    /// Keeps the tree with this id from the cleanup, whatever the records say.
    pub(crate) fn hold(&self, id: u64) -> Busy {
        let name = id.to_string();
        self.enter(&name);
        Busy { folders: self.clone(), name }
    }

    /// A tree that `make` makes under a temporary name. Blocks.
    pub(crate) fn begin_with(&self, make: impl FnOnce(&Path) -> Result<()>) -> Result<Pending> {
        let temporary = format!("new-{}", random());
        self.enter(&temporary);
        let pending = Pending { folders: self.clone(), temporary, placed: None, settled: false };
        make(&pending.path())?;
        Ok(pending)
    }

    /// The folder of a tree.
    pub(crate) fn tree(&self, id: u64) -> PathBuf {
        self.path.join(id.to_string())
    }

    /// Makes the tree with this id durable, with its name; the data of its files is not. Blocks.
    pub(crate) fn sync_name(&self, id: u64) -> Result<()> {
        let tree = self.tree(id);
        if tree.is_dir() {
            base_fs::fsync_dir(&tree)?;
        }
        Ok(base_fs::fsync_dir(&self.path)?)
    }

    /// Makes the tree with this id durable, with whatever was written into it, by a differ or by a
    /// client that has mounted it. Blocks.
    pub(crate) fn flush(&self, id: u64) -> Result<()> {
        let path = self.tree(id);
        // DURABILITY: the files of a snapshot, before its record says that they are all there.
        base_fs::failpoint::hit("snapshot.flush")
            .map_err(|errno| base_fs::Error::new("syncfs", &path, errno))?;
        Ok(base_fs::sync_file_system(&path)?)
    }

    fn enter(&self, name: &str) {
        *lock(&self.busy).entry(name.to_owned()).or_default() += 1;
    }

    fn leave(&self, name: &str) {
        let mut busy = lock(&self.busy);
        if let Some(count) = busy.get_mut(name) {
            *count -= 1;
            if *count == 0 {
                busy.remove(name);
            }
        }
    }

    /// Makes a temporary folder with `mode` (whatever the umask). Blocks.
    pub(crate) fn begin(&self, mode: u32) -> Result<Pending> {
        let mut tries = 0;
        loop {
            let temporary = format!("new-{}", random());
            self.enter(&temporary);
            let mut pending =
                Pending { folders: self.clone(), temporary, placed: None, settled: false };
            let path = pending.path();
            match fs::DirBuilder::new().mode(mode).create(&path) {
                Ok(()) => {
                    let mode = rustix::fs::Mode::from_raw_mode(mode);
                    rustix::fs::chmod(&path, mode)
                        .map_err(|errno| base_fs::Error::new("chmod", &path, errno))?;
                    return Ok(pending);
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists && tries < NAME_TRIES => {
                    // Not ours: it must stay.
                    pending.settled = true;
                    tries += 1;
                }
                Err(error) => return Err(io_error("mkdir", &path, &error).into()),
            }
        }
    }

    /// Removes all folders without a record, those of removed snapshots among them. One that
    /// cannot be removed is logged and stays. Blocks.
    pub(crate) fn cleanup(&self, storage: &Storage) -> Result<()> {
        self.cleanup_but(storage, |_| true)
    }

    /// As [`Folders::cleanup`], where only records of kinds that `belongs` takes have trees here.
    pub(crate) fn cleanup_but(
        &self,
        storage: &Storage,
        belongs: impl Fn(Kind) -> bool,
    ) -> Result<()> {
        // The order matters: a folder that is seen here belongs to a call that is still on its way,
        // or has a record by now, or is garbage.
        let names = self.names()?;
        let busy: BTreeSet<String> = lock(&self.busy).keys().cloned().collect();
        let kinds = storage.view(|tx| tx.kinds())?;
        for name in names {
            let known = name.parse().is_ok_and(|id: u64| {
                kinds.get(&id).is_some_and(|kind| belongs(*kind)) && id.to_string() == name
            });
            if known || busy.contains(&name) {
                continue;
            }
            let path = self.path.join(&name);
            let removed = base_fs::failpoint::hit("snapshot.folder.remove")
                .map_err(|errno| base_fs::Error::new("remove", &path, errno).into())
                .and_then(|()| (self.remove)(&path));
            if let Err(error) = removed {
                tracing::warn!(path = %path.display(), %error, "failed to remove directory");
            }
        }
        Ok(())
    }

    fn names(&self) -> Result<Vec<String>> {
        let error = |error| io_error("read", &self.path, &error);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(error)? {
            if let Ok(name) = entry.map_err(error)?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }
}

/// See [`Folders::hold`].
#[derive(Debug)]
pub(crate) struct Busy {
    folders: Folders,
    name: String,
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.folders.leave(&self.name);
    }
}

impl Pending {
    /// Where it is before it has an id.
    pub(crate) fn path(&self) -> PathBuf {
        self.folders.path.join(&self.temporary)
    }
}

impl Draft for Pending {
    /// Gives the folder its final name: called in the transaction that makes the record, so that
    /// a record never names a folder that is not there. One rename, or two.
    fn place(&mut self, id: u64) -> Result<()> {
        let target = self.folders.tree(id);
        base_fs::failpoint::hit("snapshot.place")
            .map_err(|errno| base_fs::Error::new("rename", &target, errno))?;
        self.folders.enter(&id.to_string());
        self.placed = Some(id);
        let rename = || fs::rename(self.path(), &target);
        match rename() {
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists
                ) =>
            {
                // Left by a commit that failed: no record has this id. The cleanup removes it.
                let aside = self.folders.path.join(format!("stray-{}", random()));
                fs::rename(&target, &aside)
                    .and_then(|()| rename())
                    .map_err(|error| io_error("rename", &target, &error).into())
            }
            result => result.map_err(|error| io_error("rename", &target, &error).into()),
        }
    }

    fn settle(mut self) {
        self.settled = true;
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.settled {
            // Both: the rename itself may have failed.
            let placed = self.placed.map(|id| self.folders.tree(id));
            for path in placed.into_iter().chain([self.path()]) {
                if let Err(error) = (self.folders.remove)(&path) {
                    tracing::warn!(path = %path.display(), %error, "failed to remove directory");
                }
            }
        }
        if let Some(id) = self.placed {
            self.folders.leave(&id.to_string());
        }
        self.folders.leave(&self.temporary);
    }
}

fn random() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    std::hash::RandomState::new().build_hasher().finish()
}
