//! `containers checkpoint` and `containers restore`.

use base_errors::Result;
use client::Client;
use client::container::Parts;
use client::task::NewTask;

use super::need_id;
use crate::command::plain;
use crate::command::tasks::has_terminal;
use crate::connection::Connection;
use crate::streams::{Attendance, StreamFlags, attend};
use crate::{Outcome, say};

/// Writes a container as an image.
#[derive(Debug, clap::Args)]
pub(crate) struct Checkpoint {
    /// Include the rw layer in the checkpoint
    #[arg(long)]
    rw: bool,
    /// Include the image in the checkpoint
    #[arg(long)]
    image: bool,
    /// Checkpoint container task
    #[arg(long)]
    task: bool,
    /// Container, then the name of the checkpoint
    words: Vec<String>,
}

/// Makes a container of such an image.
#[derive(Debug, clap::Args)]
pub(crate) struct Restore {
    /// Restore the rw layer from the checkpoint
    #[arg(long)]
    rw: bool,
    /// Restore the runtime and memory data from the checkpoint
    #[arg(long)]
    live: bool,
    /// Container, then the name of the checkpoint
    words: Vec<String>,
}

/// The container and the checkpoint.
fn names(words: &[String]) -> Result<(&str, &str)> {
    let id = need_id(words.first().map(String::as_str))?;
    let reference = words.get(1).map(String::as_str).filter(|reference| !reference.is_empty());
    Ok((id, reference.ok_or_else(|| plain("ref must be provided"))?))
}

impl Checkpoint {
    pub(crate) async fn run(self, connection: &Connection) -> Outcome {
        let (id, reference) = names(&self.words)?;
        let client = connection.connect().await?;
        let record = client.container(id).await?;
        let has_task = match client.process_state(id, "").await {
            Ok(_) => true,
            Err(error) if error.is_not_found() => false,
            Err(error) => return Err(error),
        };
        if has_task {
            client.pause(id).await?;
        }
        let parts = Parts { image: self.image, rw: self.rw, task: self.task };
        let written = client.checkpoint_container(&record, reference, parts).await;
        if has_task && let Err(error) = client.resume(id).await {
            say!("error resuming task: {error}");
        }
        written.map(|()| 0)
    }
}

impl Restore {
    pub(crate) async fn run(self, connection: &Connection) -> Outcome {
        let (id, reference) = names(&self.words)?;
        let client = connection.connect().await?;
        let checkpoint = client.checkpoint(&client.image(reference).await?).await?;
        // What is not in the checkpoint is found out before anything is made.
        let task = if self.live { Some(checkpoint.task()?) } else { None };
        let record = client.restore_container(id, &checkpoint, self.rw).await?;
        let started = start(&client, &record, task).await;
        if started.is_err() && self.live {
            // A container that cannot live is not what was asked for.
            let _ = client.delete_container(&record, false).await;
        }
        started
    }
}

/// Starts the task of a restored container, and stays with it if it has a terminal.
async fn start(
    client: &Client,
    record: &api_grpc::containers::Container,
    checkpoint: Option<api_shim::types::Descriptor>,
) -> Outcome {
    let terminal = has_terminal(record)?;
    let connected = StreamFlags::default().connect(terminal, false)?;
    let rootfs = client.rootfs_mounts(record).await?;
    let new = NewTask { rootfs, stdio: connected.stdio, options: None, checkpoint };
    let process = client.create_task(&record.id, new).await?;
    let attendance = Attendance { detach: !terminal, ..Attendance::default() };
    attend(process, connected.terminal, attendance).await
}
