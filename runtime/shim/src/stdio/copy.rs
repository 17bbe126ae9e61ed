//! Copying between a process and its client: by `splice` between pipes, through a small buffer
//! where a terminal or a file is at one end.
//!
//! Each stream is a task of its own. A reader that stalls fills its fifo, then the pipe, and then
//! stops its own process; nobody else waits.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, splice};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::fifo::{Fifo, buffered, ready};
use super::{Activity, OpenStream};
use runtime_runc::watch;

/// The most that one `splice` moves: a pipe's default capacity.
const SPLICE_SIZE: usize = 64 << 10;

/// The buffer of a terminal's stream, which lives as long as the terminal.
const TERMINAL_BUFFER: usize = 4096;

/// After so many moves without a pause, others get their turn.
const TURN: u32 = 16;

/// How often a fifo that keeps a dead process's last output looks for its reader: first, and at
/// most. The kernel does not tell when a reader comes.
const READER_PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// How long a fifo is kept for a reader that has not come until its process was deleted.
const LATE_READER: Duration = Duration::from_secs(2);

/// Where output goes.
#[derive(Debug)]
pub(crate) enum Sink {
    /// A fifo with a client at its other end.
    Fifo(Fifo),
    /// A file that is appended to, or any other file.
    File(File),
    /// A pipe into a logger.
    Pipe(OwnedFd),
}

/// A descriptor under the poller that gives bytes.
pub(crate) type Source = AsyncFd<OwnedFd>;

/// Puts a descriptor that does not block under the poller, for reading.
///
/// # Errors
/// The system's.
pub(crate) fn source(descriptor: OwnedFd) -> io::Result<Source> {
    watch(descriptor, Interest::READABLE)
}

fn destination(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    watch(descriptor, Interest::WRITABLE)
}

/// Copies a process's output until its end. What cannot be delivered is read and dropped, so that
/// the process goes on.
pub(crate) async fn output(pipe: Source, sink: Sink, activity: Arc<Activity>, open: OpenStream) {
    match sink {
        Sink::Fifo(fifo) => {
            let Fifo { reader, writer, met } = fifo;
            match destination(writer) {
                Ok(writer) => {
                    let end = tokio::select! {
                        end = move_bytes(&pipe, &writer, &activity) => end,
                        () = activity.closing() => {
                            // From here on it counts whether somebody else reads.
                            drop(reader);
                            // What is in a fifo stays there for a reader that has it open.
                            let _ = move_rest(&pipe, &writer, &activity).await;
                            drop(open);
                            return;
                        }
                    };
                    if let Err(error) = end {
                        tracing::warn!(%error, "error copying output");
                        discard(&pipe).await;
                    }
                    // The process has closed its end, and so does this side.
                    drop(pipe);
                    drop(open);
                    linger(reader, writer, met, &activity).await;
                }
                Err(error) => {
                    tracing::warn!(%error, "error copying output");
                    discard(&pipe).await;
                }
            }
        }
        Sink::Pipe(writer) => {
            let end = match destination(writer) {
                Ok(writer) => tokio::select! {
                    end = move_bytes(&pipe, &writer, &activity) => end,
                    () = activity.closing() => {
                        let _ = move_rest(&pipe, &writer, &activity).await;
                        return;
                    }
                },
                Err(error) => Err(error),
            };
            if let Err(error) = end {
                tracing::warn!(%error, "error copying output");
                discard(&pipe).await;
            }
        }
        Sink::File(mut file) => {
            let mut buffer = [0; TERMINAL_BUFFER];
            loop {
                match read_or_close(&pipe, &mut buffer, &activity).await {
                    Ok(0) => break,
                    Ok(count) => {
                        if let Err(error) = file.write_all(&buffer[..count]) {
                            tracing::warn!(%error, "error copying output");
                            discard(&pipe).await;
                            break;
                        }
                        activity.moved(count);
                    }
                    Err(error) => {
                        tracing::warn!(%error, "error copying output");
                        break;
                    }
                }
            }
        }
    }
}

/// Copies a client's input into a process, until the last writer of the fifo has closed it or the
/// process has closed its end.
pub(crate) async fn input(fifo: Source, pipe: OwnedFd) {
    let end = match destination(pipe) {
        Ok(pipe) => move_bytes(&fifo, &pipe, &Activity::default()).await,
        Err(error) => Err(error),
    };
    if let Err(error) = end
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        tracing::warn!(%error, "error copying input");
    }
}

/// Copies a terminal's output. The end of a terminal is an input/output error.
pub(crate) async fn terminal_output(
    terminal: Arc<AsyncFd<OwnedFd>>,
    sink: Option<Sink>,
    activity: Arc<Activity>,
    open: OpenStream,
) {
    let (mut file, mut writer, mut reader) = (None, None, None);
    let mut met = false;
    match sink {
        Some(Sink::File(sink)) => file = Some(sink),
        Some(Sink::Pipe(pipe)) => writer = destination(pipe).ok(),
        Some(Sink::Fifo(fifo)) => {
            (met, reader) = (fifo.met, Some(fifo.reader));
            writer = destination(fifo.writer).ok();
        }
        None => {}
    }
    let mut buffer = [0; TERMINAL_BUFFER];
    loop {
        let count = match read_or_close(&terminal, &mut buffer, &activity).await {
            Ok(0) | Err(_) => break,
            Ok(count) => count,
        };
        let written = match (&mut file, &writer) {
            (Some(file), _) => file.write_all(&buffer[..count]),
            (None, Some(pipe)) => {
                let write = write_all(pipe, &buffer[..count]);
                tokio::pin!(write);
                tokio::select! {
                    written = &mut write => written,
                    () = activity.closing() => {
                        // From here on it counts whether somebody else reads.
                        reader = None;
                        write.await
                    }
                }
            }
            (None, None) => Ok(()),
        };
        if let Err(error) = written {
            tracing::warn!(%error, "error copying output");
            (file, writer) = (None, None);
        }
        activity.moved(count);
    }
    drop(terminal);
    drop(open);
    if let (Some(reader), Some(writer)) = (reader, writer) {
        linger(reader, writer, met, &activity).await;
    }
}

