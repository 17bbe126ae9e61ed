//! Mounts in a folder of their own, for as long as somebody needs them.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use crate::activate::Activated;
use crate::{Error, Mount, Result, mount_all, needs_activation, read_only, unmount_recursive};

/// How the folders' names begin, as containerd's do: a cleaner of either finds both.
pub const TEMP_PREFIX: &str = "containerd-mount";

/// What follows the name for the folder of mounts that the visible one stands on.
const PARTS_SUFFIX: &str = "-parts";

/// Tries for a name that nobody has. The names are random, so one is enough in practice.
const MAX_NAMES: usize = 1000;

/// A list of mounts on a folder of its own.
///
/// [`TempMount::close`] unmounts and tells of failures; dropping detaches, without waiting for who
/// still uses the files.
#[derive(Debug)]
pub struct TempMount {
    path: PathBuf,
    open: bool,
    /// What the visible mount stands on.
    parts: Activated,
}

impl TempMount {
    /// Mounts `mounts` on a new folder below `base`, which is made if it does not exist; without
    /// a base it is the system's folder for temporary files. An empty list gives an empty folder.
    ///
    /// # Errors
    /// If the folder cannot be made, or a mount fails; then nothing is left.
    pub fn new(mounts: &[Mount], base: Option<&Path>) -> Result<Self> {
        let base = base.map_or_else(std::env::temp_dir, Path::to_owned);
        let path = make_folder(&base)?;
        let (parts, visible) = match prepare(mounts, &path) {
            Ok(prepared) => prepared,
            Err(error) => {
                remove_folder(&path)?;
                return Err(error);
            }
        };
        if let Err(error) = mount_all(&visible, &path) {
            remove_folder(&path)?;
            return Err(error);
        }
        Ok(TempMount { path, open: true, parts })
    }

    /// As [`TempMount::new`], for reading only; see [`read_only`].
    ///
    /// # Errors
    /// As [`TempMount::new`].
    pub fn with_readonly_temp(mounts: &[Mount], base: Option<&Path>) -> Result<Self> {
        Self::new(&read_only(mounts), base)
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Unmounts all and removes the folder. Data written through the mounts has reached the file
    /// system below. Busy mounts are tried for a while, then detached, and the error tells it.
    ///
    /// # Errors
    /// [`Error::Unmount`] if it stayed busy, [`Error::Temp`] if the folder stays.
    pub fn close(mut self) -> Result<()> {
        // On failure the drop detaches.
        unmount_recursive(&self.path, UnmountFlags::empty())?;
        self.open = false;
        remove_folder(&self.path)?;
        std::mem::take(&mut self.parts).close()
    }
}

impl Drop for TempMount {
    fn drop(&mut self) {
        if !self.open {
            return;
        }
        let removed = unmount_recursive(&self.path, UnmountFlags::DETACH)
            .and_then(|()| remove_folder(&self.path));
        if let Err(error) = removed {
            tracing::warn!(%error, "cannot remove a temporary mount");
        }
    }
}

/// Takes away what earlier runs left: all mounts on `containerd-mount*` folders below `base`, and
/// the folders. A base that does not exist holds nothing.
///
/// Returns what could not be removed; the rest is.
#[must_use]
pub fn clean_temp_mounts(base: &Path) -> Vec<Error> {
    let entries = match std::fs::read_dir(base) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            return vec![Error::temp("open", base, errno)];
        }
    };
    let mut failures = Vec::new();
    for entry in entries.flatten() {
        let named = entry.file_name().as_encoded_bytes().starts_with(TEMP_PREFIX.as_bytes());
        if !named || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let path = entry.path();
        let removed = unmount_recursive(&path, UnmountFlags::DETACH).and_then(|()| {
            if entry.file_name().as_encoded_bytes().ends_with(PARTS_SUFFIX.as_bytes()) {
                for part in std::fs::read_dir(&path).into_iter().flatten().flatten() {
                    remove_folder(&part.path())?;
                }
            }
            remove_folder(&path)
        });
        failures.extend(removed.err());
    }
    failures
}

/// Does what has to be done before the mount that is seen at `path`.
fn prepare(mounts: &[Mount], path: &Path) -> Result<(Activated, Vec<Mount>)> {
    if !needs_activation(mounts) {
        return Ok((Activated::default(), mounts.to_vec()));
    }
    let mut parts = path.as_os_str().to_owned();
    parts.push(PARTS_SUFFIX);
    Activated::new(mounts, Path::new(&parts))
        .map_err(|error| Error::Activate { path: path.to_owned(), error: Box::new(error) })
}

/// Makes a folder with a new name.
fn make_folder(base: &Path) -> Result<PathBuf> {
    let failed = |path: &Path, error: &std::io::Error| {
        Error::temp("mkdir", path, Errno::from_io_error(error).unwrap_or(Errno::IO))
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(base)
        .map_err(|error| failed(base, &error))?;
    let base = std::fs::canonicalize(base).map_err(|error| failed(base, &error))?;
    let random = RandomState::new();
    for attempt in 0..MAX_NAMES {
        let mut hasher = random.build_hasher();
        hasher.write_usize(attempt);
        let path = base.join(format!("{TEMP_PREFIX}{}", hasher.finish()));
        match std::fs::DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed(&path, &error)),
        }
    }
    Err(Error::temp("mkdir", &base, Errno::EXIST))
}

/// Removes the folder if it is empty. What is in it would be somebody's data behind a mount that
/// did not go away, so it is never removed with its content.
fn remove_folder(path: &Path) -> Result<()> {
    match rustix::fs::rmdir(path) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(Error::temp("rmdir", path, errno)),
    }
}
