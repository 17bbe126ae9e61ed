//! The layers below an overlay's upper folder: where unmentioned folders take their owner and mode
//! from, and where hard links find files that this layer does not have.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::tree::{Folder, open_below, open_root, split};
use super::whiteout::{is_opaque, is_whiteout};

/// The largest list of attribute names, and value, that the kernel gives.
const MAX_XATTR: usize = 64 << 10;

/// The roots of the layers below, the nearest first; opened when they are first needed.
pub(crate) struct Lowers {
    paths: Vec<PathBuf>,
    roots: Option<Vec<OwnedFd>>,
}

impl Lowers {
    pub(crate) fn new(paths: &[PathBuf]) -> Self {
        Lowers { paths: paths.to_vec(), roots: None }
    }

    fn roots(&mut self) -> Result<&[OwnedFd], Errno> {
        if self.roots.is_none() {
            let roots: Result<Vec<_>, _> = self.paths.iter().map(|path| open_root(path)).collect();
            self.roots = Some(roots?);
        }
        Ok(self.roots.as_deref().unwrap_or_default())
    }

    /// The nearest folder at `path`.
    pub(crate) fn folder(&mut self, path: &[u8]) -> Result<Option<OwnedFd>, Errno> {
        for root in self.roots()? {
            match open_below(root.as_fd(), path) {
                Ok(folder) => return Ok(Some(folder)),
                Err(Errno::NOENT) => {}
                // A file or whiteout hides whatever is below.
                Err(Errno::NOTDIR | Errno::LOOP) => return Ok(None),
                Err(errno) => return Err(errno),
            }
            if hides_below(root, split(path).0) {
                return Ok(None);
            }
        }
        Ok(None)
    }

    /// True if there is a file, link or device at `path`.
    pub(crate) fn has(&mut self, path: &[u8]) -> Result<bool, Errno> {
        Ok(self.nearest(path)?.is_some())
    }

    /// Copies the nearest file at `path` to `name` in `folder`.
    pub(crate) fn copy_up(
        &mut self,
        path: &[u8],
        folder: &Folder,
        name: &[u8],
    ) -> Result<(), Errno> {
        let (found, stat) = self.nearest(path)?.ok_or(Errno::NOENT)?;
        copy(&found, split(path).1, &stat, folder, name)
    }

    /// The folder of the nearest layer that has something at `path`, and what it is.
    fn nearest(&mut self, path: &[u8]) -> Result<Option<(OwnedFd, Stat)>, Errno> {
        let (parent, base) = split(path);
        for root in self.roots()? {
            let found = match open_below_or_root(root, parent) {
                Ok(found) => found,
                Err(Errno::NOENT) => continue,
                Err(Errno::NOTDIR | Errno::LOOP) => return Ok(None),
                Err(errno) => return Err(errno),
            };
            match rustix::fs::statat(&found, base, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if is_whiteout(&stat) => return Ok(None),
                Ok(stat) => return Ok(Some((found, stat))),
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
            if is_opaque(&found) || hides_below(root, parent) {
                return Ok(None);
            }
        }
        Ok(None)
    }
}

fn open_below_or_root(root: &OwnedFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    open_below(root.as_fd(), if path.is_empty() { b"." } else { path })
}

/// True if a folder on the way to `path` is opaque in this layer.
fn hides_below(root: &OwnedFd, path: &[u8]) -> bool {
    if path.is_empty() {
        return false;
    }
    let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(index, _)| index);
    ends.chain([path.len()])
        .any(|end| open_below(root.as_fd(), &path[..end]).is_ok_and(|folder| is_opaque(&folder)))
}

/// Copies one file, link or device with what belongs to it.
fn copy(
    from: &OwnedFd,
    base: &[u8],
    stat: &Stat,
    folder: &Folder,
    name: &[u8],
) -> Result<(), Errno> {
    let kind = FileType::from_raw_mode(stat.st_mode);
    let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
    let owner = (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)));
    match kind {
        FileType::RegularFile => {
            let source = rustix::fs::openat(
                from,
                base,
                OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::empty(),
            )?;
            let copy = rustix::fs::openat(
                &folder.fd,
                name,
                OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::from_raw_mode(0o600),
            )?;
            copy_data(&source, &copy)?;
            rustix::fs::fchown(&copy, owner.0, owner.1)?;
            copy_xattrs(&source, &copy)?;
            rustix::fs::fchmod(&copy, mode)?;
        }
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(from, base, Vec::new())?;
            rustix::fs::symlinkat(target, &folder.fd, name)?;
            let nofollow = AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::chownat(&folder.fd, name, owner.0, owner.1, nofollow)?;
        }
        FileType::Directory => return Err(Errno::PERM),
        kind => {
            rustix::fs::mknodat(&folder.fd, name, kind, mode, stat.st_rdev)?;
            let nofollow = AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::chownat(&folder.fd, name, owner.0, owner.1, nofollow)?;
            rustix::fs::chmodat(&folder.fd, name, mode, AtFlags::empty())?;
        }
    }
    rustix::fs::utimensat(&folder.fd, name, &times_of(stat), AtFlags::SYMLINK_NOFOLLOW)
}

fn copy_data(source: &OwnedFd, copy: &OwnedFd) -> Result<(), Errno> {
    /// Bytes asked for at once; the kernel bounds it further.
    const CHUNK: usize = 1 << 30;
    loop {
        match rustix::fs::copy_file_range(source, None, copy, None, CHUNK) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => break,
            Err(errno) => return Err(errno),
        }
    }
    let mut buffer = vec![0; 128 << 10];
    loop {
        let length = rustix::io::read(source, &mut buffer[..])?;
        if length == 0 {
            return Ok(());
        }
        let mut rest = &buffer[..length];
        while !rest.is_empty() {
            let written = rustix::io::write(copy, rest)?;
            rest = &rest[written..];
        }
    }
}

/// Gives `folder` owner, mode, attributes and times of the one below it.
pub(crate) fn inherit(folder: &OwnedFd, below: &OwnedFd) -> Result<(), Errno> {
    let stat = rustix::fs::fstat(below)?;
    let owner = (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)));
    rustix::fs::fchown(folder, owner.0, owner.1)?;
    copy_xattrs(below, folder)?;
    rustix::fs::fchmod(folder, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    rustix::fs::futimens(folder, &times_of(&stat))
}

/// Copies attributes, but for those that are overlayfs's own notes about one folder.
fn copy_xattrs(from: &OwnedFd, to: &OwnedFd) -> Result<(), Errno> {
    let mut names = vec![0; MAX_XATTR];
    let length = match rustix::fs::flistxattr(from, &mut names[..]) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => return Ok(()),
        Err(errno) => return Err(errno),
    };
    let mut value = Vec::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        if name.starts_with(b"trusted.") || name.starts_with(b"user.overlay.") {
            continue;
        }
        value.resize(MAX_XATTR, 0);
        match rustix::fs::fgetxattr(from, name, &mut value[..]) {
            Ok(length) => {
                match rustix::fs::fsetxattr(to, name, &value[..length], XattrFlags::empty()) {
                    Ok(()) | Err(Errno::OPNOTSUPP) => {}
                    Err(errno) => return Err(errno),
                }
            }
            Err(Errno::NODATA) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn times_of(stat: &Stat) -> Timestamps {
    let time = |seconds, nanos: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanos).unwrap_or(0),
    };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}
