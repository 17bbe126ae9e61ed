//! One process of a container, the init process or an exec: its state, its streams, its exit.

use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use api_shim::process::Status;
use base_errors::{Class, Error, Result};
use kernel_process::PidFd;
use tokio::sync::watch;

use crate::lock;
use crate::stdio::{Endpoints, ProcessIo};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) status: u32,
    /// `None` for a process that never ran.
    pub(crate) at: Option<SystemTime>,
}

/// Where a process is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Created,
    Running,
    Pausing,
    Paused,
    Stopped,
    Deleted,
}

/// A process.
pub(crate) struct Process {
    /// The container's id, or the exec's.
    pub(crate) id: String,
    pub(crate) endpoints: Endpoints,
    /// The OCI process of an exec, as JSON; empty for an init process.
    pub(crate) spec: Vec<u8>,
    state: Mutex<State>,
    ended: watch::Sender<Option<Ended>>,
    /// Held by one who changes the process, across calls of the runtime. Nobody who only looks, or
    /// sends a signal, takes it.
    pub(crate) change: tokio::sync::Mutex<()>,
    /// Held while the process is started, until its start is announced: its exit comes after it.
    pub(crate) starting: tokio::sync::Mutex<()>,
}

struct State {
    phase: Phase,
    pid: i32,
    /// The process itself, for signals: its pid may be another's as soon as its exit is collected.
    handle: Option<Arc<PidFd>>,
    io: Option<ProcessIo>,
    /// The client has closed the input, maybe before there were streams.
    stdin_closed: bool,
}

impl Process {
    /// A process that is made but does not run.
    pub(crate) fn new(id: String, endpoints: Endpoints, spec: Vec<u8>) -> Arc<Self> {
        Arc::new(Process {
            id,
            endpoints,
            spec,
            state: Mutex::new(State {
                phase: Phase::Created,
                pid: 0,
                handle: None,
                io: None,
                stdin_closed: false,
            }),
            ended: watch::Sender::new(None),
            change: tokio::sync::Mutex::default(),
            starting: tokio::sync::Mutex::default(),
        })
    }

    pub(crate) fn phase(&self) -> Phase {
        lock(&self.state).phase
    }

    /// Moves on, unless the process has ended meanwhile: nothing leads back from there.
    pub(crate) fn advance(&self, phase: Phase) {
        let mut state = lock(&self.state);
        let ended = matches!(state.phase, Phase::Stopped | Phase::Deleted);
        if !ended || phase == Phase::Deleted {
            state.phase = phase;
        }
    }

    /// The pid; 0 before there is one.
    pub(crate) fn pid(&self) -> i32 {
        lock(&self.state).pid
    }

    /// The pid as it goes over the wire.
    pub(crate) fn wire_pid(&self) -> u32 {
        u32::try_from(self.pid()).unwrap_or_default()
    }

    pub(crate) fn set_process(&self, process: Arc<PidFd>) {
        let mut state = lock(&self.state);
        state.pid = process.pid();
        state.handle = Some(process);
    }

    /// The process itself, once it is known.
    pub(crate) fn handle(&self) -> Option<Arc<PidFd>> {
        lock(&self.state).handle.clone()
    }

    /// Sends a signal to this very process.
    ///
    /// # Errors
    /// Not found if it has ended; invalid argument if there is no such signal.
    pub(crate) fn signal(&self, signal: u32) -> Result<()> {
        let number = i32::try_from(signal)
            .map_err(|_| Error::invalid_argument(format!("unknown signal \"{signal}\"")))?;
        let Some(handle) = self.handle().filter(|_| self.ended().is_none()) else {
            return Err(finished());
        };
        handle.send_signal(number).map_err(|error| {
            let error = Error::from(error);
            if error.is_not_found() { finished() } else { error }
        })
    }

    /// True if the process runs: it was made, and is not dead.
    pub(crate) fn is_alive(&self) -> bool {
        let handle = lock(&self.state).handle.clone();
        handle.is_some_and(|handle| !handle.has_exited().unwrap_or(true))
    }

    pub(crate) fn set_io(&self, mut io: ProcessIo) {
        let mut state = lock(&self.state);
        if state.stdin_closed {
            io.close_stdin();
        }
        state.io = Some(io);
    }

    /// Ends the input once its client has closed it as well. A client may say so while the process
    /// is still being started: the fifo is open by then, and a short input is through.
    pub(crate) fn close_stdin(&self) {
        let mut state = lock(&self.state);
        state.stdin_closed = true;
        if let Some(io) = &mut state.io {
            io.close_stdin();
        }
    }

    pub(crate) fn take_io(&self) -> Option<ProcessIo> {
        lock(&self.state).io.take()
    }

    /// Looks at the streams, if there are any.
    pub(crate) fn with_io<T>(&self, look: impl FnOnce(&mut ProcessIo) -> T) -> Option<T> {
        lock(&self.state).io.as_mut().map(look)
    }

