//! One name in a tree: what it is, and whether it is the same in another tree.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

/// Bytes of two files compared at a time.
const CHUNK: usize = 64 << 10;

/// The largest list of attribute names, and value, that the kernel gives.
const MAX_XATTR: usize = 64 << 10;

const FOLDER: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const FILE: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Attributes by name.
pub(crate) type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// A name in an open folder, with what `stat` tells.
#[derive(Clone, Copy)]
pub(crate) struct Node<'a> {
    pub(crate) folder: &'a OwnedFd,
    pub(crate) name: &'a [u8],
    pub(crate) stat: &'a Stat,
}

impl Node<'_> {
    pub(crate) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    pub(crate) fn is_folder(&self) -> bool {
        self.kind() == FileType::Directory
    }

    /// More names than one lead to it.
    pub(crate) fn is_linked(&self) -> bool {
        !self.is_folder() && self.stat.st_nlink > 1
    }

    pub(crate) fn open_folder(&self) -> Result<OwnedFd, Errno> {
        rustix::fs::openat(self.folder, self.name, FOLDER, Mode::empty())
    }

    pub(crate) fn open_file(&self) -> Result<OwnedFd, Errno> {
        rustix::fs::openat(self.folder, self.name, FILE, Mode::empty())
    }

    pub(crate) fn link_target(&self) -> Result<Vec<u8>, Errno> {
        Ok(rustix::fs::readlinkat(self.folder, self.name, Vec::new())?.into_bytes())
    }

    /// Its path for the calls that know no folder descriptors; nothing is followed at its end.
    fn by_folder(&self) -> Vec<u8> {
        let folder = format!("/proc/self/fd/{}/", self.folder.as_raw_fd());
        [folder.as_bytes(), self.name].concat()
    }

    /// One attribute; None if it has none.
    pub(crate) fn xattr(&self, name: &[u8]) -> Result<Option<Vec<u8>>, Errno> {
        let path = self.by_folder();
        let mut value = vec![0; 256];
        loop {
            match rustix::fs::lgetxattr(&path[..], name, &mut value[..]) {
                Ok(length) => {
                    value.truncate(length);
                    return Ok(Some(value));
                }
                Err(Errno::RANGE) if value.len() < MAX_XATTR => value.resize(MAX_XATTR, 0),
                Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(None),
                Err(errno) => return Err(errno),
            }
        }
    }

    /// The attributes that a layer carries: `security.capability` and those of users, without
    /// overlayfs's own.
    pub(crate) fn xattrs(&self) -> Result<Xattrs, Errno> {
        if !matches!(self.kind(), FileType::RegularFile | FileType::Directory) {
            return Ok(Vec::new());
        }
        let path = self.by_folder();
        let mut names = [0_u8; 1024];
        let listed = match rustix::fs::llistxattr(&path[..], &mut names[..]) {
            Ok(length) => names[..length].to_vec(),
            Err(Errno::RANGE) => {
                let mut names = vec![0; MAX_XATTR];
                let length = rustix::fs::llistxattr(&path[..], &mut names[..])?;
                names.truncate(length);
                names
            }
            Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            Err(errno) => return Err(errno),
        };
        let mut xattrs = Vec::new();
        for name in listed.split(|byte| *byte == 0) {
            let is_carried = name == b"security.capability"
                || name.starts_with(b"user.") && !name.starts_with(b"user.overlay.");
            if is_carried && let Some(value) = self.xattr(name)? {
                xattrs.push((name.to_vec(), value));
            }
        }
        xattrs.sort();
        Ok(xattrs)
    }
}

/// True if nothing that a layer records differs.
pub(crate) fn is_same(one: &Node<'_>, other: &Node<'_>) -> Result<bool, Errno> {
    let (a, b) = (one.stat, other.stat);
    if (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino) {
        return Ok(true);
    }
    if (a.st_mode, a.st_uid, a.st_gid, a.st_rdev) != (b.st_mode, b.st_uid, b.st_gid, b.st_rdev) {
        return Ok(false);
    }
    if one.is_folder() {
        return Ok(one.xattrs()? == other.xattrs()?);
    }
    let changed = |stat: &Stat| (stat.st_size, stat.st_mtime, stat.st_mtime_nsec);
    // Two overlays show a file of a shared layer with its own inode number, and nothing can change
    // a file without moving its change time: no need to read either.
    if (a.st_ino, a.st_ctime, a.st_ctime_nsec) == (b.st_ino, b.st_ctime, b.st_ctime_nsec)
        && changed(a) == changed(b)
    {
        return Ok(true);
    }
    if (a.st_size, a.st_mtime) != (b.st_size, b.st_mtime) || one.xattrs()? != other.xattrs()? {
        return Ok(false);
    }
    if (a.st_mtime_nsec, b.st_mtime_nsec) != (0, 0) {
        return Ok(a.st_mtime_nsec == b.st_mtime_nsec);
    }
    // Times of whole seconds come from archives, and say little.
    match one.kind() {
        FileType::Symlink => Ok(one.link_target()? == other.link_target()?),
        FileType::RegularFile => same_content(one, other),
        _ => Ok(true),
    }
}

fn same_content(one: &Node<'_>, other: &Node<'_>) -> Result<bool, Errno> {
    if one.stat.st_size == 0 {
        return Ok(true);
    }
    let (one, other) = (one.open_file()?, other.open_file()?);
    let (mut left, mut right) = (vec![0; CHUNK], vec![0; CHUNK]);
    loop {
        let length = read_full(&one, &mut left)?;
        if length != read_full(&other, &mut right)? || left[..length] != right[..length] {
            return Ok(false);
        }
        if length < CHUNK {
            return Ok(true);
        }
    }
}

/// Reads until the buffer is full or the file ends.
pub(crate) fn read_full(file: &OwnedFd, buffer: &mut [u8]) -> Result<usize, Errno> {
    let mut filled = 0;
    while filled < buffer.len() {
        match rustix::io::read(file, &mut buffer[filled..]) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(filled)
}

/// Opens the root of a tree by its path on the host.
pub(crate) fn open_root(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

/// The names in a folder with what `stat` tells of each, in the order of their bytes.
pub(crate) fn list(folder: &OwnedFd) -> Result<Vec<(Vec<u8>, Stat)>, Errno> {
    let mut names = Vec::new();
    let mut entries = rustix::fs::Dir::read_from(folder)?;
    while let Some(entry) = entries.read() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => names.push((name.to_vec(), stat)),
            // Gone since the folder was read.
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    names.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    Ok(names)
}
