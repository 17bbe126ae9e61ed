//! `snapshots prune`.

use base_errors::Class;

use crate::{Outcome, say};

use super::Reached;

/// Removes what no image, container, sandbox or lease needs.
#[derive(Debug, clap::Args)]
pub(crate) struct Prune {
    /// Print what would be removed and remove nothing
    #[arg(long)]
    dry: bool,
    /// Also active snapshots and views, which somebody may have mounted
    #[arg(long)]
    all: bool,
}

impl Prune {
    pub(super) async fn run(&self, reached: Reached) -> Outcome {
        let inventory = reached.client.inventory().await?;
        for key in inventory.prunable(&reached.snapshotter, self.all) {
            if !self.dry {
                match reached.client.remove_snapshot(&reached.snapshotter, &key).await {
                    Ok(()) => {}
                    // Somebody else was faster, or has begun to use it.
                    Err(error)
                        if [Class::NotFound, Class::FailedPrecondition]
                            .contains(&error.class()) =>
                    {
                        continue;
                    }
                    Err(error) => return Err(error.context(format!("failed to remove {key:?}"))),
                }
            }
            say!("{key}");
        }
        Ok(0)
    }
}
