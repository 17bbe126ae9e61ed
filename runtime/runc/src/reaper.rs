//! Exits of children and orphans, each collected once.
//!
//! One `SIGCHLD` may stand for many exits, so every signal makes a sweep over all of them. A
//! process is known to the reaper from the moment of its start ([`Reaper::spawn`]) or by
//! [`Reaper::adopt`]; what nobody owns is collected and forgotten. An adopted process is watched by
//! its descriptor as well: a debugger that traces it gets its end first and may sit on it, and the
//! signal would come when the debugger lets go, or never.

use std::collections::HashMap;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use kernel_process::PidFd;
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, WaitStatus, wait, waitpid};
use tokio::io::Interest;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, oneshot};

use crate::watch::watch;
use crate::{Error, Result};

/// The status of a process whose exit could be seen but not collected.
const UNKNOWN_STATUS: u32 = 255;

/// How long invocations may overlap before new ones let the others end first, so that orphans
/// without an owner are collected: zombies are cheap, but not free.
const CROWDED: Duration = Duration::from_secs(10);

/// How long they wait for that at most: one that hangs shall not stop the others.
const PATIENCE: Duration = Duration::from_secs(1);

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// Which one.
    pub pid: i32,
    /// Its exit code; 128 and the signal if it was killed.
    pub status: u32,
    /// When the exit was collected.
    pub at: SystemTime,
}

/// Resolves with the exit of one process.
///
/// It resolves with an error only if the reaper itself has gone.
pub type ExitWatch = oneshot::Receiver<Exit>;

/// A process that was taken over.
#[derive(Debug)]
pub struct Adopted {
    /// The process, for signals.
    pub process: Arc<PidFd>,
    /// Its exit.
    pub exit: ExitWatch,
}

/// The collector of exits. Cheap to clone; all clones are the same collector.
#[derive(Clone)]
pub struct Reaper {
    state: Arc<Mutex<State>>,
    /// Told when the last hold is dropped.
    free: Arc<Notify>,
}

#[derive(Default)]
struct State {
    owners: HashMap<i32, Owner>,
    /// How many invocations are running that will leave an orphan of interest.
    holds: usize,
    /// Since when there has always been one.
    held_since: Option<Instant>,
    /// Tells owners of the same pid apart.
    owned: u64,
}

struct Owner {
    number: u64,
    sender: oneshot::Sender<Exit>,
}

/// As long as it lives, processes without an owner stay uncollected: their pids cannot become
/// others'.
#[must_use]
pub struct Hold(Reaper);

// === impl Reaper ===

