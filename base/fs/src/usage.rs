//! What a tree takes on its disk.

use std::collections::HashSet;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::levels::{DESCEND, Levels, each_entry};
use crate::{Error, Result};

/// What a tree takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of allocated blocks, each file once however many names it has.
    pub size: u64,
    /// Files and folders, the top one included.
    pub inodes: u64,
}

/// Walks the tree at `path` and adds up what it takes. Links are counted, never followed. What
/// goes away meanwhile is not counted.
///
/// # Errors
/// If `path` cannot be read.
pub fn disk_usage(path: impl AsRef<Path>) -> Result<Usage> {
    let path = path.as_ref();
    let fail = |errno| Error::new("walk", path, errno);
    let mut count = Count::default();
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let top = rustix::fs::open(path, flags, Mode::empty()).map_err(fail)?;
    let stat = rustix::fs::fstat(&top).map_err(fail)?;
    count.add(&stat);
    if FileType::from_raw_mode(stat.st_mode).is_dir() {
        let top = rustix::fs::openat(&top, c".", DESCEND, Mode::empty()).map_err(fail)?;
        walk(top, &mut count).map_err(fail)?;
    }
    Ok(count.usage)
}

#[derive(Default)]
struct Count {
    usage: Usage,
    /// Files of several names that were met.
    met: HashSet<(u64, u64)>,
}

impl Count {
    fn add(&mut self, stat: &Stat) {
        let several_names = stat.st_nlink > 1 && !FileType::from_raw_mode(stat.st_mode).is_dir();
        if several_names && !self.met.insert((stat.st_dev, stat.st_ino)) {
            return;
        }
        // st_blocks counts 512 bytes, whatever the file system's block is.
        self.usage.size += u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
        self.usage.inodes += 1;
    }
}

fn walk(top: rustix::fd::OwnedFd, count: &mut Count) -> Result<(), Errno> {
    let mut levels = Levels::<1>::new();
    descend(&mut levels, top, count)?;
    while let Some(([folder], pending)) = levels.top() {
        let Some(child) = pending.pop() else {
            levels.pop()?;
            continue;
        };
        match rustix::fs::openat(folder, &child, DESCEND, Mode::empty()) {
            Ok(child) => descend(&mut levels, child, count)?,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn descend(
    levels: &mut Levels<1>,
    folder: rustix::fd::OwnedFd,
    count: &mut Count,
) -> Result<(), Errno> {
    let mut pending = Vec::new();
    each_entry(&folder, |name, _| {
        match rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => {
                count.add(&stat);
                if FileType::from_raw_mode(stat.st_mode).is_dir() {
                    pending.push(name.to_owned());
                }
                Ok(())
            }
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno),
        }
    })?;
    levels.push([folder], pending)
}
