//! A group's folder held open, and its small files.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::{Error, Result};

/// The most that is read of one file: `cgroup.procs` and `io.stat` of large machines fit.
const MAX_BYTES: usize = 1 << 20;

/// The folder of one group in one hierarchy.
#[derive(Debug)]
pub(crate) struct Folder {
    descriptor: OwnedFd,
    path: PathBuf,
    /// Reused for each file.
    buffer: Vec<u8>,
}

impl Folder {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let descriptor = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|errno| Error::new("open", path, errno))?;
        Ok(Folder { descriptor, path: path.to_owned(), buffer: vec![0; 8 << 10] })
    }

    /// The text of a file; nothing if this kernel does not have it, or does not tell it.
    pub(crate) fn read(&mut self, name: &str) -> Result<Option<&str>> {
        match self.fill(name) {
            Ok(length) => Ok(std::str::from_utf8(&self.buffer[..length]).ok()),
            // ENODEV: the group went away; the caller finds out by `check`. EOPNOTSUPP: switched
            // off, as pressure figures can be.
            Err(Errno::NOENT | Errno::NODEV | Errno::OPNOTSUPP) => Ok(None),
            Err(errno) => Err(Error::new("read", self.path.join(name), errno)),
        }
    }

    fn fill(&mut self, name: &str) -> Result<usize, Errno> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.descriptor, name, flags, Mode::empty())?;
        let mut length = 0;
        loop {
            if length == self.buffer.len() {
                if length >= MAX_BYTES {
                    return Ok(length);
                }
                self.buffer.resize(length * 4, 0);
            }
            match rustix::io::read(&file, &mut self.buffer[length..]) {
                Ok(0) => return Ok(length),
                Ok(more) => {
                    length += more;
                    // A file that left room is complete: kernel files come in one piece.
                    if length < self.buffer.len() {
                        return Ok(length);
                    }
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    /// An error if the group has been removed since the folder was opened.
    pub(crate) fn check(&self) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.descriptor, "cgroup.procs", flags, Mode::empty()) {
            Ok(_) => Ok(()),
            Err(errno) => Err(Error::new("open", &self.path, errno)),
        }
    }

    /// True if the folder has a file of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        rustix::fs::accessat(
            &self.descriptor,
            name,
            rustix::fs::Access::EXISTS,
            rustix::fs::AtFlags::empty(),
        )
        .is_ok()
    }

    /// The number in a file; `None` if there is no such file, `max` is the largest number.
    pub(crate) fn number(&mut self, name: &str) -> Result<Option<u64>> {
        Ok(self.read(name)?.and_then(crate::parse::number))
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}
