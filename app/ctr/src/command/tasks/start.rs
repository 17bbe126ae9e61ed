//! `tasks start`.

use std::path::PathBuf;

use api_shim::{runc, typeurl};
use client::task::NewTask;

use crate::Outcome;
use crate::command::containers::need_id;
use crate::connection::Connection;
use crate::streams::{Attendance, StreamFlags, attend};

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
        let process = client.create_task(id, new).await?;
        let attendance = Attendance { pid_file: self.pid_file.as_deref(), detach: self.detach };
        attend(process, connected.terminal, attendance).await
    }
}
