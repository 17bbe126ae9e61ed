//! `images import`.

use std::fs::File;
use std::os::fd::OwnedFd;

use api_grpc::transfer_types::{ImageReference, ImageStore, UnpackConfiguration};
use base_errors::{Error, Result};
use client::image::Platform;
use time::OffsetDateTime;

use super::progress::Progress;
use crate::Outcome;
use crate::command::plain;
use crate::connection::Connection;
use crate::format;
use crate::streams::Blocks;

/// Imports images from a tar archive of OCI or docker.
///
/// An archive of OCI may name its images by tags alone: `--base-name` then gives the rest of their
/// names; without it they are named `import-<date>`.
#[derive(Debug, clap::Args)]
pub(crate) struct Import {
    /// Base image name for added images, when provided only images with this name prefix are
    /// imported
    #[arg(long, value_name = "value", default_value = "", hide_default_value = true)]
    base_name: String,
    /// Whether to create digest images (default: false)
    #[arg(long)]
    digests: bool,
    /// Skip applying --digests option to images named in the importing tar (use it in conjunction
    /// with --digests)
    #[arg(long)]
    skip_digest_for_named: bool,
    /// Image name to keep index as, by default index is discarded
    #[arg(long, value_name = "value", default_value = "", hide_default_value = true)]
    index_name: String,
    /// Imports content for all platforms, false by default
    #[arg(long)]
    all_platforms: bool,
    /// Imports content for specific platform
    #[arg(long, value_name = "value")]
    platform: Option<String>,
    /// Skip unpacking the images, cannot be used with --discard-unpacked-layers, false by default
    #[arg(long)]
    no_unpack: bool,
    /// Compress uncompressed blobs when creating manifest (Docker format only)
    #[arg(long)]
    compress_blobs: bool,
    /// Snapshotter name. Empty value stands for the default value.
    #[arg(long, value_name = "value", env = "CONTAINERD_SNAPSHOTTER", default_value = "")]
    snapshotter: String,
    /// Labels to attach to the image
    #[arg(long, value_name = "value")]
    label: Vec<String>,
    /// The archive; `-` for the standard input
    archive: Option<String>,
}

impl Import {
    pub(super) async fn run(self, connection: &Connection) -> Outcome {
        let name = self.archive.as_deref().unwrap_or_default();
        let file = open(name)?;
        let mut store = self.store()?;
        let client = connection.connect().await?;
        if self.snapshotter.is_empty()
            && let Some(name) = client.namespace_label(client::SNAPSHOTTER_LABEL).await?
        {
            store.unpacks.iter_mut().for_each(|unpack| unpack.snapshotter.clone_from(&name));
        }
        let progress = Progress::new();
        let on_progress = progress.sink();
        let imported =
            client.import(Blocks::read(file), &store, self.compress_blobs, Some(on_progress)).await;
        progress.finish()?;
        imported?;
        Ok(0)
    }

    /// What is to be made of the archive.
    fn store(&self) -> Result<ImageStore> {
        let today = OffsetDateTime::now_utc().date();
        let (prefix, overwrite) = match self.base_name.as_str() {
            "" => (format!("import-{today}"), true),
            name => (name.to_owned(), false),
        };
        let platform = match (&self.platform, self.all_platforms) {
            (_, true) => None,
            (Some(platform), false) => Some(Platform::parse(platform)?),
            (None, false) => Some(Platform::host()),
        };
        let platforms: Vec<_> = platform.map(Into::into).into_iter().collect();
        let unpacks = if self.no_unpack {
            Vec::new()
        } else {
            let snapshotter = self.snapshotter.clone();
            vec![UnpackConfiguration { platform: platforms.first().cloned(), snapshotter }]
        };
        Ok(ImageStore {
            name: self.index_name.clone(),
            labels: format::parse_labels(&self.label),
            platforms,
            extra_references: vec![ImageReference {
                name: prefix,
                is_prefix: true,
                allow_overwrite: overwrite,
                add_digest: self.digests,
                skip_named_digest: self.digests && self.skip_digest_for_named,
            }],
            unpacks,
            ..ImageStore::default()
        })
    }
}

fn open(name: &str) -> Result<File> {
    match name {
        "" => Err(plain("please provide an archive to import")),
        "-" => {
            let stdin: OwnedFd = rustix::stdio::stdin().try_clone_to_owned()?;
            Ok(File::from(stdin))
        }
        name => File::open(name).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                plain(format!("open {name}: no such file or directory"))
            }
            _ => Error::from(error).context(format!("open {name}")),
        }),
    }
}
