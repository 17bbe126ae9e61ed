//! Fifos that outlive the one at their other end.
//!
//! The shim holds both ends of every fifo: a client may come late, leave and come back, and
//! neither side sees an end of file or a broken pipe that nobody meant.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
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
    /// True if somebody else had it open for reading already.
    pub(crate) met: bool,
}

impl Fifo {
    /// Opens both ends. Never waits for anybody.
    ///
    /// # Errors
    /// The system's; `InvalidInput` if `path` is no fifo.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let again = |file: &File| format!("/proc/self/fd/{}", file.as_raw_fd());
        let no_fifo = || {
            let reason = format!("{} is not a fifo", path.display());
            io::Error::new(io::ErrorKind::InvalidInput, reason)
        };
        let checked = |file: File| {
            let is_fifo = file.metadata()?.file_type().is_fifo();
            if is_fifo { Ok(file) } else { Err(no_fifo()) }
        };
        // A writer that does not block opens only if there is a reader; a reader opens at once.
        let first = options(OFlags::NONBLOCK).write(true).open(path);
        let met = first.is_ok();
        let (reader, writer) = match first {
            Ok(writer) => {
                let writer = checked(writer)?;
                // Through the descriptor: the path may name something else by now.
                (options(OFlags::NONBLOCK).read(true).open(again(&writer))?, writer)
            }
            Err(_) => {
                let reader = checked(options(OFlags::NONBLOCK).read(true).open(path)?)?;
                let writer = options(OFlags::NONBLOCK).write(true).open(again(&reader))?;
                (reader, writer)
            }
        };
        Ok(Fifo { reader: reader.into(), writer: writer.into(), met })
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