/// Copies a client's input into a terminal, until the fifo's last writer has closed it or the
/// terminal has gone.
pub(crate) async fn terminal_input(fifo: Source, terminal: Arc<AsyncFd<OwnedFd>>) {
    let mut buffer = [0; TERMINAL_BUFFER];
    while let Ok(count) = read(&fifo, &mut buffer).await {
        if count == 0 || write_all(&terminal, &buffer[..count]).await.is_err() {
            break;
        }
    }
}

/// Moves everything from one pipe into another without looking at it.
///
/// # Errors
/// The system's; `BrokenPipe` if nobody reads any more.
async fn move_bytes<I, O>(from: &AsyncFd<I>, to: &AsyncFd<O>, activity: &Activity) -> io::Result<()>
where
    I: AsFd + AsRawFd,
    O: AsFd + AsRawFd,
{
    let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
    let mut turn = 0;
    loop {
        let mut input = from.readable().await?;
        match splice(from.get_ref(), None, to.get_ref(), None, SPLICE_SIZE, flags) {
            Ok(0) => return Ok(()),
            Ok(count) => {
                activity.moved(count);
                turn += 1;
                if turn % TURN == 0 {
                    tokio::task::yield_now().await;
                }
            }
            // One of the two sides has to be waited for.
            Err(Errno::AGAIN) => {
                if ready(from.get_ref(), PollFlags::IN).is_empty() {
                    input.clear_ready();
                } else {
                    let mut output = to.writable().await?;
                    if ready(to.get_ref(), PollFlags::OUT).is_empty() {
                        output.clear_ready();
                    }
                }
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Moves what is in the pipe now, and then no more: a process in the background may hold its other
/// end, and write, for ever.
///
/// # Errors
/// The system's; `BrokenPipe` if nobody reads.
async fn move_rest<I, O>(from: &AsyncFd<I>, to: &AsyncFd<O>, activity: &Activity) -> io::Result<()>
where
    I: AsFd + AsRawFd,
    O: AsFd + AsRawFd,
{
    let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
    let mut left = usize::try_from(buffered(from.get_ref())).unwrap_or(0);
    while left > 0 {
        match splice(from.get_ref(), None, to.get_ref(), None, left.min(SPLICE_SIZE), flags) {
            Ok(0) => break,
            Ok(count) => {
                activity.moved(count);
                left = left.saturating_sub(count);
            }
            Err(Errno::AGAIN) => {
                let mut output = to.writable().await?;
                if ready(to.get_ref(), PollFlags::OUT).is_empty() {
                    output.clear_ready();
                }
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// Reads and drops until the end.
async fn discard(pipe: &Source) {
    let mut buffer = [0; TERMINAL_BUFFER];
    while let Ok(count) = read(pipe, &mut buffer).await
        && count > 0
    {}
}

/// Reads once; after the copies were told to end, only what is there already.
async fn read_or_close<T: AsFd + AsRawFd>(
    from: &AsyncFd<T>,
    buffer: &mut [u8],
    activity: &Activity,
) -> io::Result<usize> {
    tokio::select! {
        biased;
        count = read(from, buffer) => count,
        () = activity.closing() => Ok(0),
    }
}

/// Reads once, as soon as there is something.
async fn read<T: AsFd + AsRawFd>(from: &AsyncFd<T>, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        let mut input = from.readable().await?;
        match input.try_io(|from| Ok(rustix::io::read(from.get_ref(), &mut *buffer)?)) {
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(result) => return result,
            Err(_would_block) => {}
        }
    }
}

/// Writes all of it, as fast as it is taken.
async fn write_all<T: AsFd + AsRawFd>(to: &AsyncFd<T>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let mut output = to.writable().await?;
        match output.try_io(|to| Ok(rustix::io::write(to.get_ref(), bytes)?)) {
            Ok(Ok(count)) => bytes = &bytes[count..],
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(Err(error)) => return Err(error),
            Err(_would_block) => {}
        }
    }
    Ok(())
}

/// Keeps the fifo of a dead process, with its last output, until a reader has come, then lets the
/// reader see the end. Ends at once if there is a reader, or if one was `met` before and nothing is
/// left to read. A fifo that nobody has come to is kept without output as well: whoever opens it
/// after its last writer has gone waits for ever.
///
/// containerd's shim has no process run before its readers are there; here a process may be over
/// and deleted while they are on their way.
async fn linger(reader: OwnedFd, writer: AsyncFd<OwnedFd>, met: bool, activity: &Activity) {
    if met && buffered(writer.get_ref()) == 0 {
        return;
    }
    drop(reader);
    let come = async {
        let (mut pause, longest) = READER_PAUSE;
        // A writer without any reader polls as broken; the bytes stay as long as it is open.
        while ready(writer.get_ref(), PollFlags::OUT).contains(PollFlags::ERR) {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
    };
    tokio::select! {
        () = come => {}
        () = async {
            activity.closing().await;
            if !met {
                tokio::time::sleep(LATE_READER).await;
            }
        } => {}
    }
}
