//! Trees taken out of sight at once and removed later.

use std::ffi::OsString;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::{Error, Result, remove_all};

/// Tries for a name in the trash that nobody has. Random, so one is enough in practice.
const MAX_NAMES: usize = 100;

/// A folder for trees that wait to be removed. It must be on the file system of what it takes.
///
/// Taking a tree is one rename. Removing is separate, so that no lock is held during it; what a
/// crash leaves is removed by [`Trash::empty`] at the next start.
#[derive(Clone, Debug)]
pub struct Trash {
    folder: PathBuf,
}

/// A tree in the trash. Dropping it leaves it there for [`Trash::empty`].
#[derive(Debug)]
#[must_use = "the tree is still there; remove it, or leave it to the next empty"]
pub struct Discarded {
    path: PathBuf,
}

impl Trash {
    /// Opens the trash at `folder`, which is made (0700) if it does not exist.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self> {
        let folder = folder.into();
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .map_err(|error| Error::io("mkdir", &folder, &error))?;
        Ok(Trash { folder })
    }

    /// Where it is.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Takes `path` away. Nothing, if it is not there.
    ///
    /// # Errors
    /// `EBUSY` if something is mounted on it, `EXDEV` on another file system.
    pub fn discard(&self, path: impl AsRef<Path>) -> Result<Option<Discarded>> {
        let path = path.as_ref();
        let random = RandomState::new();
        for attempt in 0..MAX_NAMES {
            let mut hasher = random.build_hasher();
            hasher.write_usize(attempt);
            let mut name = path.file_name().map_or_else(OsString::new, OsString::from);
            // Long names leave no room for more.
            if name.len() > 200 {
                name = OsString::from("long");
            }
            name.push(format!("-{:016x}", hasher.finish()));
            let target = self.folder.join(name);
            let flags = rustix::fs::RenameFlags::NOREPLACE;
            let cwd = rustix::fs::CWD;
            match rustix::fs::renameat_with(cwd, path, cwd, &target, flags) {
                Ok(()) => return Ok(Some(Discarded { path: target })),
                Err(Errno::EXIST) => {}
                Err(Errno::NOENT) if std::fs::symlink_metadata(path).is_err() => return Ok(None),
                Err(errno) => {
                    let (from, to) = (path.to_owned(), target);
                    return Err(Error::Paths { operation: "rename", from, to, errno });
                }
            }
        }
        Err(Error::new("discard", path, Errno::EXIST))
    }

    /// Removes all that is in the trash, left by whom ever. One tree that stays does not keep the
    /// others.
    ///
    /// # Errors
    /// The first failure, after all were tried. On success, how many there were.
    pub fn empty(&self) -> Result<usize> {
        let entries = std::fs::read_dir(&self.folder)
            .map_err(|error| Error::io("readdir", &self.folder, &error))?;
        let (mut removed, mut first_error) = (0, None);
        for entry in entries {
            let entry = entry.map_err(|error| Error::io("readdir", &self.folder, &error))?;
            match remove_all(entry.path()) {
                Ok(()) => removed += 1,
                Err(error) => {
                    tracing::warn!(%error, "cannot empty the trash");
                    first_error.get_or_insert(error);
                }
            }
        }
        first_error.map_or(Ok(removed), Err)
    }
}

impl Discarded {
    /// Where the tree waits.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it now.
    ///
    /// # Errors
    /// As [`remove_all`]; it then waits for [`Trash::empty`].
    pub fn remove(self) -> Result<()> {
        remove_all(&self.path)
    }
}
