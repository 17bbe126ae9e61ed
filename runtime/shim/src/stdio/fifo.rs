//! Fifos that outlive the one at their other end.
//!
//! The shim holds both ends of every fifo: a client may come late, leave and come back, and
//! neither side sees an end of file or a broken pipe that nobody meant.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;

/// A fifo with both of its ends, neither of which blocks.
#[derive(Debug)]
pub(crate) struct Fifo {
    /// The end for reading.
    pub(crate) reader: OwnedFd,
    /// The end for writing.
    pub(crate) writer: OwnedFd,
}

impl Fifo {
    /// Opens both ends. Never waits for anybody.
    ///
    /// # Errors
    /// The system's; `InvalidInput` if `path` is no fifo.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        // A reader of a fifo that does not block opens at once; with it, so does the writer.
        let reader = options(OFlags::NONBLOCK).read(true).open(path)?;
        if !reader.metadata()?.file_type().is_fifo() {
            let reason = format!("{} is not a fifo", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        // Through the descriptor: the path may name something else by now.
        let again = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&reader));
        let writer = options(OFlags::NONBLOCK).write(true).open(again)?;
        Ok(Fifo { reader: reader.into(), writer: writer.into() })
    }
}

fn options(flags: OFlags) -> OpenOptions {
    let mut options = File::options();
    options.custom_flags(i32::try_from(flags.bits()).unwrap_or_default());
    options
}

/// True if `path` exists and is a fifo.
pub(crate) fn is_fifo(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo())
}

/// What can be done with `descriptor` right now.
pub(crate) fn ready(descriptor: impl AsFd, wanted: PollFlags) -> PollFlags {
    let mut polled = [PollFd::new(&descriptor, wanted)];
    match poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
        Ok(_) => polled[0].revents(),
        Err(_) => PollFlags::empty(),
    }
}

/// How many bytes are in the pipe.
pub(crate) fn buffered(pipe: impl AsFd) -> u64 {
    rustix::io::ioctl_fionread(pipe).unwrap_or(0)
}
