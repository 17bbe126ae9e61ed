//! A daemon on a disk whose syncs take time.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use e2e::world::Daemon;
use e2e::{process, wait};
use rustix::process::Signal;

use crate::side::Side;

/// What is added to each sync, in microseconds: the flush of a good disk.
const SYNC_DELAY: u32 = 1000;

/// A daemon under strace, which makes each of its syncs longer and lets all else run freely.
#[derive(Debug)]
pub struct SlowDaemon {
    strace: Option<Daemon>,
}

impl SlowDaemon {
    /// Ends the daemon of `side` and starts it again under strace.
    ///
    /// # Errors
    ///
    /// There is no strace, or the daemon does not answer.
    pub fn start(side: &Side) -> Result<SlowDaemon> {
        // One that does not end at SIGTERM in time, as containerd sometimes, is killed.
        if let Err(error) = side.world.stop_daemon() {
            eprintln!("bench:   {error}");
        }
        let program = ["/usr/bin/strace", "/usr/local/bin/strace"]
            .into_iter()
            .map(PathBuf::from)
            .find(|path| path.is_file())
            .context("no strace: install Debian's package strace")?;
        let mut command: Command = side.world.command(&program);
        let calls = "fsync,fdatasync,syncfs,sync,msync";
        // With a filter in the kernel, only these calls stop the daemon.
        command.args(["--follow-forks", "--seccomp-bpf", "--quiet=all", "--signal=none"]);
        command.arg("-e").arg(format!("trace={calls}"));
        command.arg("-e").arg(format!("inject={calls}:delay_exit={SYNC_DELAY}"));
        command.arg("--output=/dev/null").arg(side.maker.daemon()?);
        // The world wrote it for the daemon that has just ended.
        command.arg("--config").arg(side.world.path("config.toml"));
        let strace = Daemon::start(command, &side.world.path("log"), side.maker)?;
        let slow = SlowDaemon { strace: Some(strace) };
        wait::until("the daemon under strace to answer", || {
            if !slow.daemons().iter().any(|&pid| process::runs(pid)) {
                bail!("it does not run:\n{}", side.world.log());
            }
            side.world.client()?.version()
        })?;
        Ok(slow)
    }

    /// The children of strace.
    fn daemons(&self) -> Vec<i32> {
        let Some(strace) = &self.strace else { return Vec::new() };
        let pid = strace.pid();
        let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        text.unwrap_or_default().split(' ').filter_map(|word| word.parse().ok()).collect()
    }
}

impl Drop for SlowDaemon {
    fn drop(&mut self) {
        // When strace is killed, what it traces runs on: the daemon goes first, then strace ends.
        for pid in self.daemons() {
            let _ = process::signal(pid, Signal::KILL);
        }
        let gone = wait::until("the daemon to end", || match self.daemons().len() {
            0 => Ok(()),
            left => bail!("{left} left"),
        });
        if let Err(error) = gone {
            eprintln!("bench: {error:#}");
        }
        drop(self.strace.take());
    }
}
