//! Standard streams of a process: prepared before its runtime runs, copied while it lives.

mod console;
mod copy;
mod fifo;
mod logger;
mod uri;

use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base_errors::{Error, Result, ResultExt};
use runtime_runc::{Io, Reaper};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use self::console::ConsoleSocket;
use self::copy::{Sink, source};
use self::fifo::Fifo;
use self::logger::{Logger, Program};
use self::uri::Target;

/// How long the copying of a dead process's output may stand still before it is given up: a child
/// in the background may hold the pipe for ever. As in containerd, which does not look whether
/// bytes still move.
const STALL_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a reader of a deleted process's last output may take for it. Its process has gone, so
/// that is at most what a pipe and a fifo hold.
const REMAINDER_LIMIT: Duration = Duration::from_secs(30);

/// Where the streams of a process go, as the client told it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Endpoints {
    pub(crate) stdin: String,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) terminal: bool,
}

/// For whom streams are prepared.
pub(crate) struct Owner<'a> {
    /// The container's or the exec's id.
    pub(crate) id: &'a str,
    pub(crate) namespace: &'a str,
    /// Owner of the pipes, so that the process may open them anew through `/proc`.
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) reaper: &'a Reaper,
}

/// Whether output still moves, and how many streams have not ended.
#[derive(Debug)]
pub(crate) struct Activity {
    bytes: AtomicU64,
    open: Arc<watch::Sender<usize>>,
    /// True once the copies are to end with what is there.
    closing: watch::Sender<bool>,
}

/// The last output of deleted processes, which readers are still taking. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Remainders(Arc<watch::Sender<usize>>);

/// An open stream of output, counted as long as it lives.
pub(crate) struct OpenStream(Arc<watch::Sender<usize>>);

/// Streams that wait for their process.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// Source and sink of the output streams.
    outputs: Vec<(OwnedFd, Sink)>,
    /// The fifo and the pipe of the input.
    input: Option<(Fifo, Option<OwnedFd>)>,
    console: Option<ConsoleSocket>,
    logger: Option<Logger>,
}

/// The streams of a running process.
#[derive(Debug)]
pub(crate) struct ProcessIo {
    /// Of its output.
    copies: Vec<JoinHandle<()>>,
    /// Of its input.
    inputs: Vec<JoinHandle<()>>,
    activity: Arc<Activity>,
    /// Held so that a client may leave without ending the input.
    stdin: Option<OwnedFd>,
    console: Option<Arc<AsyncFd<OwnedFd>>>,
    logger: Option<Logger>,
}

// === impl Activity ===

impl Default for Activity {
    fn default() -> Self {
        Activity {
            bytes: AtomicU64::new(0),
            open: Arc::default(),
            closing: watch::Sender::new(false),
        }
    }
}

impl Activity {
    fn begin(&self) -> OpenStream {
        self.open.send_modify(|open| *open += 1);
        OpenStream(Arc::clone(&self.open))
    }

