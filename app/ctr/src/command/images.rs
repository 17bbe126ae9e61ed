//! `images`.

mod export;
mod import;
mod list;
mod mounting;
mod progress;

use api_grpc::images::{CreateImageRequest, DeleteImageRequest, Image, UpdateImageRequest};
use api_grpc::transfer_types::ImageStore;
use api_shim::types::Descriptor;
use api_shim::typeurl;
use base_errors::Class;
use clap::Subcommand;
use client::Client;
use client::image::Platform;

use super::{FirstError, body, plain};
use crate::connection::Connection;
use crate::format;
use crate::{Outcome, log, say};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Check existing images to ensure all content is available locally
    Check(list::Check),
    /// Export images
    Export(export::Export),
    /// Import images
    Import(Box<import::Import>),
    /// List images known to containerd
    #[command(visible_alias = "ls")]
    List(list::List),
    /// Mount an image to a target path
    Mount(mounting::Mount),
    /// Unmount the image from the target
    Unmount(mounting::Unmount),
    /// Remove one or more images by reference
    #[command(visible_aliases = ["del", "remove", "rm"])]
    Delete {
        /// Synchronously remove image and all associated resources
        #[arg(long)]
        sync: bool,
        /// Images
        names: Vec<String>,
    },
    /// Tag an image
    Tag {
        /// Force target_ref to be created, regardless if it already exists
        #[arg(long)]
        force: bool,
        /// Run tag locally rather than through transfer API
        #[arg(long)]
        local: bool,
        /// Skip the strict check for reference names
        #[arg(long)]
        skip_reference_check: bool,
        /// Source, then targets
        words: Vec<String>,
    },
    /// Set and clear labels for an image
    Label {
        /// Replace all labels
        #[arg(long, short)]
        replace_all: bool,
        /// Image, then labels `key=value`; without a value the label is cleared
        words: Vec<String>,
    },
    /// Display usage of snapshots for a given image ref
    Usage {
        /// Snapshotter name. Empty value stands for the default value.
        #[arg(long, value_name = "value", env = "CONTAINERD_SNAPSHOTTER", default_value = "")]
        snapshotter: String,
        /// Image
        name: Option<String>,
    },
}

impl Command {
    pub(crate) async fn run(self, connection: &Connection) -> Outcome {
        match self {
            Command::Check(check) => check.run(connection).await,
            Command::Export(export) => export.run(connection).await,
            Command::Import(import) => import.run(connection).await,
            Command::List(list) => list.run(connection).await,
            Command::Mount(mount) => mount.run(connection).await,
            Command::Unmount(unmount) => unmount.run(connection).await,
            Command::Delete { sync, names } => delete(connection, sync, &names).await,
            Command::Tag { force, local, skip_reference_check: _, words } => {
                tag(connection, force, local, &words).await
            }
            Command::Label { replace_all, words } => label(connection, replace_all, &words).await,
            Command::Usage { snapshotter, name } => usage(connection, &snapshotter, name).await,
        }
    }
}

async fn delete(connection: &Connection, sync: bool, names: &[String]) -> Outcome {
    let client = connection.connect().await?;
    let mut first = FirstError::default();
    for (index, name) in names.iter().enumerate() {
        let request = DeleteImageRequest {
            name: name.clone(),
            // One collection after the last one serves all.
            sync: sync && index + 1 == names.len(),
            target: None,
        };
        match body(client.images().delete(request).await) {
            Ok(()) => say!("{name}"),
            Err(error) if error.is_not_found() => log::warn(format!("{name}: image not found")),
            Err(error) => {
                log::error(format!("unable to delete {name}"), &error);
                first.keep(error.context(format!("unable to delete {name}")));
            }
        }
    }
    first.outcome()
}

async fn tag(connection: &Connection, force: bool, local: bool, words: &[String]) -> Outcome {
    let (source, targets) = match words {
        [] => return Err(plain("please provide an image reference to tag from")),
        [source, targets @ ..] if !targets.is_empty() => (source, targets),
        _ => return Err(plain("please provide an image reference to tag to")),
    };
    let client = connection.connect().await?;
    for target in targets {
        if local || !transfer_tag(&client, source, target).await? {
            local_tag(&client, source, target, force).await?;
        }
        say!("{target}");
    }
    Ok(0)
}

/// Tags through the transfer service; false if the daemon has none.
async fn transfer_tag(client: &Client, source: &str, target: &str) -> base_errors::Result<bool> {
    let store = |name: &str| {
        typeurl::encode(&ImageStore { name: name.to_owned(), ..ImageStore::default() })
    };
    match client.transfer(store(source), store(target), None).await {
        Ok(()) => Ok(true),
        Err(error) if error.class() == Class::NotImplemented => Ok(false),
        Err(error) => Err(error),
    }
}

async fn local_tag(
    client: &Client,
    source: &str,
    target: &str,
    force: bool,
) -> base_errors::Result<()> {
    let image = Image { name: target.to_owned(), ..client.image(source).await? };
    let request = CreateImageRequest { image: Some(image), source_date_epoch: None };
    match body(client.images().create(request.clone()).await) {
        Err(error) if error.is_already_exists() && force => {}
        made => return made.map(drop),
    }
    let delete = DeleteImageRequest { name: target.to_owned(), ..DeleteImageRequest::default() };
    body(client.images().delete(delete).await)?;
    body(client.images().create(request).await).map(drop)
}

async fn label(connection: &Connection, replace_all: bool, words: &[String]) -> Outcome {
    let (name, labels) = words.split_first().ok_or_else(|| plain("please specify an image"))?;
    let labels = format::parse_labels(labels);
    let client = connection.connect().await?;
    // Nothing to change must not mean that everything is replaced.
    if labels.is_empty() && !replace_all {
        say!("{}", format::labels(&client.image(name).await?.labels, ""));
        return Ok(0);
    }
    let mut mask = format::label_paths(&labels);
    if replace_all {
        mask.paths = vec!["labels".to_owned()];
    }
    let request = UpdateImageRequest {
        image: Some(Image {
            name: name.clone(),
            labels,
            // COMPAT: containerd 2.1 dies of an image without one.
            target: Some(Descriptor::default()),
            ..Image::default()
        }),
        update_mask: Some(mask),
        source_date_epoch: None,
    };
    let image = body(client.images().update(request).await)?.image.unwrap_or_default();
    say!("{}", format::labels(&image.labels, ""));
    Ok(0)
}

async fn usage(connection: &Connection, snapshotter: &str, name: Option<String>) -> Outcome {
    use api_grpc::snapshots::{StatSnapshotRequest, UsageRequest};
    let name = name.ok_or_else(|| plain("image reference must be provided"))?;
    let client = connection.connect().await?;
    let snapshotter = client.snapshotter_or_default(snapshotter).await?;
    let image = client.image(&name).await?;
    let resolved = client.resolve_image(&image, &Platform::host()).await?;
    let mut table = format::TabWriter::narrow();
    table.line("KEY\tSIZE\tINODES\t");
    let mut key = resolved.chain_id();
    while !key.is_empty() {
        let stat = StatSnapshotRequest { snapshotter: snapshotter.clone(), key: key.clone() };
        let info = body(client.snapshots().stat(stat).await)?.info.unwrap_or_default();
        let usage = UsageRequest { snapshotter: snapshotter.clone(), key: key.clone() };
        let usage = body(client.snapshots().usage(usage).await)?;
        table.line(&format!("{key}\t{}\t{}\t", format::bytes(usage.size), usage.inodes));
        key = info.parent;
    }
    table.print()?;
    Ok(0)
}
