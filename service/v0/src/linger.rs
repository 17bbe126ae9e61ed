//! Output that nobody has read when its process ends.
//!
//! 0.2 did not start a process before somebody had opened its fifos. Ours starts it at once; what
//! it wrote is in the fifos then, for as long as somebody has them open. While the process lives
//! that is the shim. When it has ended, fifos with unread output are held open here until they are
//! read, for a bounded time, so that a client that comes late can open them and finds what was
//! written, and then its end.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::OFlags;
use tokio::time::{Instant, sleep};

use crate::process::{NULL, Stdio};

/// How long unread output waits for a reader.
const LIMIT: Duration = Duration::from_secs(60);
/// Between two looks whether it has been read.
const PACE: Duration = Duration::from_millis(20);
/// The most ends that are held; beyond it output is lost as if there were no such care.
const MAX_HELD: usize = 1024;

/// Fifos, opened for both directions while the shim still has them.
#[derive(Debug, Default)]
pub(crate) struct Ends(Vec<OwnedFd>);

impl Ends {
    /// Opens the fifos of a process's output. Never waits; other files are left out.
    pub(crate) fn open(stdio: &Stdio) -> Self {
        let mut ends = Vec::new();
        for path in [&stdio.stdout, &stdio.stderr] {
            if path == NULL || path.contains("://") {
                continue;
            }
            let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
            if !fs::metadata(path).is_ok_and(|file| file.file_type().is_fifo()) {
                continue;
            }
            // Without an end for writing nobody could open the other one.
            let mut options = File::options();
            options.read(true).write(true).custom_flags(flags);
            if let Ok(file) = options.open(path)
                && file.metadata().is_ok_and(|file| file.file_type().is_fifo())
            {
                ends.push(OwnedFd::from(file));
            }
        }
        Ends(ends)
    }

    fn keep_unread(&mut self) {
        self.0.retain(|end| rustix::io::ioctl_fionread(end).unwrap_or(0) > 0);
    }
}

/// Holds ends until they are read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Linger {
    held: Arc<Mutex<Vec<(Instant, Ends)>>>,
}

impl Linger {
    /// Takes fifos that the shim has closed; gives what has to run so that they are let go, if
    /// nothing runs for that yet.
    pub(crate) fn hold(&self, mut ends: Ends) -> Option<impl Future<Output = ()> + Send + use<>> {
        ends.keep_unread();
        if ends.0.is_empty() {
            return None;
        }
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.iter().map(|(_, ends)| ends.0.len()).sum::<usize>() >= MAX_HELD {
            tracing::warn!("unread output of an ended process is given up");
            return None;
        }
        let idle = held.is_empty();
        held.push((Instant::now() + LIMIT, ends));
        drop(held);
        let all = self.clone();
        idle.then_some(async move { all.run().await })
    }

    async fn run(&self) {
        loop {
            sleep(PACE).await;
            let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            held.retain_mut(|(until, ends)| {
                ends.keep_unread();
                !ends.0.is_empty() && *until > now
            });
            if held.is_empty() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    #[tokio::test]
    async fn unread_output_stays_until_it_is_read() {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = folder.path().join("stdout");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        let name = path.to_str().unwrap();
        let stdio = Stdio::new("", name, "/etc/passwd");
        let mut both = File::options().read(true).write(true).open(&path).unwrap();
        both.write_all(b"last words").unwrap();
        let ends = Ends::open(&stdio);
        assert_eq!(ends.0.len(), 1);
        drop(both);
        let linger = Linger::default();
        let run = linger.hold(ends).unwrap();
        let late = std::thread::spawn(move || {
            let mut text = String::new();
            File::open(&path).unwrap().read_to_string(&mut text).unwrap();
            text
        });
        // It ends by itself once everything is read, and so does what is read.
        run.await;
        assert_eq!(late.join().unwrap(), "last words");
        assert!(linger.held.lock().unwrap().is_empty());
        assert!(linger.hold(Ends::default()).is_none());
    }
}