impl Reaper {
    /// Begins to listen for exits. Needs a running tokio runtime; at most one per process, since
    /// it collects all children.
    ///
    /// # Errors
    /// [`Error::System`] if the signal handler cannot be installed.
    pub fn install() -> Result<Self> {
        let mut signals = signal(SignalKind::child())
            .map_err(|source| Error::System { step: "listen for SIGCHLD", source })?;
        let reaper = Reaper { state: Arc::default(), free: Arc::default() };
        let sweeper = reaper.clone();
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                sweeper.lock().sweep();
            }
        });
        Ok(reaper)
    }

    /// Starts `command`; gives its pid and a watch on its exit.
    ///
    /// # Errors
    /// [`Error::ProgramMissing`] or [`Error::ProgramStart`].
    pub fn spawn(&self, command: &mut Command) -> Result<(i32, ExitWatch)> {
        let mut state = self.lock();
        let child = command.spawn().map_err(|source| {
            let program = command.get_program().to_string_lossy().into_owned();
            if source.kind() == std::io::ErrorKind::NotFound && !program.contains('/') {
                Error::ProgramMissing { program }
            } else {
                Error::ProgramStart { program, source }
            }
        })?;
        // A pid of Linux is a positive i32.
        let pid = i32::try_from(child.id()).unwrap_or(i32::MAX);
        let (_, exit) = state.own(pid);
        Ok((pid, exit))
    }

    /// Takes over a process that some program has left behind.
    ///
    /// If it is no child of this process, its end is still seen, with status 255.
    ///
    /// # Errors
    /// [`Error::System`] if there is no such process.
    pub fn adopt(&self, pid: i32) -> Result<Adopted> {
        let no_process =
            |errno: Errno| Error::System { step: "adopt a process", source: errno.into() };
        let raw = Pid::from_raw(pid).ok_or_else(|| no_process(Errno::SRCH))?;
        let process = PidFd::open(pid).map(Arc::new).map_err(|_| no_process(Errno::SRCH))?;
        let mut state = self.lock();
        let (number, exit) = state.own(pid);
        if let Ok(Some((_, status))) = waitpid(Some(raw), WaitOptions::NOHANG) {
            state.deliver(pid, Exit::now(pid, code(status)));
        } else if let Err(error) = self.follow(Arc::clone(&process), number) {
            state.owners.remove(&pid);
            return Err(error);
        }
        Ok(Adopted { process, exit })
    }

    /// Leaves unknown orphans uncollected until the [`Hold`] is dropped. Waits a moment where that
    /// has been so for long.
    pub async fn hold(&self) -> Hold {
        let free = self.free.notified();
        let crowded = self.lock().held_since.is_some_and(|since| since.elapsed() >= CROWDED);
        if crowded {
            // Whether it was in vain does not matter.
            let _ = tokio::time::timeout(PATIENCE, free).await;
        }
        let mut state = self.lock();
        state.holds += 1;
        state.held_since.get_or_insert_with(Instant::now);
        drop(state);
        Hold(self.clone())
    }

    /// Waits for the end of an adopted process by its descriptor.
    fn follow(&self, process: Arc<PidFd>, number: u64) -> Result<()> {
        let process = watch(process, Interest::READABLE)
            .map_err(|source| Error::System { step: "watch a process", source })?;
        let reaper = self.clone();
        tokio::spawn(async move {
            // It fails only when the poller goes: then nobody is left to be told.
            if process.readable().await.is_ok() {
                reaper.lock().ended(process.get_ref().pid(), number);
            }
        });
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.holds -= 1;
        if state.holds == 0 {
            state.held_since = None;
            state.sweep();
            self.0.free.notify_waiters();
        }
    }
}

// === impl Exit ===

impl Exit {
    fn now(pid: i32, status: u32) -> Self {
        Exit { pid, status, at: SystemTime::now() }
    }
}

// === impl State ===

impl State {
    fn own(&mut self, pid: i32) -> (u64, ExitWatch) {
        let (sender, exit) = oneshot::channel();
        self.owned += 1;
        let number = self.owned;
        self.owners.insert(pid, Owner { number, sender });
        (number, exit)
    }

    fn deliver(&mut self, pid: i32, exit: Exit) {
        if let Some(owner) = self.owners.remove(&pid) {
            // The owner may have lost interest.
            let _ = owner.sender.send(exit);
        }
    }

    fn sweep(&mut self) {
        if self.holds == 0 {
            while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
                let pid = pid.as_raw_nonzero().get();
                self.deliver(pid, Exit::now(pid, code(status)));
            }
            return;
        }
        let owned: Vec<i32> = self.owners.keys().copied().collect();
        for pid in owned {
            if let Ok(Some((_, status))) = waitpid(Pid::from_raw(pid), WaitOptions::NOHANG) {
                self.deliver(pid, Exit::now(pid, code(status)));
            }
        }
    }

    /// The descriptor of an adopted process says that it has ended.
    fn ended(&mut self, pid: i32, number: u64) {
        if self.owners.get(&pid).is_none_or(|owner| owner.number != number) {
            return;
        }
        let status = match waitpid(Pid::from_raw(pid), WaitOptions::NOHANG) {
            Ok(Some((_, status))) => code(status),
            // A debugger has it, or it is somebody else's child: its end can be read, as long as
            // nobody has collected it.
            Ok(None) | Err(_) => match kernel_process::zombie_exit(pid) {
                Ok(Some(exit)) => exit.status,
                Ok(None) | Err(_) => UNKNOWN_STATUS,
            },
        };
        self.deliver(pid, Exit::now(pid, status));
    }
}

