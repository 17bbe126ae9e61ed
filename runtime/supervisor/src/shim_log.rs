//! What shims log: a fifo in each bundle, copied to the daemon's standard error.

use std::path::Path;

use rustix::fs::{CWD, FileType, Mode};
use rustix::io::Errno;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe;

use crate::BundleError;

/// Mode of the fifo, as containerd's.
const FIFO_MODE: u32 = 0o700;
/// One read of the fifo; a shim logs a line at a time.
const CHUNK: usize = 4096;

/// Makes the fifo, or opens the one that is there. It is held open for both directions, so that
/// shims may come and go, and none is ever killed because nobody reads.
pub(crate) fn open(path: &Path) -> Result<pipe::Receiver, BundleError> {
    let mode = Mode::from_raw_mode(FIFO_MODE);
    match rustix::fs::mknodat(CWD, path, FileType::Fifo, mode, 0) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(BundleError::path("mkfifo", path, errno)),
    }
    pipe::OpenOptions::new()
        .read_write(true)
        .open_receiver(path)
        .map_err(|error| BundleError::path("open", path, error))
}

/// Copies until dropped or the fifo fails.
pub(crate) async fn copy(mut fifo: pipe::Receiver) {
    let mut chunk = vec![0; CHUNK];
    let mut stderr = tokio::io::stderr();
    while let Ok(length) = fifo.read(&mut chunk).await {
        if length == 0 {
            return;
        }
        // A daemon without standard error still has to empty the fifo.
        let _ = stderr.write_all(&chunk[..length]).await;
        let _ = stderr.flush().await;
    }
}