    /// Notes the end and wakes all who wait.
    pub(crate) fn set_ended(&self, ended: Ended) {
        {
            let mut state = lock(&self.state);
            if state.phase != Phase::Deleted {
                state.phase = Phase::Stopped;
            }
        }
        self.ended.send_if_modified(|known| {
            let first = known.is_none();
            if first {
                *known = Some(ended);
            }
            first
        });
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&self) -> Option<Ended> {
        *self.ended.borrow()
    }

    /// Waits for the end.
    pub(crate) async fn wait(&self) -> Ended {
        let mut ended = self.ended.subscribe();
        match ended.wait_for(Option::is_some).await {
            Ok(ended) => ended.unwrap_or(Ended { status: 255, at: None }),
            // INVARIANT: the sender lives as long as `self`.
            Err(_) => Ended { status: 255, at: None },
        }
    }

    /// The state as it goes over the wire.
    pub(crate) fn status(&self) -> Status {
        match self.phase() {
            Phase::Created => Status::Created,
            Phase::Running => Status::Running,
            Phase::Pausing => Status::Pausing,
            Phase::Paused => Status::Paused,
            Phase::Stopped | Phase::Deleted => Status::Stopped,
        }
    }

    /// Checks that `operation` is possible now.
    ///
    /// # Errors
    /// In containerd's words, with its classes.
    pub(crate) fn check(&self, operation: Operation) -> Result<()> {
        operation.check(self.phase())
    }
}

/// What a signal for a dead process is answered with.
pub(crate) fn finished() -> Error {
    runtime_runc::Error::Finished.into()
}

/// What can be asked of a process in some states only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Start,
    Delete,
    Pause,
    Resume,
    Checkpoint,
    Update,
    Exec,
}

impl Operation {
    fn check(self, phase: Phase) -> Result<()> {
        use Operation::{Checkpoint, Delete, Exec, Pause, Resume, Start, Update};
        let refuse = |text: &str| Err(Error::unknown(text));
        match (self, phase) {
            (Start, Phase::Created)
            | (Delete, Phase::Created | Phase::Stopped)
            | (Pause, Phase::Running)
            | (Resume, Phase::Paused)
            | (Checkpoint, Phase::Running | Phase::Paused)
            | (Update, Phase::Created | Phase::Running | Phase::Pausing | Phase::Paused)
            | (Exec, Phase::Created | Phase::Running) => Ok(()),

            (Start, Phase::Running) => refuse("cannot start a running process"),
            (Start, Phase::Pausing | Phase::Paused) => refuse("cannot start a paused process"),
            (Start, Phase::Stopped) => refuse("cannot start a stopped process"),
            (Start, Phase::Deleted) => refuse("cannot start a deleted process"),
            (Delete, Phase::Running) => refuse("cannot delete a running process"),
            (Delete, Phase::Pausing | Phase::Paused) => refuse("cannot delete a paused process"),
            (Delete, Phase::Deleted) => {
                Err(Error::new(Class::NotFound, "cannot delete a deleted process"))
            }
            (Pause, Phase::Created) => refuse("cannot pause task in created state"),
            (Pause, Phase::Pausing | Phase::Paused) => refuse("cannot pause a paused container"),
            (Pause, Phase::Stopped) => refuse("cannot pause a stopped container"),
            (Pause, Phase::Deleted) => refuse("cannot pause a deleted process"),
            (Resume, Phase::Created) => refuse("cannot resume task in created state"),
            (Resume, Phase::Running) => refuse("cannot resume a running process"),
            (Resume, Phase::Pausing) => refuse("cannot resume a pausing process"),
            (Resume, Phase::Stopped) => refuse("cannot resume a stopped container"),
            (Resume, Phase::Deleted) => refuse("cannot resume a deleted process"),
            (Checkpoint, Phase::Created) => refuse("cannot checkpoint a task in created state"),
            (Checkpoint, Phase::Pausing) => refuse("cannot checkpoint a pausing container"),
            (Checkpoint, Phase::Stopped) => refuse("cannot checkpoint a stopped container"),
            (Checkpoint, Phase::Deleted) => refuse("cannot checkpoint a deleted process"),
            (Update, Phase::Stopped) => refuse("cannot update a stopped container"),
            (Update, Phase::Deleted) => refuse("cannot update a deleted process"),
            (Exec, Phase::Pausing | Phase::Paused) => refuse("cannot exec in a paused state"),
            (Exec, Phase::Stopped) => refuse("cannot exec in a stopped state"),
            (Exec, Phase::Deleted) => refuse("cannot exec in a deleted state"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_refuse_in_containerds_words() {
        let process = Process::new("a".to_owned(), Endpoints::default(), Vec::new());
        assert_eq!(
            process.check(Operation::Pause).unwrap_err().to_string(),
            "cannot pause task in created state"
        );
        process.advance(Phase::Running);
        assert_eq!(
            process.check(Operation::Delete).unwrap_err().to_string(),
            "cannot delete a running process"
        );
        process.set_ended(Ended { status: 0, at: None });
        process.advance(Phase::Running);
        assert_eq!(process.phase(), Phase::Stopped, "nothing leads back");
        process.advance(Phase::Deleted);
        let error = process.check(Operation::Delete).unwrap_err();
        assert_eq!(error.to_string(), "cannot delete a deleted process: not found");
    }
}
