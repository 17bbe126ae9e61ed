//! Containers that run on below a shim of the real 0.2.
//!
//! That shim speaks by files in the folder of its process: it holds the fifo `exit` open until it
//! has recorded the end, takes lines from the fifo `control`, and runs as a program that is started
//! in that folder. Signals, limits and figures never went through it.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use api_shim::Any;
use kernel_cgroup::{Group, Hierarchies, OomWatch};
use kernel_process::PidFd;
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use rustix::io::Errno;
use serde::Deserialize;
use tokio::io::AsyncWriteExt as _;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe::Receiver;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::ApiError;
use crate::runtime::program;
use crate::state::{self, StoredContainer};

/// The name of the old shim where the state does not say it.
const SHIM: &str = "containerd-shim";
/// Mode of the fifos; as in 0.2.
const FIFO_MODE: u32 = 0o755;
/// How long a command of the runtime may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);
/// Between two looks for the pid of an exec; as in 0.2.
const PACE: Duration = Duration::from_millis(15);
/// The most that is read of a log, from its end.
const MAX_LOG: usize = 64 << 10;

/// Waits until the shim of the process in `folder` has ended, at once if there is none.
pub(crate) async fn ended(folder: &Path) {
    match open_exit(folder) {
        Ok(Some(exit)) => hung_up(&exit).await,
        Ok(None) => {}
        Err(error) => tracing::warn!(path = %folder.display(), %error, "no shim to wait for"),
    }
}

/// The reading end of the fifo that a shim holds open; `None` if none does.
fn open_exit(folder: &Path) -> io::Result<Option<Receiver>> {
    let mut options = File::options();
    options.read(true).custom_flags(nonblocking());
    let file = match options.open(folder.join("exit")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    match rustix::io::read(&file, &mut [0_u8; 1]) {
        // Nobody has it open for writing.
        Ok(0) => Ok(None),
        Ok(_) | Err(Errno::AGAIN) => Receiver::from_file(file).map(Some),
        Err(error) => Err(error.into()),
    }
}

fn nonblocking() -> i32 {
    i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default()
}

async fn hung_up(exit: &Receiver) {
    loop {
        if exit.readable().await.is_err() {
            return;
        }
        match exit.try_read(&mut [0_u8; 64]) {
            Ok(0) => return,
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return,
            _ => {}
        }
    }
}

/// True if a shim still looks after the process in `folder`.
pub(crate) fn is_watched(folder: &Path) -> bool {
    open_exit(folder).is_ok_and(|exit| exit.is_some())
}

/// The process in `folder`, if it is the one that was recorded.
fn process(folder: &Path) -> Option<PidFd> {
    let pid = state::read_pid(folder)?;
    let process = PidFd::open(pid).ok()?;
    // The first versions recorded no start; while their shim lives, the pid is not another's.
    let same = match state::read_start_time(folder) {
        Some(start) => kernel_process::is_same(pid, start),
        None => is_watched(folder),
    };
    Some(process).filter(|_| same)
}

/// True if the process in `folder` runs.
pub(crate) fn runs(folder: &Path) -> bool {
    process(folder).is_some_and(|process| !process.has_exited().unwrap_or(true))
}

/// Sends a signal to the process in `folder`; zero only asks whether it is there.
///
/// # Errors
/// [`ApiError::Signal`].
pub(crate) fn signal(folder: &Path, signal: u32) -> Result<(), ApiError> {
    let gone = || ApiError::Signal(Errno::SRCH);
    let process = process(folder).ok_or_else(gone)?;
    let Ok(signal @ 1..) = i32::try_from(signal) else {
        return if process.has_exited().unwrap_or(true) { Err(gone()) } else { Ok(()) };
    };
    process.send_signal(signal).map_err(|error| match error {
        kernel_process::Error::UnknownSignal { .. } => ApiError::Signal(Errno::INVAL),
        _ => gone(),
    })
}

/// Tells the shim of the process in `folder` to close its standard input.
///
/// # Errors
/// [`ApiError::File`] if no shim is there.
pub(crate) fn close_stdin(folder: &Path) -> Result<(), ApiError> {
    control(folder, "0 0 0\n")
}

/// Tells the shim of the process in `folder` the size of its terminal.
///
/// # Errors
/// [`ApiError::File`] if no shim is there.
pub(crate) fn resize(folder: &Path, width: u32, height: u32) -> Result<(), ApiError> {
    control(folder, &format!("1 {width} {height}\n"))
}

fn control(folder: &Path, line: &str) -> Result<(), ApiError> {
    let path = folder.join("control");
    let mut options = File::options();
    options.write(true).custom_flags(nonblocking());
    let written = options.open(&path).and_then(|mut file| file.write_all(line.as_bytes()));
    written.map_err(|error| ApiError::file("write", &path, error))
}

/// Runs a command of the container's runtime; gives what it prints.
///
/// # Errors
/// [`ApiError::Command`] with what it said.
pub(crate) async fn command(
    stored: &StoredContainer,
    words: &[&str],
    input: Vec<u8>,
) -> Result<Vec<u8>, ApiError> {
    let failed = |error: io::Error| ApiError::Command(error.to_string());
    let mut command = Command::new(&stored.runtime);
    command.args(stored.runtime_args.iter().flatten()).args(words).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    let feed = child.stdin.take();
    let work = async {
        if let Some(mut feed) = feed {
            // Who does not read it says why by its status.
            let _ = feed.write_all(&input).await;
        }
        child.wait_with_output().await
    };
    let output = timeout(COMMAND_LIMIT, work).await.map_err(|late| failed(late.into()))?;
    let output = output.map_err(failed)?;
    if !output.status.success() {
        let mut said = output.stdout;
        said.extend(output.stderr);
        return Err(ApiError::Command(String::from_utf8_lossy(&said).into_owned()));
    }
    Ok(output.stdout)
}

/// The control group of the process in `folder`.
fn group(folder: &Path) -> Result<Group, ApiError> {
    let failed = |error: kernel_cgroup::Error| ApiError::Other(error.to_string());
    let process = process(folder).ok_or(ApiError::NotStarted)?;
    Hierarchies::load().and_then(|all| Group::of_pid(&all, process.pid())).map_err(failed)
}

/// All processes of the container whose first process is in `folder`.
///
/// # Errors
/// [`ApiError::NotStarted`] if it has ended.
pub(crate) fn pids(folder: &Path) -> Result<Vec<u32>, ApiError> {
    let pids = group(folder)?.pids(true).map_err(|error| ApiError::Other(error.to_string()))?;
    Ok(pids.into_iter().filter_map(|pid| u32::try_from(pid).ok()).collect())
}

/// The figures of that container.
///
/// # Errors
/// [`ApiError::NotStarted`] if it has ended.
pub(crate) fn metrics(folder: &Path) -> Result<Any, ApiError> {
    let metrics = group(folder)?.metrics().map_err(|error| ApiError::Other(error.to_string()))?;
    Ok(metrics.to_any())
}

/// Tells `told` of each time that container runs out of memory, until the future is dropped.
pub(crate) async fn watch_oom(folder: &Path, told: impl Fn()) {
    let watch = group(folder).ok().and_then(|group| OomWatch::open(&group).ok());
    #[allow(
        deprecated,
        reason = "what replaces it needs unsafe code, and the watch owns its descriptor"
    )]
    let watch = watch.and_then(|watch| AsyncFd::with_interest(watch, Interest::READABLE).ok());
    let Some(mut watch) = watch else { return std::future::pending().await };
    while let Ok(mut ready) = watch.readable_mut().await {
        let report = ready.get_inner_mut().on_ready();
        ready.clear_ready();
        match report {
            Ok(report) if report.removed => break,
            Ok(report) if report.oom => told(),
            Ok(_) => {}
            Err(_) => break,
        }
    }
    std::future::pending().await
}

