//! Paths from outside, resolved below a folder.

use std::io::Read as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::{DirFd, Error, Result};

/// Tries of a resolution that a concurrent rename disturbed. The kernel asks for another try.
const MAX_TRIES: usize = 128;

/// A folder that no path resolved through it can leave.
///
/// `..` at the top stays at the top, absolute links start at the top, and the links of `/proc`
/// that jump anywhere are refused (`openat2` with `RESOLVE_IN_ROOT` and `RESOLVE_NO_MAGICLINKS`).
#[derive(Clone, Debug)]
pub struct Root {
    dir: DirFd,
}

impl Root {
    /// Opens `path` as a root. The path itself is trusted.
    ///
    /// # Errors
    /// If it is not a folder or cannot be opened.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Ok(Root { dir: DirFd::open(path)? })
    }

    /// A root of a folder that is open already.
    #[must_use]
    pub fn from_dir(dir: DirFd) -> Self {
        Root { dir }
    }

    /// The top folder.
    #[must_use]
    pub fn top(&self) -> &DirFd {
        &self.dir
    }

    /// The path that the root was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Opens what `path` leads to. `flags` decide what may be done with it; `O_CLOEXEC` is added.
    ///
    /// # Errors
    /// As `openat2`: `ELOOP` for a link of `/proc`, `ENOENT`, `ENOTDIR`.
    pub fn open_file(&self, path: impl AsRef<Path>, flags: OFlags, mode: Mode) -> Result<OwnedFd> {
        let path = path.as_ref();
        self.resolve(path, flags, mode).map_err(|errno| Error::new("open", path, errno))
    }

    /// Opens the folder that `path` leads to.
    ///
    /// # Errors
    /// As [`Root::open_file`]; `ENOTDIR` if it is something else.
    pub fn open_dir(&self, path: impl AsRef<Path>) -> Result<DirFd> {
        let path = path.as_ref();
        let descriptor = self.open_file(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
        Ok(DirFd::new(descriptor, path.to_owned()))
    }

    /// Makes and opens a new file. The last name must not exist, not even as a link.
    ///
    /// # Errors
    /// As [`Root::open_file`]; `EEXIST`.
    pub fn create_file(&self, path: impl AsRef<Path>, mode: Mode) -> Result<OwnedFd> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        self.open_file(path, flags, mode)
    }

    /// Reads the regular file that `path` leads to, at most `limit` bytes of it.
    ///
    /// Devices and pipes are refused, so that a container's file cannot make the reader wait.
    ///
    /// # Errors
    /// As [`Root::open_file`]; `EFBIG` if there is more than `limit`, `EINVAL` if it is no file.
    pub fn read(&self, path: impl AsRef<Path>, limit: u64) -> Result<Vec<u8>> {
        let path = path.as_ref();
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = self.open_file(path, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&file).map_err(|errno| Error::new("stat", path, errno))?;
        if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() {
            return Err(Error::new("read", path, Errno::INVAL));
        }
        let mut content = Vec::new();
        std::fs::File::from(file)
            .take(limit.saturating_add(1))
            .read_to_end(&mut content)
            .map_err(|error| Error::io("read", path, &error))?;
        if u64::try_from(content.len()).unwrap_or(u64::MAX) > limit {
            return Err(Error::new("read", path, Errno::FBIG));
        }
        Ok(content)
    }

    /// Status of what `path` leads to, links followed within the root.
    ///
    /// # Errors
    /// As [`Root::open_file`].
    pub fn stat(&self, path: impl AsRef<Path>) -> Result<rustix::fs::Stat> {
        let path = path.as_ref();
        let file = self.open_file(path, OFlags::PATH, Mode::empty())?;
        rustix::fs::fstat(file).map_err(|errno| Error::new("stat", path, errno))
    }

    /// True if `path` leads to something.
    ///
    /// # Errors
    /// As [`Root::open_file`], but for what says that it is not there.
    pub fn exists(&self, path: impl AsRef<Path>) -> Result<bool> {
        match self.stat(path) {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.errno(), Some(Errno::NOENT | Errno::NOTDIR)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Opens the folder `path`, making what is missing of it with `mode`.
    ///
    /// # Errors
    /// As [`Root::open_file`]; `ENOTDIR` if a part is something else.
    pub fn create_dir_all(&self, path: impl AsRef<Path>, mode: Mode) -> Result<DirFd> {
        let path = clean_path(path);
        match self.open_dir(&path) {
            Ok(dir) => return Ok(dir),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        // Each prefix is resolved from the top: a link in it leads within the root.
        let mut dir = self.dir.clone();
        let mut prefix = PathBuf::new();
        for component in path.components() {
            let Component::Normal(name) = component else { continue };
            prefix.push(name);
            dir = match self.open_dir(&prefix) {
                Ok(found) => found,
                Err(error) if error.is_not_found() => {
                    match dir.mkdir(name, mode) {
                        Ok(()) => {}
                        // Somebody else made it; or it is a link to nowhere, which fails below.
                        Err(error) if error.errno() == Some(Errno::EXIST) => {}
                        Err(error) => return Err(error),
                    }
                    self.open_dir(&prefix)?
                }
                Err(error) => return Err(error),
            };
        }
        Ok(dir)
    }

    /// The folder that holds the last name of `path`, and that name. See [`clean_path`] for what
    /// becomes of `..`; links in the folder's part lead within the root.
    ///
    /// # Errors
    /// As [`Root::open_dir`]; [`Error::Name`] if `path` is the root itself.
    pub fn resolve_parent(&self, path: impl AsRef<Path>) -> Result<(DirFd, std::ffi::OsString)> {
        let path = clean_path(path);
        let (parent, name) = split(&path)?;
        let dir =
            if parent.as_os_str().is_empty() { self.dir.clone() } else { self.open_dir(parent)? };
        Ok((dir, name.to_owned()))
    }

    fn resolve(&self, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let mut tries = 0;
        loop {
            let flags = flags | OFlags::CLOEXEC;
            match rustix::fs::openat2(&self.dir, path, flags, mode, resolve) {
                Err(Errno::AGAIN | Errno::INTR) if tries < MAX_TRIES => tries += 1,
                result => return result,
            }
        }
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

/// A path without its leading slashes, `.` and `..`: what a layer's entry names within its root.
///
/// `..` is taken away by the text alone, before any link is met, as containerd cleans the names of
/// an archive; at the top it has no effect. The root itself becomes the empty path.
#[must_use]
pub fn clean_path(path: impl AsRef<Path>) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in path.as_ref().components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    clean
}

/// The two parts of a cleaned path.
pub(crate) fn split(path: &Path) -> Result<(&Path, &std::ffi::OsStr)> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Ok((parent, name)),
        _ => Err(Error::Name { path: path.to_owned(), reason: "names the root itself" }),
    }
}
