//! What a process is connected to, and what is passed on while it runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use base_errors::{Error, Result};
use client::stdio::{Stdio, Streams};
use client::task::{Exit, Process};
use client::terminal::RawTerminal;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::Outcome;

/// Signals that are ours, not the container's: children, broken pipes, urgent data, terminal size.
const KEPT: [i32; 4] = [libc::SIGCHLD, libc::SIGPIPE, libc::SIGURG, libc::SIGWINCH];

/// Signals that cannot be caught, or mean a fault of our own.
const UNCATCHABLE: [i32; 8] = [
    libc::SIGKILL,
    libc::SIGSTOP,
    libc::SIGILL,
    libc::SIGFPE,
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGTRAP,
    libc::SIGABRT,
];

/// The last of the signals that have names; the others are for real-time programs.
const LAST_SIGNAL: i32 = 31;

/// Flags about streams, of several commands.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct StreamFlags {
    /// Log uri
    #[arg(long, value_name = "value", default_value = "", hide_default_value = true)]
    pub(crate) log_uri: String,
    /// Directory used for storing IO FIFOs
    #[arg(long, value_name = "value")]
    pub(crate) fifo_dir: Option<PathBuf>,
}

/// What a process is connected to.
pub(crate) struct Connected {
    /// For the client.
    pub(crate) stdio: Stdio,
    /// Our terminal, in raw mode, if the process has one.
    pub(crate) terminal: Option<Arc<RawTerminal>>,
}

impl StreamFlags {
    /// Chooses the streams. A process with a terminal takes ours.
    pub(crate) fn connect(&self, tty: bool, null: bool) -> Result<Connected> {
        if !self.log_uri.is_empty() {
            if !self.log_uri.contains("://") {
                let text = format!("log uri {:?}: want scheme://path", self.log_uri);
                return Err(Error::invalid_argument(text));
            }
            return Ok(Connected { stdio: Stdio::Uri(self.log_uri.clone()), terminal: None });
        }
        if null {
            return Ok(Connected { stdio: Stdio::Null, terminal: None });
        }
        let (streams, terminal) = own_streams(tty)?;
        let fifo_dir = self.fifo_dir.clone().unwrap_or_default();
        let streams = Streams { fifo_dir, ..streams };
        Ok(Connected { stdio: Stdio::Streams(streams), terminal })
    }
}

/// Our own streams; with `tty` the terminal that we were started in, made raw.
pub(crate) fn own_streams(tty: bool) -> Result<(Streams, Option<Arc<RawTerminal>>)> {
    if !tty {
        return Ok((Streams::inherited(), None));
    }
    let terminal = RawTerminal::take()?;
    let streams = Streams {
        stdin: Some(Box::new(terminal.file()?)),
        stdout: Some(Box::new(terminal.file()?)),
        stderr: None,
        terminal: true,
        fifo_dir: PathBuf::new(),
    };
    Ok((streams, Some(Arc::new(terminal))))
}

/// How a command goes on with a process that it has created.
#[derive(Debug, Default)]
pub(crate) struct Attendance<'a> {
    /// Where the number of the process goes before the start.
    pub(crate) pid_file: Option<&'a Path>,
    /// Leave the process alone once it runs.
    pub(crate) detach: bool,
}

/// Starts a process and, unless it is to be left alone, stays with it and deletes it after its end.
/// A process that cannot be started is deleted.
///
/// # Errors
/// Those of the start, of the wait and of the deletion.
pub(crate) async fn attend(
    mut process: Process,
    terminal: Option<Arc<RawTerminal>>,
    attendance: Attendance<'_>,
) -> Outcome {
    let started = async {
        if let Some(path) = attendance.pid_file {
            write_pid_file(path, process.pid())?;
        }
        tell_size(&process, terminal.as_deref()).await;
        process.start().await
    };
    if let Err(error) = started.await {
        // The error that counts is the first one.
        let _ = process.delete().await;
        return Err(error);
    }
    if attendance.detach {
        process.detach();
        return Ok(0);
    }
    let exit = accompany(&process, terminal.as_deref()).await;
    drop(terminal);
    let exit = exit?;
    process.delete().await?;
    Ok(exit_status(exit.status))
}