    fn moved(&self, count: usize) {
        self.bytes.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// Waits until the copies are to end.
    async fn closing(&self) {
        // INVARIANT: the sender lives as long as `self`.
        let _ = self.closing.subscribe().wait_for(|closing| *closing).await;
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}

// === impl Prepared ===

/// Opens everything that a process needs, and tells what its runtime shall give it. Nobody is
/// waited for but a logger of `binary://`.
///
/// # Errors
/// A path that cannot be opened, an unknown scheme, a logger that fails. Nothing is left then.
pub(crate) async fn prepare(endpoints: &Endpoints, owner: &Owner<'_>) -> Result<(Io, Prepared)> {
    let mut prepared = Prepared { outputs: Vec::new(), input: None, console: None, logger: None };
    if endpoints.terminal {
        let socket =
            ConsoleSocket::bind().context("failed to create OCI runtime console socket")?;
        let io = Io::Console(socket.path().to_owned());
        prepared.console = Some(socket);
        if !endpoints.stdin.is_empty() {
            prepared.input = Some((open_stdin(&endpoints.stdin)?, None));
        }
        return Ok((io, prepared));
    }
    streams(endpoints, owner, &mut prepared)
        .await
        .map(|io| (io, prepared))
        .context("failed to create init process I/O")
}

async fn streams(endpoints: &Endpoints, owner: &Owner<'_>, prepared: &mut Prepared) -> Result<Io> {
    let mut io = (None, None, None);
    if !endpoints.stdin.is_empty() {
        let (reader, writer) = pipe(owner)?;
        nonblocking(&writer)?;
        prepared.input = Some((open_stdin(&endpoints.stdin)?, Some(writer)));
        io.0 = Some(reader);
    }
    match Target::parse(&endpoints.stdout)? {
        Target::Binary { program, arguments, environment } => {
            let (arguments, environment) = (&arguments, &environment);
            let program = Program { program: &program, arguments, environment };
            let started = logger::start(program, owner).await?;
            prepared.logger = Some(started.logger);
            (io.1, io.2) = (Some(started.stdout), Some(started.stderr));
        }
        Target::File(path) => {
            // COMPAT: both streams go to the one file of standard output.
            for stream in [&mut io.1, &mut io.2] {
                let (reader, writer) = pipe(owner)?;
                nonblocking(&reader)?;
                prepared.outputs.push((reader, append(&path)?));
                *stream = Some(writer);
            }
        }
        Target::Path(stdout) => {
            let stderr = match Target::parse(&endpoints.stderr)? {
                Target::Path(path) | Target::File(path) => path,
                Target::Binary { .. } => endpoints.stderr.clone(),
            };
            for (stream, path) in [(&mut io.1, stdout), (&mut io.2, stderr)] {
                if path.is_empty() {
                    continue;
                }
                let sink = open_output(&path)?;
                let (reader, writer) = pipe(owner)?;
                nonblocking(&reader)?;
                prepared.outputs.push((reader, sink));
                *stream = Some(writer);
            }
        }
    }
    Ok(Io::Streams { stdin: io.0, stdout: io.1, stderr: io.2 })
}

impl Prepared {
    /// Begins to copy, once the runtime has made the process.
    ///
    /// # Errors
    /// A terminal that does not come, a target of its output that cannot be opened.
    pub(crate) async fn begin(
        mut self,
        endpoints: &Endpoints,
        owner: &Owner<'_>,
    ) -> Result<ProcessIo> {
        let mut running = ProcessIo {
            copies: Vec::new(),
            inputs: Vec::new(),
            activity: Arc::default(),
            stdin: None,
            console: None,
            logger: self.logger.take(),
        };
        if let Some(socket) = self.console.take() {
            let terminal = socket.receive().await.context("failed to retrieve console master")?;
            self.begin_terminal(terminal, endpoints, owner, &mut running)
                .await
                .context("failed to start console copy")?;
            return Ok(running);
        }
        let context = "failed to start io pipe copy";
        for (pipe, sink) in self.outputs {
            let pipe = source(pipe).context(context)?;
            let (activity, open) = (running.activity(), running.activity.begin());
            running.copies.push(tokio::spawn(copy::output(pipe, sink, activity, open)));
        }
        if let Some((fifo, Some(pipe))) = self.input {
            running.stdin = Some(fifo.writer);
            let fifo = source(fifo.reader).context(context)?;
            running.inputs.push(tokio::spawn(copy::input(fifo, pipe)));
        }
        Ok(running)
    }

    async fn begin_terminal(
        &mut self,
        terminal: OwnedFd,
        endpoints: &Endpoints,
        owner: &Owner<'_>,
        running: &mut ProcessIo,
    ) -> Result<()> {
        let sink = match Target::parse(&endpoints.stdout)? {
            Target::Path(path) if path.is_empty() => None,
            Target::Path(path) => Some(open_output(&path)?),
            Target::File(path) => Some(append(&path)?),
            Target::Binary { program, arguments, environment } => {
                let (arguments, environment) = (&arguments, &environment);
                let program = Program { program: &program, arguments, environment };
                let started = logger::start(program, owner).await?;
                running.logger = Some(started.logger);
                nonblocking(&started.stdout)?;
                Some(Sink::Pipe(started.stdout))
            }
        };
        let terminal = Arc::new(runtime_runc::watch(
            terminal,
            tokio::io::Interest::READABLE | tokio::io::Interest::WRITABLE,
        )?);
        if let Some((fifo, _)) = self.input.take() {
            running.stdin = Some(fifo.writer);
            let fifo = source(fifo.reader)?;
            running.inputs.push(tokio::spawn(copy::terminal_input(fifo, Arc::clone(&terminal))));
        }
        let (activity, open) = (running.activity(), running.activity.begin());
        let copy = copy::terminal_output(Arc::clone(&terminal), sink, activity, open);
        running.copies.push(tokio::spawn(copy));
        running.console = Some(terminal);
        Ok(())
    }
}

// === impl ProcessIo ===

impl ProcessIo {
    /// Ends the process's input once its client has closed it as well.
    pub(crate) fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Sets the size of the terminal; nothing happens without one.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn resize(&self, width: u32, height: u32) -> Result<()> {
        match &self.console {
            Some(terminal) => console::resize(terminal.get_ref(), width, height),
            None => Ok(()),
        }
    }

    /// What [`drain`] waits for.
    pub(crate) fn activity(&self) -> Arc<Activity> {
        Arc::clone(&self.activity)
    }

    /// Ends all copying and the logger. Call [`drain`] before.
    ///
    /// What a process has left in its pipes goes on to a reader that is there, in the background;
    /// without a reader it is dropped.
    pub(crate) async fn close(mut self, remainders: &Remainders) {
        self.stdin = None;
        self.activity.closing.send_replace(true);
        for input in &self.inputs {
            input.abort();
        }
        let mut copies = std::mem::take(&mut self.copies);
        // Most have ended by now, or end as soon as they are asked.
        tokio::task::yield_now().await;
        copies.retain(|copy| !copy.is_finished());
        if let Some(mut logger) = self.logger.take() {
            // Whoever deletes a process may then look at its log.
            finish(copies).await;
            logger.finish().await;
        } else if !copies.is_empty() {
            let rest = remainders.begin();
            tokio::spawn(async move {
                finish(copies).await;
                drop(rest);
            });
        }
    }
}

/// Waits for the last output to be taken, within [`REMAINDER_LIMIT`].
async fn finish(copies: Vec<JoinHandle<()>>) {
    let aborts: Vec<_> = copies.iter().map(JoinHandle::abort_handle).collect();
    let ended = futures_util::future::join_all(copies);
    if tokio::time::timeout(REMAINDER_LIMIT, ended).await.is_err() {
        tracing::warn!("the last output of a deleted process was not read, and is dropped");
        for copy in aborts {
            copy.abort();
        }
    }
}

impl Drop for ProcessIo {
    fn drop(&mut self) {
        for copy in self.copies.iter().chain(&self.inputs) {
            copy.abort();
        }
    }
}

// === impl Remainders ===

impl Remainders {
    fn begin(&self) -> OpenStream {
        self.0.send_modify(|count| *count += 1);
        OpenStream(Arc::clone(&self.0))
    }

    /// Waits until nothing is left; every remainder has a limit.
    pub(crate) async fn wait(&self) {
        // INVARIANT: the sender lives as long as `self`.
        let _ = self.0.subscribe().wait_for(|count| *count == 0).await;
    }
}

/// Waits until all output of a dead process has been copied, or nothing has moved for a while.
pub(crate) async fn drain(activity: &Activity) {
    let mut open = activity.open.subscribe();
    loop {
        let before = activity.bytes.load(Ordering::Relaxed);
        let ended = open.wait_for(|open| *open == 0);
        if tokio::time::timeout(STALL_TIMEOUT, ended).await.is_ok() {
            return;
        }
        if activity.bytes.load(Ordering::Relaxed) == before {
            tracing::warn!("output of an ended process stands still, it is given up");
            return;
        }
    }
}

/// A pipe whose ends belong to the process's user.
fn pipe(owner: &Owner<'_>) -> Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).map_err(io::Error::from)?;
    if owner.uid != 0 || owner.gid != 0 {
        for end in [&reader, &writer] {
            let uid = rustix::fs::Uid::from_raw(owner.uid);
            let gid = rustix::fs::Gid::from_raw(owner.gid);
            rustix::fs::fchown(end, Some(uid), Some(gid)).map_err(io::Error::from)?;
        }
    }
    Ok((reader, writer))
}

fn nonblocking(descriptor: impl AsFd) -> Result<()> {
    rustix::io::ioctl_fionbio(descriptor, true).map_err(io::Error::from)?;
    Ok(())
}

fn open_stdin(path: &str) -> Result<Fifo> {
    let path = path.strip_prefix("fifo://").unwrap_or(path);
    Fifo::open(Path::new(path)).with_context(|| format!("failed to open stdin fifo {path}"))
}

/// A fifo, or any other file that exists.
fn open_output(path: &str) -> Result<Sink> {
    if fifo::is_fifo(Path::new(path)) {
        let fifo = Fifo::open(Path::new(path));
        return Ok(Sink::Fifo(fifo.with_context(|| format!("opening w/o fifo {path:?} failed"))?));
    }
    let file = File::options().append(true).open(path);
    Ok(Sink::File(file.with_context(|| format!("opening file {path:?} failed"))?))
}

/// A file that is made, with its folder, and appended to. Modes are containerd's.
fn append(path: &str) -> Result<Sink> {
    let named = || format!("open {path}");
    if let Some(folder) = Path::new(path).parent() {
        let made = DirBuilder::new().recursive(true).mode(0o755).create(folder);
        made.map_err(not_a_folder).with_context(named)?;
    }
    let mut options = File::options();
    let file = options.append(true).create(true).mode(0o644).open(path).with_context(named)?;
    if file.metadata().with_context(named)?.is_dir() {
        return Err(Error::invalid_argument(format!("{path} is a directory")));
    }
    Ok(Sink::File(file))
}

/// What is in the place of a folder does not exist already, it is none.
fn not_a_folder(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::AlreadyExists => rustix::io::Errno::NOTDIR.into(),
        _ => error,
    }
}

#[cfg(test)]
mod tests;
