//! The threads' work.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use base_errors::{Error, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

/// As much as a pipe holds.
const BLOCK: usize = 64 << 10;

/// A pipe whose second end, when it is dropped, wakes who polls the first.
pub(super) fn cancel_pipe() -> Result<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|errno| Error::from(std::io::Error::from(errno)).context("pipe"))
}

/// True when `fd` has something of `wanted`, false when it is cancelled and has nothing.
fn ready(fd: &OwnedFd, wanted: PollFlags, cancel: &OwnedFd) -> bool {
    loop {
        let mut fds = [
            PollFd::from_borrowed_fd(fd.as_fd(), wanted),
            PollFd::from_borrowed_fd(cancel.as_fd(), PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Ok(_) if !fds[0].revents().is_empty() => return true,
            Ok(_) if !fds[1].revents().is_empty() => return false,
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// Copies the pipe to `sink` until its writers are gone, or it is cancelled and empty. Output that
/// the sink does not take is dropped: the process must not be blocked by our reader.
pub(super) fn output(source: &OwnedFd, mut sink: Box<dyn Write + Send>, cancel: &OwnedFd) {
    let mut buffer = vec![0; BLOCK];
    let mut takes = true;
    while ready(source, PollFlags::IN, cancel) {
        match rustix::io::read(source, buffer.as_mut_slice()) {
            Ok(0) => break,
            Ok(count) if takes => {
                takes = sink.write_all(&buffer[..count]).and_then(|()| sink.flush()).is_ok();
            }
            Ok(_) | Err(Errno::INTR | Errno::AGAIN) => {}
            Err(_) => break,
        }
    }
}

/// Copies `source` to the pipe until the source is at its end, or it is cancelled.
pub(super) fn input(mut source: Box<dyn Read + Send>, sink: &OwnedFd, cancel: &OwnedFd) {
    let mut buffer = vec![0; BLOCK];
    loop {
        let mut rest = match source.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => &buffer[..count],
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        while !rest.is_empty() {
            match rustix::io::write(sink, rest) {
                Ok(count) => rest = &rest[count..],
                Err(Errno::AGAIN) => {
                    if !ready(sink, PollFlags::OUT, cancel) {
                        return;
                    }
                }
                Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }
}
