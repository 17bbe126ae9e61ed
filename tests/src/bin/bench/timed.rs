//! Timing one program from inside a world, so that the way into it does not count.

use std::ffi::OsString;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags};

/// The first argument that makes this program time another: `timed SECONDS PROGRAM ARGUMENT...`.
pub const COMMAND: &str = "timed";

/// What [`main`] has printed, in seconds.
///
/// # Errors
///
/// It is no number.
pub fn seconds(output: &[u8]) -> Result<f64> {
    let nanoseconds: f64 = std::str::from_utf8(output)?.trim().parse()?;
    Ok(nanoseconds / 1e9)
}

/// Runs a program with no input and no output, and prints how many nanoseconds it took.
///
/// # Errors
///
/// It fails, or takes longer than the given seconds and is killed.
pub fn main(words: &[OsString]) -> Result<()> {
    let [seconds, program, arguments @ ..] = words else {
        bail!("{COMMAND} SECONDS PROGRAM ARGUMENT...");
    };
    let seconds: u64 = seconds.to_str().and_then(|text| text.parse().ok()).context("seconds")?;
    let limit = Duration::from_secs(seconds);
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
    let begin = Instant::now();
    let mut child = command.spawn().with_context(|| format!("start {}", program.display()))?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("process id")?;
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
    let timeout = Timespec { tv_sec: i64::try_from(limit.as_secs())?, tv_nsec: 0 };
    let ended = rustix::event::poll(&mut fds, Some(&timeout))? > 0;
    let taken = begin.elapsed();
    if !ended {
        child.kill()?;
        child.wait()?;
        bail!("no end after {limit:?}");
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("{status}");
    }
    crate::print(&format!("{}\n", taken.as_nanos()))
}
