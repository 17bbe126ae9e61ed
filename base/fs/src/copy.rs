//! Copies of trees that keep all that a container can see.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom as StdSeekFrom, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use crate::levels::{DESCEND, Levels, each_entry};
use crate::{DirFd, Error, Result};

/// Bytes moved by one call, so that one huge file does not sit in the kernel for minutes.
const COPY_STEP: u64 = 64 << 20;

/// Copies the tree at `source` to `target`: modes, owners, times, extended attributes, hard
/// links, devices, pipes, sockets and holes. Data is shared where the file system can.
///
/// `target` is made if it does not exist; an existing folder must not hold any of the names. Both
/// paths themselves are trusted; links inside the trees are copied, never followed. A failed copy
/// leaves what it made: the caller owns `target`. Not cancelled half way by anything.
///
/// # Errors
/// Names the path within the tree. Attributes that the target's file system does not know at all
/// are left out.
pub fn copy_tree(source: impl AsRef<Path>, target: impl AsRef<Path>) -> Result<()> {
    let (source, target) = (source.as_ref(), target.as_ref());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let from = rustix::fs::open(source, flags, Mode::empty())
        .map_err(|errno| Error::new("open", source, errno))?;
    match rustix::fs::mkdir(target, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(Error::new("mkdir", target, errno)),
    }
    let to = rustix::fs::open(target, flags, Mode::empty())
        .map_err(|errno| Error::new("open", target, errno))?;
    let mut copy = Copy {
        source: source.to_owned(),
        within: PathBuf::new(),
        top: DirFd::open(target)?,
        linked: HashMap::new(),
    };
    copy.run(from, to)
}

struct Copy {
    /// The top of the source, for errors.
    source: PathBuf,
    /// Where the walk is below it.
    within: PathBuf,
    /// The top of the copy.
    top: DirFd,
    /// Files of several names: where the copy has them, and how many names are still to come.
    linked: HashMap<(u64, u64), (PathBuf, u64)>,
}

impl Copy {
    fn fail(&self, operation: &'static str, name: &CStr) -> impl Fn(Errno) -> Error + use<> {
        let path = self.source.join(&self.within).join(OsStr::from_bytes(name.to_bytes()));
        move |errno| Error::new(operation, &path, errno)
    }

    fn run(&mut self, from: OwnedFd, to: OwnedFd) -> Result<()> {
        let mut levels = Levels::<2>::new();
        self.descend(&mut levels, from, to)?;
        // INVARIANT: `within` has one name for each level below the top one.
        while let Some(([from, to], pending)) = levels.top() {
            let Some(child) = pending.pop() else {
                let fail = self.fail("copy", c"");
                if let Some([from, to]) = levels.pop().map_err(&fail)? {
                    // The folder's own times last: each name made in it has changed them.
                    finish_folder(&from, &to).map_err(&fail)?;
                }
                self.within.pop();
                continue;
            };
            let fail = self.fail("copy", &child);
            let from = rustix::fs::openat(from, &child, DESCEND, Mode::empty()).map_err(&fail)?;
            rustix::fs::mkdirat(to, &child, Mode::RWXU).map_err(&fail)?;
            let to = rustix::fs::openat(to, &child, DESCEND, Mode::empty()).map_err(&fail)?;
            self.within.push(OsStr::from_bytes(child.to_bytes()));
            self.descend(&mut levels, from, to)?;
        }
        Ok(())
    }

    /// Copies all that is no folder in `from`, and puts its folders down as pending.
    fn descend(&mut self, levels: &mut Levels<2>, from: OwnedFd, to: OwnedFd) -> Result<()> {
        let fail = self.fail("copy", c"");
        let mut pending = Vec::new();
        each_entry(&from, |name, _| {
            let in_copy = |errno| Walk::Copy(self.fail("copy", name)(errno));
            let stat =
                rustix::fs::statat(&from, name, AtFlags::SYMLINK_NOFOLLOW).map_err(in_copy)?;
            if FileType::from_raw_mode(stat.st_mode).is_dir() {
                pending.push(name.to_owned());
                return Ok(());
            }
            self.copy_file(&from, &to, name, &stat).map_err(Walk::Copy)
        })
        .map_err(|walk| match walk {
            Walk::List(errno) => fail(errno),
            Walk::Copy(error) => error,
        })?;
        levels.push([from, to], pending).map_err(fail)
    }

    fn copy_file(&mut self, from: &OwnedFd, to: &OwnedFd, name: &CStr, stat: &Stat) -> Result<()> {
        let fail = self.fail("copy", name);
        let key = (stat.st_dev, stat.st_ino);
        if stat.st_nlink > 1 {
            if let Some((first, left)) = self.linked.get_mut(&key) {
                rustix::fs::linkat(&self.top, first.as_path(), to, name, AtFlags::empty())
                    .map_err(fail)?;
                *left -= 1;
                if *left == 0 {
                    self.linked.remove(&key);
                }
                return Ok(());
            }
            let here = self.within.join(OsStr::from_bytes(name.to_bytes()));
            #[allow(clippy::useless_conversion, reason = "the field's width differs by machine")]
            let names = u64::from(stat.st_nlink);
            self.linked.insert(key, (here, names - 1));
        }
        let kind = FileType::from_raw_mode(stat.st_mode);
        let mode = Mode::RUSR | Mode::WUSR;
        match kind {
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let flags = flags | OFlags::NONBLOCK;
                let source = rustix::fs::openat(from, name, flags, Mode::empty()).map_err(&fail)?;
                let flags = OFlags::WRONLY
                    | OFlags::CREATE
                    | OFlags::EXCL
                    | OFlags::NOFOLLOW
                    | OFlags::CLOEXEC;
                let target = rustix::fs::openat(to, name, flags, mode).map_err(&fail)?;
                copy_content(source, target, stat).map_err(&fail)?;
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(from, name, Vec::new()).map_err(&fail)?;
                rustix::fs::symlinkat(&target, to, name).map_err(&fail)?;
            }
            kind => rustix::fs::mknodat(to, name, kind, mode, stat.st_rdev).map_err(&fail)?,
        }
        copy_attributes(from, to, name, stat).map_err(fail)
    }
}

