//! `run`: a container from an image or a folder, its task, its end.

use std::path::PathBuf;

use base_errors::Result;
use client::Client;
use client::task::NewTask;

use super::plain;
use crate::Outcome;
use crate::connection::Connection;
use crate::container_flags::{ContainerFlags, CpuFlags};
use crate::streams::{StreamFlags, accompany, exit_status, tell_size};

/// Runs a container.
#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    /// Remove the container after running, cannot be used with --detach
    #[arg(long)]
    pub(crate) rm: bool,
    /// Send all IO to /dev/null
    #[arg(long)]
    null_io: bool,
    #[command(flatten)]
    streams: StreamFlags,
    /// Detach from the task after it has started execution, cannot be used with --rm
    #[arg(long, short)]
    pub(crate) detach: bool,
    #[command(flatten)]
    pub(crate) flags: ContainerFlags,
    #[command(flatten)]
    cpu: CpuFlags,
    /// Image|RootFS, id, command and arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) words: Vec<String>,
}

impl Run {
    pub(crate) async fn run(self, connection: &Connection) -> Outcome {
        if self.rm && self.detach {
            return Err(plain("flags --detach and --rm cannot be specified together"));
        }
        let parts = self.flags.split(&self.words)?;
        let client = connection.connect().await?;
        let (record, rootfs) = self.flags.create(&client, &parts, Some(&self.cpu)).await?;
        let started = self.task(&client, &record.id, rootfs).await;
        if !self.rm {
            return started;
        }
        let removed = client.delete_container(&record, false).await;
        if let (Ok(_), Err(error)) = (&started, removed) {
            crate::log::error("failed to clean up container", &error);
        }
        started
    }

    async fn task(
        &self,
        client: &Client,
        id: &str,
        rootfs: Vec<api_shim::types::Mount>,
    ) -> Outcome {
        let tty = match &self.flags.config {
            None => self.flags.tty,
            Some(_) => super::tasks::has_terminal(&client.container(id).await?)?,
        };
        let connected = self.streams.connect(tty, self.null_io)?;
        let options = self.flags.task_options()?;
        let new = NewTask { rootfs, stdio: connected.stdio, options, checkpoint: None };
        let mut process = client.create_task(id, new).await?;
        let started = async {
            write_pid_file(self.flags.pid_file.as_ref(), process.pid())?;
            tell_size(&process, connected.terminal.as_deref()).await;
            process.start().await
        };
        if let Err(error) = started.await {
            // The error that counts is the first one.
            let _ = process.delete().await;
            return Err(error);
        }
        if self.detach {
            process.detach();
            return Ok(0);
        }
        let exit = accompany(&process, connected.terminal.as_deref()).await;
        drop(connected.terminal);
        let exit = exit?;
        process.delete().await?;
        Ok(exit_status(exit.status))
    }
}

/// Writes the number of a process, whole or not at all.
pub(crate) fn write_pid_file(path: Option<&PathBuf>, pid: u32) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    let temporary = path.with_file_name(name);
    std::fs::write(&temporary, pid.to_string())?;
    Ok(std::fs::rename(&temporary, path)?)
}
