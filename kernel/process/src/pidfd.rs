//! Processes by descriptor.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};

use crate::signal::to_signal;
use crate::{Error, Exit, Result};

/// A process by descriptor. The descriptor becomes readable when the process ends, so that it fits
/// into any event loop. It never comes to mean another process.
#[derive(Debug)]
pub struct PidFd {
    descriptor: OwnedFd,
    pid: i32,
}

impl PidFd {
    /// Opens the process with this id. A process that has ended but has not been reaped counts.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none.
    pub fn open(pid: i32) -> Result<Self> {
        let id = process_id(pid)?;
        // EINVAL is what the kernel says of an id that is a thread's.
        let descriptor = pidfd_open(id, PidfdFlags::empty()).map_err(|errno| match errno {
            Errno::INVAL => Error::NotFound { pid },
            errno => Error::system("pidfd_open", pid)(errno),
        })?;
        Ok(PidFd { descriptor, pid })
    }

    /// The process id, for messages and records.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Sends a signal by its number.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the process has been reaped, [`Error::UnknownSignal`].
    pub fn send_signal(&self, signal: i32) -> Result<()> {
        pidfd_send_signal(&self.descriptor, to_signal(signal)?)
            .map_err(Error::system("pidfd_send_signal", self.pid))
    }

    /// Sends SIGKILL.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the process has been reaped.
    pub fn kill(&self) -> Result<()> {
        self.send_signal(libc::SIGKILL)
    }

    /// True if the process has ended, reaped or not.
    ///
    /// # Errors
    /// The system's, of `poll`.
    pub fn has_exited(&self) -> Result<bool> {
        self.wait_gone(Some(Duration::ZERO))
    }

    /// Waits until the process has ended; it need not be a child, and it is not reaped. `None` as
    /// timeout waits as long as it takes. False if the time ran out.
    ///
    /// # Errors
    /// The system's, of `poll`.
    pub fn wait_gone(&self, timeout: Option<Duration>) -> Result<bool> {
        let deadline = timeout.and_then(|timeout| std::time::Instant::now().checked_add(timeout));
        loop {
            let left = deadline
                .map(|deadline| deadline.saturating_duration_since(std::time::Instant::now()))
                .map(|left| Timespec {
                    tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                    tv_nsec: i64::from(left.subsec_nanos()),
                });
            let mut polled = [PollFd::new(&self.descriptor, PollFlags::IN)];
            match poll(&mut polled, left.as_ref()) {
                Ok(0) => return Ok(false),
                Ok(_) => return Ok(true),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::system("poll", self.pid)(errno)),
            }
        }
    }

    /// Reaps the process if it is a child that has ended; nothing if it still runs.
    ///
    /// # Errors
    /// [`Error::NotChild`] if it is no child, or was reaped before.
    pub fn try_wait(&self) -> Result<Option<Exit>> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        loop {
            match waitid(WaitId::PidFd(self.descriptor.as_fd()), options) {
                Ok(None) => return Ok(None),
                Ok(Some(status)) => return Ok(Exit::from_wait(&status)),
                Err(Errno::INTR) => {}
                Err(Errno::CHILD) => return Err(Error::NotChild { pid: self.pid }),
                Err(errno) => return Err(Error::system("waitid", self.pid)(errno)),
            }
        }
    }

    /// Waits for a child to end, and reaps it. Nothing if the time ran out.
    ///
    /// # Errors
    /// [`Error::NotChild`] if it is no child, or was reaped before.
    pub fn wait_exit(&self, timeout: Option<Duration>) -> Result<Option<Exit>> {
        if !self.wait_gone(timeout)? {
            return Ok(None);
        }
        self.try_wait()
    }
}

/// The id of one process. 0 and negative numbers would mean groups of processes.
pub(crate) fn process_id(pid: i32) -> Result<Pid> {
    Some(pid).filter(|pid| *pid > 0).and_then(Pid::from_raw).ok_or(Error::NotFound { pid })
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl AsRawFd for PidFd {
    fn as_raw_fd(&self) -> RawFd {
        self.descriptor.as_raw_fd()
    }
}

impl From<PidFd> for OwnedFd {
    fn from(process: PidFd) -> Self {
        process.descriptor
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[expect(clippy::cast_possible_wrap, reason = "process ids are positive")]
    fn start(script: &str) -> PidFd {
        let child = Command::new("/bin/sh").args(["-c", script]).stdin(Stdio::null()).spawn();
        // The handle does not reap; the descriptor does.
        PidFd::open(child.expect("sh").id() as i32).expect("pidfd")
    }

    #[test]
    fn a_child_is_reaped_once_with_its_status() {
        let child = start("exit 7");
        let exit = child.wait_exit(None).expect("wait").expect("ended");
        assert_eq!(exit, Exit::with_code(7));
        assert!(child.has_exited().expect("poll"));
        assert!(matches!(child.try_wait(), Err(Error::NotChild { .. })));
        assert!(matches!(child.send_signal(9), Err(Error::NotFound { .. })));
    }

    #[test]
    fn a_signal_is_told_as_128_and_its_number() {
        let child = start("exec sleep 1000");
        assert_eq!(child.try_wait().expect("wait"), None);
        assert!(!child.wait_gone(Some(Duration::from_millis(1))).expect("poll"));
        child.send_signal(libc::SIGKILL).expect("kill");
        let exit = child.wait_exit(None).expect("wait").expect("ended");
        assert_eq!((exit.status, exit.signal), (137, Some(libc::SIGKILL)));
    }

    #[test]
    fn no_process_has_these_ids() {
        for pid in [0, -1, i32::MAX] {
            assert!(matches!(PidFd::open(pid), Err(Error::NotFound { .. })), "{pid}");
        }
        // Not a child, and alive.
        let init = PidFd::open(1).expect("pid 1");
        assert!(matches!(init.try_wait(), Err(Error::NotChild { pid: 1 })));
    }
}
