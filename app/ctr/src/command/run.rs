//! `run`: a container from an image or a folder, its task, its end.

use client::Client;
use client::task::NewTask;

use super::plain;
use crate::Outcome;
use crate::connection::Connection;
use crate::container_flags::{ContainerFlags, CpuFlags};
use crate::streams::{Attendance, StreamFlags, attend};

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
        let process = client.create_task(id, new).await?;
        let attendance =
            Attendance { pid_file: self.flags.pid_file.as_deref(), detach: self.detach };
        attend(process, connected.terminal, attendance).await
    }
}