/// Why a walk over one folder ended.
enum Walk {
    List(Errno),
    Copy(Error),
}

impl From<Errno> for Walk {
    fn from(errno: Errno) -> Self {
        Walk::List(errno)
    }
}

/// Owner, mode, extended attributes and times of a folder that is complete.
fn finish_folder(from: &OwnedFd, to: &OwnedFd) -> Result<(), Errno> {
    let stat = rustix::fs::fstat(from)?;
    copy_attributes(from, to, c".", &stat)
}

/// Owner, mode, extended attributes and times. In this order: a change of owner takes set-id bits
/// and capabilities away, and all of them change the change time.
fn copy_attributes(from: &OwnedFd, to: &OwnedFd, name: &CStr, stat: &Stat) -> Result<(), Errno> {
    let (user, group) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::chownat(to, name, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)?;
    if !FileType::from_raw_mode(stat.st_mode).is_symlink() {
        // The copy is ours and this name was made a moment ago, so it is no link.
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        rustix::fs::chmodat(to, name, mode, AtFlags::empty())?;
    }
    copy_xattrs(from, to, name)?;
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: stat.st_atime,
            tv_nsec: i64::try_from(stat.st_atime_nsec).unwrap_or(0),
        },
        last_modification: Timespec {
            tv_sec: stat.st_mtime,
            tv_nsec: i64::try_from(stat.st_mtime_nsec).unwrap_or(0),
        },
    };
    rustix::fs::utimensat(to, name, &times, AtFlags::SYMLINK_NOFOLLOW)
}

fn copy_xattrs(from: &OwnedFd, to: &OwnedFd, name: &CStr) -> Result<(), Errno> {
    let name = OsStr::from_bytes(name.to_bytes());
    let source = crate::dir::descriptor_path(from.as_fd()).join(name);
    let target = crate::dir::descriptor_path(to.as_fd()).join(name);
    let mut list = vec![0u8; 1024];
    let length = loop {
        match rustix::fs::llistxattr(&source, list.as_mut_slice()) {
            Ok(length) => break length,
            Err(Errno::RANGE) if list.len() < 64 << 10 => list.resize(64 << 10, 0),
            Err(Errno::OPNOTSUPP) => return Ok(()),
            Err(errno) => return Err(errno),
        }
    };
    for attribute in list[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let attribute = CString::new(attribute).map_err(|_| Errno::INVAL)?;
        let mut value = vec![0u8; 256];
        let length = loop {
            match rustix::fs::lgetxattr(&source, &attribute, value.as_mut_slice()) {
                Ok(length) => break length,
                Err(Errno::RANGE) if value.len() < 64 << 10 => value.resize(64 << 10, 0),
                Err(errno) => return Err(errno),
            }
        };
        let flags = rustix::fs::XattrFlags::empty();
        match rustix::fs::lsetxattr(&target, &attribute, &value[..length], flags) {
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Copies a file's bytes: shared if the file system can, else the parts that hold data.
fn copy_content(source: OwnedFd, target: OwnedFd, stat: &Stat) -> Result<(), Errno> {
    if rustix::fs::ioctl_ficlone(&target, &source).is_ok() {
        return Ok(());
    }
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    rustix::fs::ftruncate(&target, size)?;
    let (mut source, mut target) = (File::from(source), File::from(target));
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(&source, SeekFrom::Data(at)) {
            Ok(start) => start,
            // No data from here on.
            Err(Errno::NXIO) => break,
            // No notion of holes: all is data.
            Err(Errno::INVAL) => at,
            Err(errno) => return Err(errno),
        };
        let end = match rustix::fs::seek(&source, SeekFrom::Hole(start)) {
            Ok(end) => end.min(size),
            Err(_) => size,
        };
        if start >= end {
            break;
        }
        copy_range(&mut source, &mut target, start, end)?;
        at = end;
    }
    Ok(())
}

/// Copies the bytes from `start` to `end`, in the kernel if it can.
fn copy_range(source: &mut File, target: &mut File, start: u64, end: u64) -> Result<(), Errno> {
    let (mut from, mut to) = (start, start);
    while from < end {
        let step = usize::try_from((end - from).min(COPY_STEP)).unwrap_or(usize::MAX);
        let (input, output) = (&*source, &*target);
        match rustix::fs::copy_file_range(input, Some(&mut from), output, Some(&mut to), step) {
            // The file became shorter.
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS | Errno::PERM) => {
                return copy_bytes(source, target, from, end);
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Copies the bytes from `start` to `end` through a buffer.
fn copy_bytes(source: &mut File, target: &mut File, start: u64, end: u64) -> Result<(), Errno> {
    (|| {
        source.seek(StdSeekFrom::Start(start))?;
        target.seek(StdSeekFrom::Start(start))?;
        let mut rest = source.take(end - start);
        let mut buffer = vec![0; 128 << 10];
        loop {
            let length = rest.read(&mut buffer)?;
            if length == 0 {
                return Ok(());
            }
            target.write_all(&buffer[..length])?;
        }
    })()
    .map_err(|error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}
