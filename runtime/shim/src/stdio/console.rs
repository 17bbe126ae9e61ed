//! Terminals: the socket over which the runtime sends one, and its size.

use std::fs::{self, DirBuilder};
use std::io::{self, IoSliceMut};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use base_errors::{Error, Result, ResultExt};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::termios::Winsize;
use tokio::io::Interest;
use tokio::net::UnixListener;

/// How long a runtime that has succeeded may take to hand over the terminal: it has sent it before
/// it ended.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Makes the names of sockets distinct within this process.
static COUNTER: AtomicU32 = AtomicU32::new(0);

/// A socket in a folder of its own, both of which go with it.
#[derive(Debug)]
pub(crate) struct ConsoleSocket {
    listener: UnixListener,
    folder: PathBuf,
    path: PathBuf,
}

impl ConsoleSocket {
    /// Listens.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn bind() -> Result<Self> {
        let base = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let base = base.filter(|path| path.is_dir()).unwrap_or_else(std::env::temp_dir);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let folder = base.join(format!("pty-{}-{number}", std::process::id()));
        // A shim of the same pid that was killed may have left one.
        let _ = fs::remove_dir_all(&folder);
        DirBuilder::new().mode(0o700).create(&folder)?;
        let path = folder.join("pty.sock");
        match UnixListener::bind(&path) {
            Ok(listener) => Ok(ConsoleSocket { listener, folder, path }),
            Err(error) => {
                let _ = fs::remove_dir(&folder);
                Err(error.into())
            }
        }
    }

    /// What the runtime is told.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the terminal's controlling end, which does not block.
    ///
    /// # Errors
    /// Deadline exceeded if none comes; the system's.
    pub(crate) async fn receive(&self) -> Result<OwnedFd> {
        tokio::time::timeout(RECEIVE_TIMEOUT, self.accept())
            .await
            .map_err(|_| Error::deadline_exceeded("the runtime sent no terminal"))?
            .context("receive terminal")
    }

    async fn accept(&self) -> io::Result<OwnedFd> {
        let (stream, _) = self.listener.accept().await?;
        loop {
            stream.readable().await?;
            match stream.try_io(Interest::READABLE, || receive_descriptor(&stream)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }
}

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
        let _ = fs::remove_dir(&self.folder);
    }
}

fn receive_descriptor(stream: &tokio::net::UnixStream) -> io::Result<OwnedFd> {
    let mut name = [0; 4096];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    recvmsg(
        stream,
        &mut [IoSliceMut::new(&mut name)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
    )?;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message
            && let Some(descriptor) = descriptors.next()
        {
            rustix::io::ioctl_fionbio(&descriptor, true)?;
            return Ok(descriptor);
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "a message without a descriptor"))
}

/// Sets the size of a terminal, in characters.
///
/// # Errors
/// The system's.
pub(crate) fn resize(terminal: &OwnedFd, width: u32, height: u32) -> Result<()> {
    let cells = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
    let size = Winsize { ws_row: cells(height), ws_col: cells(width), ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(terminal, size).map_err(io::Error::from)?;
    Ok(())
}
