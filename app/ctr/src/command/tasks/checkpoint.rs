//! `tasks checkpoint`.

use api_shim::runc::CheckpointOptions;

use super::running;
use crate::connection::Connection;
use crate::{Outcome, format, say};

/// Writes the processes of a task as an image, or as CRIU's files.
#[derive(Debug, clap::Args)]
pub(crate) struct Checkpoint {
    /// Stop the container after the checkpoint
    #[arg(long)]
    exit: bool,
    /// Path to criu image files
    #[arg(long, value_name = "value", default_value = "", hide_default_value = true)]
    image_path: String,
    /// Path to criu work files and logs
    #[arg(long, value_name = "value", default_value = "", hide_default_value = true)]
    work_path: String,
    /// Container
    id: Option<String>,
}

impl Checkpoint {
    pub(crate) async fn run(self, connection: &Connection) -> Outcome {
        let (client, id) = running(connection, self.id.as_deref()).await?;
        let name = format!("containerd.io/checkpoint/{id}:{}", format::checkpoint_time());
        let into_image = self.image_path.is_empty();
        let options = CheckpointOptions {
            exit: self.exit,
            image_path: self.image_path,
            work_path: self.work_path,
            ..CheckpointOptions::default()
        };
        client.checkpoint_task(&id, &name, &options).await?;
        if into_image {
            say!("{name}");
        }
        Ok(0)
    }
}