/// The status as shells count it.
fn code(status: WaitStatus) -> u32 {
    let number = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => return UNKNOWN_STATUS,
    };
    u32::try_from(number).unwrap_or(UNKNOWN_STATUS)
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;
    use std::time::Duration;

    use super::*;

    /// Far longer than any of these processes lives.
    const PATIENCE: Duration = Duration::from_secs(60);

    /// One test: there is one reaper per process, which takes the children of all threads.
    #[tokio::test]
    async fn no_exit_is_lost_or_given_to_another() {
        let reaper = Reaper::install().unwrap();
        kernel_process::set_subreaper(true).unwrap();

        // Many at once: their signals coalesce.
        let mut exits = Vec::new();
        for number in 0..200_u32 {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", &format!("exit {}", number % 251)]);
            exits.push((number, reaper.spawn(&mut command).unwrap()));
        }
        for (number, (pid, exit)) in exits {
            let exit = tokio::time::timeout(PATIENCE, exit).await.unwrap().unwrap();
            assert_eq!((exit.pid, exit.status), (pid, number % 251));
        }
        let mut killed = Command::new("/bin/sh");
        killed.args(["-c", "kill -TERM $$"]);
        let (_, exit) = reaper.spawn(&mut killed).unwrap();
        assert_eq!(exit.await.unwrap().status, 128 + 15);

        // An orphan that has ended before its parent, and long before it is adopted.
        let hold = reaper.hold().await;
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let pid_file = folder.path().join("pid");
        let mut parent = Command::new("/bin/sh");
        parent.args(["-c", "sh -c 'echo $$ > $0; exit 42' \"$0\" & exit 0"]).arg(&pid_file);
        parent.stdin(Stdio::null());
        let (_, exit) = reaper.spawn(&mut parent).unwrap();
        assert_eq!(exit.await.unwrap().status, 0);
        let pid = loop {
            let text = std::fs::read_to_string(&pid_file).unwrap_or_default();
            match text.trim().parse::<i32>() {
                Ok(pid) => break pid,
                Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        };
        while !matches!(kernel_process::zombie_exit(pid), Ok(Some(_))) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // Others come and go meanwhile.
        let (_, other) = reaper.spawn(&mut Command::new("/bin/true")).unwrap();
        assert_eq!(other.await.unwrap().status, 0);
        let orphan = reaper.adopt(pid).unwrap();
        drop(hold);
        let exit = tokio::time::timeout(PATIENCE, orphan.exit).await.unwrap().unwrap();
        assert_eq!((exit.pid, exit.status), (pid, 42));
        assert!(reaper.adopt(pid).is_err(), "there is no such process any more");

        // An orphan that nobody wants is collected all the same.
        let _ = std::fs::remove_file(&pid_file);
        let mut parent = Command::new("/bin/sh");
        parent.args(["-c", "sh -c 'echo $$ > $0; sleep 0.05' \"$0\" & exit 0"]).arg(&pid_file);
        let (_, exit) = reaper.spawn(&mut parent).unwrap();
        exit.await.unwrap();
        let gone = async {
            loop {
                let text = std::fs::read_to_string(&pid_file).unwrap_or_default();
                if let Ok(pid) = text.trim().parse::<i32>()
                    && !std::path::Path::new(&format!("/proc/{pid}")).exists()
                {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, gone).await.unwrap();

        let missing = reaper.spawn(&mut Command::new("no-such-program-at-all")).unwrap_err();
        let text = "exec: \"no-such-program-at-all\": executable file not found in $PATH";
        assert_eq!(missing.to_string(), text);
    }
}
