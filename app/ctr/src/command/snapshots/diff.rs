//! `snapshots diff`.

use std::io::Write as _;
use std::time::SystemTime;

use api_grpc::diff::DiffRequest;
use api_grpc::snapshots::{Kind, ViewSnapshotRequest};
use api_shim::types::Mount;
use base_errors::Result;
use client::container::unique_id;
use tokio_stream::StreamExt as _;

use super::{Reached, root_labels};
use crate::Outcome;
use crate::command::{body, usage};
use crate::format;

/// Writes what two snapshots differ in.
#[derive(Debug, clap::Args)]
pub(crate) struct Diff {
    /// Media type to use for creating diff
    #[arg(
        long,
        value_name = "value",
        default_value = "application/vnd.oci.image.layer.v1.tar+gzip"
    )]
    media_type: String,
    /// Content upload reference to use
    #[arg(long, value_name = "value", default_value = "", hide_default_value = true)]
    r#ref: String,
    /// Keep diff content. up to creator to delete it.
    #[arg(long)]
    keep: bool,
    /// Labels to attach to the image
    #[arg(long, value_name = "value")]
    label: Vec<String>,
    /// The snapshot, then the one to compare it with
    words: Vec<String>,
}

/// The tree of a snapshot; one that was made for it is removed afterwards.
struct Tree {
    mounts: Vec<Mount>,
    view: Option<String>,
}

impl Diff {
    pub(super) async fn run(&self, reached: Reached) -> Outcome {
        let (first, second) = match &self.words[..] {
            [first] => (first, None),
            [first, second] => (first, Some(second)),
            _ => return usage(&["snapshots", "diff"]),
        };
        let lease = reached.client.lease().await?;
        let leased = Reached { client: lease.client()?, snapshotter: reached.snapshotter.clone() };
        let written = async {
            let (left, right) = match second {
                Some(second) => (leased.tree_of(first).await?, leased.tree_of(second).await?),
                None => {
                    let parent = leased.stat(first).await?.parent;
                    let left = leased.view_of(&format!("{first}-parent-view"), &parent).await?;
                    (left, leased.tree_of(first).await?)
                }
            };
            let written = self.write(&leased, &left, &right).await;
            for view in [left.view, right.view].into_iter().flatten() {
                leased.client.remove_snapshot(&leased.snapshotter, &view).await?;
            }
            written
        };
        let written = written.await;
        lease.release().await;
        written.map(|()| 0)
    }

    async fn write(&self, reached: &Reached, left: &Tree, right: &Tree) -> Result<()> {
        let mut labels = format::parse_labels(&self.label);
        if self.keep {
            labels.extend(root_labels());
        }
        let reference = match self.r#ref.as_str() {
            "" => format!("diff-{}", unique_id(SystemTime::now())),
            name => name.to_owned(),
        };
        let request = DiffRequest {
            left: left.mounts.clone(),
            right: right.mounts.clone(),
            media_type: self.media_type.clone(),
            r#ref: reference,
            labels,
            source_date_epoch: None,
        };
        let made = body(reached.client.diff().diff(request).await)?.diff.unwrap_or_default();
        let mut stdout = std::io::stdout();
        let mut blocks = std::pin::pin!(reached.client.blob_stream(&made.digest, 0).await?);
        while let Some(block) = blocks.next().await {
            stdout.write_all(&block?)?;
        }
        Ok(stdout.flush()?)
    }
}

impl Reached {
    /// The tree as it is now.
    async fn tree_of(&self, key: &str) -> Result<Tree> {
        if self.stat(key).await?.kind() == Kind::Active {
            return Ok(Tree { mounts: self.mounts(key).await?, view: None });
        }
        self.view_of(&format!("{key}-view"), key).await
    }

    async fn view_of(&self, name: &str, parent: &str) -> Result<Tree> {
        let key = format!("{name}-{}", unique_id(SystemTime::now()));
        let request = ViewSnapshotRequest {
            snapshotter: self.snapshotter.clone(),
            key: key.clone(),
            parent: parent.to_owned(),
            ..ViewSnapshotRequest::default()
        };
        let mounts = body(self.client.snapshots().view(request).await)?.mounts;
        Ok(Tree { mounts, view: Some(key) })
    }
}
