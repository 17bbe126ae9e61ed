//! `tasks start`.

use std::path::PathBuf;

use api_shim::{runc, typeurl};
use client::task::NewTask;

use crate::Outcome;
use crate::command::containers::need_id;
use crate::command::run::write_pid_file;
use crate::connection::Connection;
use crate::streams::{StreamFlags, accompany, exit_status, tell_size};

/// Starts the task of a container.
#[derive(Debug, clap::Args)]
pub(crate) struct Start {
    /// Disable use of pivot-root (linux only)
    #[arg(long)]
    no_pivot: bool,
    /// Send all IO to /dev/null
    #[arg(long)]
    null_io: bool,
    #[command(flatten)]
    streams: StreamFlags,
    /// File path to write the task's pid
    #[arg(long, value_name = "value")]
    pid_file: Option<PathBuf>,
    /// Detach from the task after it has started execution
    #[arg(long, short)]
    detach: bool,
    /// Container
    id: Option<String>,
}

impl Start {
    pub(crate) async fn run(self, connection: &Connection) -> Outcome {
        let id = need_id(self.id.as_deref())?;
        let client = connection.connect().await?;
        let container = client.container(id).await?;
        let connected = self.streams.connect(super::has_terminal(&container)?, self.null_io)?;
        let mut options = None;
        if self.no_pivot {
            // The container's own options stay as they are.
            let known = container.runtime.as_ref().and_then(|runtime| runtime.options.as_ref());
            let known = known.and_then(|any| typeurl::decode::<runc::Options>(any).ok());
            let known = known.unwrap_or_default();
            options = Some(typeurl::encode(&runc::Options { no_pivot_root: true, ..known }));
        }
        let rootfs = client.rootfs_mounts(&container).await?;
        let new = NewTask { rootfs, stdio: connected.stdio, options, checkpoint: None };
        let mut process = client.create_task(id, new).await?;
        write_pid_file(self.pid_file.as_ref(), process.pid())?;
        tell_size(&process, connected.terminal.as_deref()).await;
        if let Err(error) = process.start().await {
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