/// Starts the process that is described in `folder` below a shim of its own, as 0.2 did; gives its
/// pid, and the shim, which is waited for by the caller.
///
/// # Errors
/// [`ApiError::Shim`] if the old shim is not installed any more, or says so;
/// [`ApiError::Runtime`]; [`ApiError::StartTimeout`].
pub(crate) async fn exec(
    stored: &StoredContainer,
    id: &str,
    folder: &Path,
    limit: Duration,
) -> Result<(u32, Child), ApiError> {
    let name = if stored.shim.is_empty() { SHIM } else { &stored.shim };
    let shim =
        program(name).ok_or_else(|| ApiError::Shim(format!("{name} not installed on system")))?;
    for fifo in ["exit", "control"] {
        let path = folder.join(fifo);
        mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(FIFO_MODE), 0)
            .map_err(|error| ApiError::file("mkfifo", &path, error))?;
    }
    // The shim waits for a reader of one, and for nobody of the other.
    let _exit = File::options().read(true).custom_flags(nonblocking()).open(folder.join("exit"));
    let mut child = Command::new(shim)
        .args([id, &stored.bundle, &stored.runtime])
        .current_dir(folder)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| ApiError::Shim(error.to_string()))?;
    let end = Instant::now() + limit;
    loop {
        if let Some(pid) = state::read_pid(folder).and_then(|pid| u32::try_from(pid).ok()) {
            note_start(folder, pid);
            return Ok((pid, child));
        }
        if let Ok(Some(_)) = child.try_wait() {
            return Err(said(folder));
        }
        if Instant::now() >= end {
            let _ = child.kill().await;
            return Err(ApiError::StartTimeout);
        }
        sleep(PACE).await;
    }
}

/// Records the start time of a process, which tells it from a later one of that pid.
fn note_start(folder: &Path, pid: u32) {
    let start = i32::try_from(pid).ok().and_then(|pid| kernel_process::start_time(pid).ok());
    if let Some(start) = start
        && let Err(error) = std::fs::write(folder.join("starttime"), start.to_string())
    {
        tracing::warn!(path = %folder.display(), %error, "recording a start time");
    }
}

/// What a shim that ended before its process said about it.
fn said(folder: &Path) -> ApiError {
    if let Some(text) = last_error(&folder.join("shim-log.json")) {
        return ApiError::Shim(text);
    }
    match last_error(&folder.join("log.json")) {
        Some(text) => ApiError::Runtime(text),
        None => ApiError::ShimExited,
    }
}

/// The newest error in a log of JSON lines.
fn last_error(path: &Path) -> Option<String> {
    #[derive(Deserialize)]
    struct Line {
        level: String,
        msg: String,
    }
    let text = state::read(path)?;
    let tail = &text[text.len().saturating_sub(MAX_LOG)..];
    let lines = tail.split(|byte| *byte == b'\n').rev();
    let mut lines = lines.filter_map(|line| serde_json::from_slice::<Line>(line).ok());
    lines.find(|line| line.level == "error").map(|line| line.msg)
}
