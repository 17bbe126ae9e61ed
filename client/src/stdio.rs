//! Standard streams of a process: named pipes between us and its shim, and threads that copy.
//!
//! Threads, because both ends may be anything that blocks: files, terminals, pipes. Each output
//! thread ends when the shim closes the pipe; all end when [`Attached`] is cancelled.

mod copy;
mod fifo;

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use base_errors::{Error, Result};
use tokio::sync::oneshot;

pub use fifo::Fifos;

/// The folder for named pipes where nobody names another.
pub const FIFO_DIR: &str = "/run/containerd/fifo";

/// Where a process's streams go.
pub enum Stdio {
    /// Nowhere: everything is discarded.
    Null,
    /// The shim writes both outputs there: `file:///path`, `binary:///program?arguments`.
    Uri(String),
    /// Through named pipes to here.
    Streams(Streams),
}

/// Streams of the caller's. What is absent is not connected.
#[derive(Default)]
pub struct Streams {
    /// What the process reads. Reading it may block for ever: its thread is not waited for.
    pub stdin: Option<Box<dyn Read + Send>>,
    /// Where its output goes; with a terminal, all of it.
    pub stdout: Option<Box<dyn Write + Send>>,
    /// Where its error output goes.
    pub stderr: Option<Box<dyn Write + Send>>,
    /// The process has a terminal; there is no error output then.
    pub terminal: bool,
    /// The folder for the pipes; [`FIFO_DIR`] if empty.
    pub fifo_dir: PathBuf,
}

impl Streams {
    /// The streams of this program itself.
    #[must_use]
    pub fn inherited() -> Streams {
        Streams {
            stdin: Some(Box::new(std::io::stdin())),
            stdout: Some(Box::new(unbuffered(std::io::stdout()))),
            stderr: Some(Box::new(unbuffered(std::io::stderr()))),
            terminal: false,
            fifo_dir: PathBuf::new(),
        }
    }
}

/// The file itself, without the buffer by lines; what cannot be duplicated is used as it is.
fn unbuffered<S: std::os::fd::AsFd + Write + Send + 'static>(stream: S) -> Box<dyn Write + Send> {
    match stream.as_fd().try_clone_to_owned() {
        Ok(fd) => Box::new(std::fs::File::from(fd)),
        Err(_) => Box::new(stream),
    }
}

/// Streams that are being copied.
#[derive(Default)]
pub struct Attached {
    fifos: Fifos,
    outputs: Vec<oneshot::Receiver<()>>,
    /// Our end of the input; while it is open, what was written is not lost.
    stdin: Option<Arc<OwnedFd>>,
    stdin_ended: Option<oneshot::Receiver<()>>,
    /// Dropping it ends the threads.
    cancel: Option<OwnedFd>,
}

impl Attached {
    /// Makes the pipes for the process `name` and begins to copy.
    ///
    /// # Errors
    /// If a folder, a pipe or a thread cannot be made; then nothing is left.
    pub fn new(stdio: Stdio, name: &str) -> Result<Attached> {
        match stdio {
            Stdio::Null => Ok(Attached::default()),
            Stdio::Uri(uri) => Ok(Attached {
                fifos: Fifos { stdout: uri.clone(), stderr: uri, ..Fifos::default() },
                ..Attached::default()
            }),
            Stdio::Streams(streams) => {
                let fifos = Fifos::create(&streams, name)?;
                Self::start(fifos, streams)
            }
        }
    }

    /// Begins to copy from and to the pipes of a process that runs.
    ///
    /// # Errors
    /// If a pipe cannot be opened or a thread cannot be made.
    pub fn existing(fifos: Fifos, streams: Streams) -> Result<Attached> {
        Self::start(fifos, streams)
    }

    fn start(fifos: Fifos, streams: Streams) -> Result<Attached> {
        let started = Self::start_threads(&fifos, streams);
        match started {
            Ok(attached) => Ok(Attached { fifos, ..attached }),
            Err(error) => {
                fifos.remove();
                Err(error)
            }
        }
    }

    fn start_threads(fifos: &Fifos, streams: Streams) -> Result<Attached> {
        let (wake, cancel) = copy::cancel_pipe()?;
        let wake = Arc::new(wake);
        let mut outputs = Vec::new();
        for (path, sink) in [(&fifos.stdout, streams.stdout), (&fifos.stderr, streams.stderr)] {
            if let Some(sink) = sink
                && !path.is_empty()
            {
                let (done, receiver) = oneshot::channel();
                let source = fifo::open_reader(path)?;
                let wake = Arc::clone(&wake);
                spawn("output", move || {
                    copy::output(&source, sink, &wake);
                    let _ = done.send(());
                })?;
                outputs.push(receiver);
            }
        }
        let mut attached = Attached { outputs, cancel: Some(cancel), ..Attached::default() };
        if let Some(source) = streams.stdin
            && !fifos.stdin.is_empty()
        {
            let (done, receiver) = oneshot::channel();
            let sink = Arc::new(fifo::open_writer(&fifos.stdin)?);
            attached.stdin = Some(Arc::clone(&sink));
            attached.stdin_ended = Some(receiver);
            spawn("input", move || {
                copy::input(source, &sink, &wake);
                drop(sink);
                let _ = done.send(());
            })?;
        }
        Ok(attached)
    }

    /// The names to give to the daemon.
    #[must_use]
    pub fn fifos(&self) -> &Fifos {
        &self.fifos
    }

    /// Takes out what ends with the input: it waits until the source is at its end and all is
    /// written, then closes our end. `None` without an input.
    pub(crate) fn take_input(&mut self) -> Option<impl Future<Output = ()> + Send + use<>> {
        let (held, ended) = (self.stdin.take()?, self.stdin_ended.take()?);
        Some(async move {
            let _ = ended.await;
            drop(held);
        })
    }

    /// Waits until both outputs are at their end.
    pub async fn wait(&mut self) {
        for output in &mut self.outputs {
            let _ = output.await;
        }
        self.outputs.clear();
    }

    /// Ends the copying; output that is in the pipes is still taken.
    pub async fn cancel(&mut self) {
        self.cancel = None;
        self.wait().await;
    }

    /// Leaves the pipes to whoever attaches next.
    pub fn detach(&mut self) {
        self.cancel = None;
    }

    /// Removes the pipes.
    pub fn remove(&self) {
        self.fifos.remove();
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map(drop)
        .map_err(|error| Error::from(error).context(format!("start the {name} thread")))
}
