//! A folder held open, and what can be done to one name in it. No operation follows a link.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{
    AtFlags, CWD, Dev, Dir, FileType, Gid, Mode, OFlags, Stat, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use crate::{Error, Result, remove};

/// The most bytes of one extended attribute, and of a list of their names; the kernel's own limit.
const XATTR_MAX: usize = 64 << 10;

/// A folder by descriptor (`O_PATH`). Cheap to clone.
///
/// Names are single: a name with a slash in it, `.`, `..` and the empty name are refused.
#[derive(Clone, Debug)]
pub struct DirFd {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    descriptor: OwnedFd,
    /// For errors alone.
    path: PathBuf,
}

impl AsFd for DirFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.descriptor.as_fd()
    }
}

impl DirFd {
    /// Holds `descriptor`; `path` is what errors call it.
    #[must_use]
    pub fn new(descriptor: OwnedFd, path: PathBuf) -> Self {
        DirFd { inner: Arc::new(Inner { descriptor, path }) }
    }

    /// Opens a folder by a trusted path.
    ///
    /// # Errors
    /// If it is not a folder or cannot be opened.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let descriptor = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|errno| Error::new("open", path, errno))?;
        Ok(Self::new(descriptor, path.to_owned()))
    }

    /// What errors call it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Names the path; made only when there is an error.
    fn fail(&self, operation: &'static str, name: &OsStr) -> impl Fn(Errno) -> Error {
        move |errno| Error::new(operation, self.inner.path.join(name), errno)
    }

    /// Opens the folder `name`; a link to one is refused.
    ///
    /// # Errors
    /// `ENOTDIR`, `ELOOP`, `ENOENT`.
    pub fn open_dir(&self, name: &OsStr) -> Result<DirFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let descriptor = self.open_file(name, flags, Mode::empty())?;
        Ok(Self::new(descriptor, self.inner.path.join(name)))
    }

    /// Opens `name` itself with `flags`; a link is refused, or opened itself with `O_PATH`.
    ///
    /// # Errors
    /// As `openat`.
    pub fn open_file(&self, name: &OsStr, flags: OFlags, mode: Mode) -> Result<OwnedFd> {
        let name = single(name)?;
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(self, name, flags, mode).map_err(self.fail("open", name))
    }

    /// Makes the new file `name`, for writing.
    ///
    /// # Errors
    /// `EEXIST` if there is anything of that name.
    pub fn create_file(&self, name: &OsStr, mode: Mode) -> Result<OwnedFd> {
        self.open_file(name, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL, mode)
    }

    /// Makes a folder.
    ///
    /// # Errors
    /// `EEXIST` and the like.
    pub fn mkdir(&self, name: &OsStr, mode: Mode) -> Result<()> {
        let name = single(name)?;
        rustix::fs::mkdirat(self, name, mode).map_err(self.fail("mkdir", name))
    }

    /// Makes a symbolic link. What it says is not looked at.
    ///
    /// # Errors
    /// `EEXIST` and the like.
    pub fn symlink(&self, target: &OsStr, name: &OsStr) -> Result<()> {
        let name = single(name)?;
        rustix::fs::symlinkat(target, self, name).map_err(self.fail("symlink", name))
    }

    /// Makes `name` another name of `from_name` in `from`. A symbolic link is linked itself.
    ///
    /// # Errors
    /// `EEXIST`, `EXDEV`, `EMLINK` and the like; they name both paths.
    pub fn link(&self, from: &DirFd, from_name: &OsStr, name: &OsStr) -> Result<()> {
        let (from_name, name) = (single(from_name)?, single(name)?);
        rustix::fs::linkat(from, from_name, self, name, AtFlags::empty()).map_err(|errno| {
            Error::Paths {
                operation: "link",
                from: from.inner.path.join(from_name),
                to: self.inner.path.join(name),
                errno,
            }
        })
    }

    /// Makes a device, a pipe or a socket file.
    ///
    /// # Errors
    /// `EEXIST`, `EPERM` and the like.
    pub fn mknod(&self, name: &OsStr, kind: FileType, mode: Mode, device: Dev) -> Result<()> {
        let name = single(name)?;
        rustix::fs::mknodat(self, name, kind, mode, device).map_err(self.fail("mknod", name))
    }

    /// Renames `name` to `to_name` in `to`, replacing what is there.
    ///
    /// # Errors
    /// `EXDEV`, `ENOTEMPTY` and the like; they name both paths.
    pub fn rename(&self, name: &OsStr, to: &DirFd, to_name: &OsStr) -> Result<()> {
        let (name, to_name) = (single(name)?, single(to_name)?);
        rustix::fs::renameat(self, name, to, to_name).map_err(|errno| Error::Paths {
            operation: "rename",
            from: self.inner.path.join(name),
            to: to.inner.path.join(to_name),
            errno,
        })
    }

    /// Removes `name`, which is not a folder.
    ///
    /// # Errors
    /// `ENOENT`, `EISDIR` and the like.
    pub fn unlink(&self, name: &OsStr) -> Result<()> {
        let name = single(name)?;
        rustix::fs::unlinkat(self, name, AtFlags::empty()).map_err(self.fail("unlink", name))
    }

    /// Removes the empty folder `name`.
    ///
    /// # Errors
    /// `ENOTEMPTY`, `ENOENT` and the like.
    pub fn rmdir(&self, name: &OsStr) -> Result<()> {
        let name = single(name)?;
        rustix::fs::unlinkat(self, name, AtFlags::REMOVEDIR).map_err(self.fail("rmdir", name))
    }

    /// Removes `name` with all that is in it. What is not there is removed already.
    ///
    /// # Errors
    /// The first thing that could not be removed.
    pub fn remove_all(&self, name: &OsStr) -> Result<()> {
        remove::remove_in(self, single(name)?)
    }

    /// Status of `name` itself.
    ///
    /// # Errors
    /// `ENOENT` and the like.
    pub fn stat(&self, name: &OsStr) -> Result<Stat> {
        let name = single(name)?;
        rustix::fs::statat(self, name, AtFlags::SYMLINK_NOFOLLOW).map_err(self.fail("stat", name))
    }

    /// Status of the folder itself.
    ///
    /// # Errors
    /// None in practice.
    pub fn stat_self(&self) -> Result<Stat> {
        rustix::fs::fstat(self).map_err(self.fail("stat", OsStr::new("")))
    }

    /// What the link `name` says.
    ///
    /// # Errors
    /// `EINVAL` if it is no link.
    pub fn read_link(&self, name: &OsStr) -> Result<CString> {
        let name = single(name)?;
        rustix::fs::readlinkat(self, name, Vec::new()).map_err(self.fail("readlink", name))
    }

    /// Sets the owner of `name` itself.
    ///
    /// # Errors
    /// `EPERM` and the like.
    pub fn chown(&self, name: &OsStr, user: u32, group: u32) -> Result<()> {
        let name = single(name)?;
        let (user, group) = (Some(Uid::from_raw(user)), Some(Gid::from_raw(group)));
        rustix::fs::chownat(self, name, user, group, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(self.fail("chown", name))
    }

    /// Sets the mode of `name`, which must not be a link: a link has none.
    ///
    /// # Errors
    /// `ELOOP` for a link, which is never followed.
    pub fn chmod(&self, name: &OsStr, mode: Mode) -> Result<()> {
        let name = single(name)?;
        let fail = self.fail("chmod", name);
        // The call that takes a flag against following came with Linux 6.6; this is its way before.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(self, name, flags, Mode::empty()).map_err(&fail)?;
        let stat = rustix::fs::fstat(&file).map_err(&fail)?;
        if FileType::from_raw_mode(stat.st_mode).is_symlink() {
            return Err(fail(Errno::LOOP));
        }
        rustix::fs::chmodat(CWD, descriptor_path(file.as_fd()), mode, AtFlags::empty())
            .map_err(fail)
    }

    /// Sets access and modification time of `name` itself.
    ///
    /// # Errors
    /// `EPERM` and the like.
    pub fn set_times(&self, name: &OsStr, times: &Timestamps) -> Result<()> {
        let name = single(name)?;
        rustix::fs::utimensat(self, name, times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(self.fail("utimensat", name))
    }

    /// Sets an extended attribute of `name` itself.
    ///
    /// # Errors
    /// `ENOTSUP` where the file system has none, `EPERM` and the like.
    pub fn set_xattr(&self, name: &OsStr, attribute: &OsStr, value: &[u8]) -> Result<()> {
        let name = single(name)?;
        rustix::fs::lsetxattr(self.proc_path(name), attribute, value, XattrFlags::empty())
            .map_err(self.fail("setxattr", name))
    }

    /// An extended attribute of `name` itself; nothing if it has none of that name.
    ///
    /// # Errors
    /// `EPERM` and the like. Where the file system has no attributes, the answer is nothing.
    pub fn xattr(&self, name: &OsStr, attribute: &OsStr) -> Result<Option<Vec<u8>>> {
        let name = single(name)?;
        let path = self.proc_path(name);
        let mut value = vec![0; 256];
        loop {
            match rustix::fs::lgetxattr(&path, attribute, value.as_mut_slice()) {
                Ok(length) => {
                    value.truncate(length);
                    return Ok(Some(value));
                }
                Err(Errno::RANGE) if value.len() < XATTR_MAX => value.resize(XATTR_MAX, 0),
                Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(None),
                Err(errno) => return Err(self.fail("getxattr", name)(errno)),
            }
        }
    }

    /// The names of the extended attributes of `name` itself. None where there are none at all.
    ///
    /// # Errors
    /// `ENOENT` and the like.
    pub fn xattr_names(&self, name: &OsStr) -> Result<Vec<CString>> {
        let name = single(name)?;
        let path = self.proc_path(name);
        let mut list = vec![0; 1024];
        loop {
            match rustix::fs::llistxattr(&path, list.as_mut_slice()) {
                Ok(length) => {
                    list.truncate(length);
                    break;
                }
                Err(Errno::RANGE) if list.len() < XATTR_MAX => list.resize(XATTR_MAX, 0),
                Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
                Err(errno) => return Err(self.fail("listxattr", name)(errno)),
            }
        }
        let names = list.split(|byte| *byte == 0).filter(|name| !name.is_empty());
        Ok(names.filter_map(|name| CString::new(name).ok()).collect())
    }

    /// Removes an extended attribute of `name` itself.
    ///
    /// # Errors
    /// `ENODATA` if it has none of that name.
    pub fn remove_xattr(&self, name: &OsStr, attribute: &OsStr) -> Result<()> {
        let name = single(name)?;
        rustix::fs::lremovexattr(self.proc_path(name), attribute)
            .map_err(self.fail("removexattr", name))
    }

    /// An iterator over the folder's names, `.` and `..` among them.
    ///
    /// # Errors
    /// `EACCES` if it may not be read.
    pub fn read_dir(&self) -> Result<Dir> {
        Dir::read_from(self).map_err(self.fail("readdir", OsStr::new("")))
    }

    /// Makes the folder's entries durable.
    ///
    /// # Errors
    /// As `fsync`.
    pub fn sync(&self) -> Result<()> {
        let fail = self.fail("fsync", OsStr::new(""));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let readable = rustix::fs::openat(self, ".", flags, Mode::empty()).map_err(&fail)?;
        rustix::fs::fsync(readable).map_err(fail)
    }

    /// A path to `name` for calls that take no descriptor.
    fn proc_path(&self, name: &OsStr) -> PathBuf {
        descriptor_path(self.as_fd()).join(name)
    }
}

/// The path under which the kernel shows a descriptor of this process.
pub(crate) fn descriptor_path(descriptor: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", descriptor.as_raw_fd()))
}

/// Lets single names through.
fn single(name: &OsStr) -> Result<&OsStr> {
    let reason = match name.as_bytes() {
        b"" => "is empty",
        b"." | b".." => "is no name of its own",
        bytes if bytes.contains(&b'/') => "is a path where a name is wanted",
        bytes if bytes.contains(&0) => "has a NUL byte",
        _ => return Ok(name),
    };
    Err(Error::Name { path: PathBuf::from(name), reason })
}
