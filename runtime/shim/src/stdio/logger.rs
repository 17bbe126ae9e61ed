//! `binary://`: a program of the user that reads a process's output.
//!
//! It gets standard output as descriptor 3, standard error as 4, and closes or writes to 5 when it
//! is ready; its environment is the container's id and namespace.

use std::io;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use base_errors::{Error, Result, ResultExt};
use runtime_runc::ExitWatch;
use rustix::pipe::{PipeFlags, pipe_with};

use super::{Owner, copy};

/// How long a logger may take until it is ready.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a logger may take to write what it has read, once the streams have ended.
const FINISH_TIMEOUT: Duration = Duration::from_secs(2);

/// How long it may take to end after SIGTERM, before it is killed. As in containerd.
const TERMINATE_TIMEOUT: Duration = Duration::from_secs(12);

/// A running logger.
#[derive(Debug)]
pub(crate) struct Logger {
    pid: i32,
    exit: Option<ExitWatch>,
}

/// What a user asks to be run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Program<'a> {
    pub(crate) program: &'a str,
    pub(crate) arguments: &'a [String],
    pub(crate) environment: &'a [(String, String)],
}

/// A logger that is ready, and the ends of its pipes.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) logger: Logger,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// Runs a logger and waits until it is ready.
///
/// # Errors
/// If it cannot be started, ends at once or is not ready in time; then none is left.
pub(crate) async fn start(program: Program<'_>, owner: &Owner<'_>) -> Result<Started> {
    let Program { program, arguments, environment } = program;
    let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(io::Error::from);
    let (stdout_reader, stdout) = pipe()?;
    let (stderr_reader, stderr) = pipe()?;
    let (ready, ready_writer) = pipe()?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(environment.iter().map(|(name, value)| (name, value)))
        // Nobody else says for whom it logs.
        .env("CONTAINER_ID", owner.id)
        .env("CONTAINER_NAMESPACE", owner.namespace)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let descriptors = vec![(stdout_reader, 3), (stderr_reader, 4), (ready_writer, 5)];
    kernel_process::map_descriptors(&mut command, descriptors)?;
    let spawned = owner.reaper.spawn(&mut command);
    // The logger alone holds its ends.
    drop(command);
    let (pid, exit) = spawned.context("failed to start binary process")?;
    let mut logger = Logger { pid, exit: Some(exit) };

    rustix::io::ioctl_fionbio(&ready, true).map_err(io::Error::from)?;
    let ready = copy::source(ready)?;
    let signal = async {
        // A byte, or the end of the pipe.
        loop {
            let mut guard = ready.readable().await?;
            let mut byte = [0];
            match guard.try_io(|pipe| Ok(rustix::io::read(pipe.get_ref(), &mut byte)?)) {
                Ok(result) => return result.map(drop),
                Err(_would_block) => {}
            }
        }
    };
    match tokio::time::timeout(READY_TIMEOUT, signal).await {
        Ok(Ok(())) => Ok(Started { logger, stdout, stderr }),
        Ok(Err(error)) => {
            logger.kill();
            Err(error).context("failed to read from logging binary")
        }
        Err(_) => {
            logger.kill();
            let reason = format!("logging binary {program} was not ready in time");
            Err(Error::deadline_exceeded(reason))
        }
    }
}

impl Logger {
    /// Waits until the logger has read the end of its streams and ended; asks it to, and at last
    /// kills it.
    pub(crate) async fn finish(&mut self) {
        for (patience, signal) in [(FINISH_TIMEOUT, 15), (TERMINATE_TIMEOUT, 9)] {
            let Some(exit) = &mut self.exit else { return };
            if tokio::time::timeout(patience, exit).await.is_ok() {
                self.exit = None;
                return;
            }
            let _ = kernel_process::send_signal(self.pid, signal);
        }
        self.exit = None;
    }

    fn kill(&mut self) {
        if let Some(mut exit) = self.exit.take()
            && exit.try_recv().is_err()
        {
            // INVARIANT: its exit is not collected yet, so the pid is still this logger's.
            let _ = kernel_process::send_signal(self.pid, 9);
        }
    }
}

impl Drop for Logger {
    fn drop(&mut self) {
        self.kill();
    }
}