/// Writes the number of a process, whole or not at all.
fn write_pid_file(path: &Path, pid: u32) -> Result<()> {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    let temporary = path.with_file_name(name);
    std::fs::write(&temporary, pid.to_string())?;
    Ok(std::fs::rename(&temporary, path)?)
}

/// Tells a process that has not started the size of our terminal, so that it never sees another.
async fn tell_size(process: &Process, terminal: Option<&RawTerminal>) {
    if let Some((width, height)) = terminal.and_then(|terminal| terminal.size().ok()) {
        // A shim that has no terminal yet is told after the start.
        let _ = process.resize(width, height).await;
    }
}

/// Waits for the end of a process; meanwhile it gets our signals, or our terminal's size.
pub(crate) async fn accompany(process: &Process, terminal: Option<&RawTerminal>) -> Result<Exit> {
    let mut exit = std::pin::pin!(process.wait());
    let Some(terminal) = terminal else {
        let mut signals = all_signals()?;
        loop {
            tokio::select! {
                exit = &mut exit => return exit,
                Some(number) = signals.next() => {
                    if let Err(error) = process.kill(number, false).await
                        && !error.is_not_found()
                    {
                        crate::log::error(format!("forward signal {number}"), &error);
                    }
                }
            }
        }
    };
    let mut changes = signal(SignalKind::window_change())?;
    loop {
        // A size that cannot be told leaves the process with the one it has.
        if let Ok((width, height)) = terminal.size() {
            let _ = process.resize(width, height).await;
        }
        tokio::select! {
            exit = &mut exit => return exit,
            _ = changes.recv() => {}
        }
    }
}

/// All signals that can be passed on, as they come.
fn all_signals() -> Result<impl tokio_stream::Stream<Item = u32> + Unpin> {
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    for number in 1..=LAST_SIGNAL {
        if KEPT.contains(&number) || UNCATCHABLE.contains(&number) {
            continue;
        }
        let signals = signal(SignalKind::from_raw(number))?;
        let number = u32::try_from(number).unwrap_or_default();
        // Bounded by the kernel: signals of one kind do not queue up.
        tokio::spawn(pass_on(signals, number, sender.clone()));
    }
    Ok(UnboundedReceiverStream::new(receiver))
}

async fn pass_on(
    mut signals: Signal,
    number: u32,
    sender: tokio::sync::mpsc::UnboundedSender<u32>,
) {
    while signals.recv().await.is_some() {
        if sender.send(number).is_err() {
            return;
        }
    }
}

/// The status that we end with for a process that ended with `status`.
pub(crate) fn exit_status(status: u32) -> u8 {
    // As the kernel does with what a program gives to exit.
    u8::try_from(status & 0xff).unwrap_or(u8::MAX)
}

/// Blocks of a file that a thread reads: any file may block, and our own loop must not.
pub(crate) struct Blocks;

/// Bytes of one block.
const BLOCK: usize = 256 << 10;

/// Blocks that are read ahead.
const AHEAD: usize = 4;

impl Blocks {
    /// The bytes of `file`, read by a thread of their own.
    pub(crate) fn read(
        mut file: std::fs::File,
    ) -> impl tokio::io::AsyncRead + Unpin + Send + 'static {
        use std::io::Read as _;
        let (sender, receiver) = tokio::sync::mpsc::channel::<std::io::Result<bytes::Bytes>>(AHEAD);
        std::thread::spawn(move || {
            loop {
                let mut block = vec![0; BLOCK];
                let read = match file.read(&mut block) {
                    Ok(0) => return,
                    Ok(count) => {
                        block.truncate(count);
                        Ok(bytes::Bytes::from(block))
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                    Err(error) => Err(error),
                };
                let failed = read.is_err();
                if sender.blocking_send(read).is_err() || failed {
                    return;
                }
            }
        });
        tokio_util::io::StreamReader::new(tokio_stream::wrappers::ReceiverStream::new(receiver))
    }
}
