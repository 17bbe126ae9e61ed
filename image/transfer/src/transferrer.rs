//! The entry to all transfers.

use std::sync::Arc;

use base_errors::{Error, Result};
use base_ident::{Descriptor, Namespace};
use bytes::Bytes;
use futures_util::Stream;
use store_content::NamespacedContent;
use store_diff::Differ;
use store_metadata::{Metadata, Scope};
use store_snapshot::{NamespacedSnapshots, Snapshotter};
use tokio::sync::mpsc;

use crate::TransferError;
use crate::document::OciDescriptor;
use crate::export::{self, ExportOptions};
use crate::import::{self, ImportOptions};
use crate::lease::Lease;
use crate::names::{ANNOTATION_REF_SOURCE, ImageStoreOptions, UnpackConfiguration};
use crate::platform::{Matcher, Platform};
use crate::progress::{ImageChange, ImageListener, ProgressSender};
use crate::unpack::{UnpackOutcome, Unpacking};
use crate::walk::{self, Found, Selection};

/// A snapshotter with the differ that fills its snapshots, for one platform.
#[derive(Clone)]
pub struct Unpacker {
    /// The snapshots; their name is what clients ask for.
    pub snapshots: NamespacedSnapshots,
    /// Applies the layers.
    pub differ: Arc<dyn Differ>,
    /// The platform whose images it unpacks.
    pub platform: Platform,
    /// The snapshotter has the capability `rebase`: layers may be applied at the same time.
    pub can_rebase: bool,
}

/// What transfers work with.
#[derive(Clone)]
pub struct TransferrerConfig {
    /// The records.
    pub metadata: Metadata,
    /// The content.
    pub content: NamespacedContent,
    /// What can be unpacked to; the first is the default.
    pub unpackers: Vec<Unpacker>,
    /// Layers applied at the same time where the snapshotter allows it. More than cores is of no
    /// use: each layer keeps one and a half of them busy.
    pub parallel: usize,
    /// Flush the file system after each layer.
    pub sync_fs: bool,
    /// Is told what images are written.
    pub listener: Option<ImageListener>,
}

/// Moves images. Cheap to clone; transfers run at the same time.
#[derive(Clone)]
pub struct Transferrer {
    config: Arc<TransferrerConfig>,
}

impl Transferrer {
    /// A transferrer over these stores.
    #[must_use]
    pub fn new(config: TransferrerConfig) -> Self {
        Transferrer { config: Arc::new(config) }
    }

    /// Imports the images of an archive (OCI layout or docker's) from `source`, unpacks them as
    /// `store` says, and stores their records. Gives the images that were stored.
    ///
    /// CANCEL: a dropped call leaves no record; what it has brought goes with its lease.
    ///
    /// # Errors
    /// [`TransferError`] for archives that cannot be read; those of the stores. No record is left.
    pub async fn import(
        &self,
        scope: &Scope,
        source: impl Stream<Item = std::io::Result<Bytes>> + Send + Unpin,
        options: &ImportOptions,
        store: &ImageStoreOptions,
        progress: &ProgressSender,
    ) -> Result<Vec<ImageChange>> {
        let unpackers = self.unpackers(&store.unpacks)?;
        let lease = Lease::take(&self.config.metadata, scope).await?;
        let imported =
            self.import_leased(lease.scope(), source, options, store, &unpackers, progress).await;
        lease.release().await;
        imported
    }

    async fn import_leased(
        &self,
        scope: &Scope,
        source: impl Stream<Item = std::io::Result<Bytes>> + Send + Unpin,
        options: &ImportOptions,
        store: &ImageStoreOptions,
        unpackers: &[(Matcher, &Unpacker)],
        progress: &ProgressSender,
    ) -> Result<Vec<ImageChange>> {
        progress.say("Importing").await;
        let content = self.config.content.scope(scope.clone());
        let index = import::read(&content, source, options).await?;
        let mut targets = vec![index.to_descriptor()?];
        for child in import::children(&content, &index).await? {
            let mut target = child.to_descriptor()?;
            target.annotations.insert(ANNOTATION_REF_SOURCE.to_owned(), "annotation".to_owned());
            targets.push(target);
        }
        let matcher = store.matcher();
        let selection = Selection {
            matcher: &matcher,
            all_metadata: store.all_metadata,
            limit: usize::try_from(store.manifest_limit).unwrap_or(usize::MAX),
        };
        let found = walk::manifests(&content, &index, &selection).await?;
        if found.is_empty() {
            return Err(TransferError::Filtered.into());
        }
        for manifest in &found {
            walk::check_complete(&content, manifest).await?;
        }
        if !unpackers.is_empty() {
            for manifest in &found {
                self.unpack_found(scope, manifest, unpackers, progress).await?;
            }
        }
        let changes = self.store(scope, store, &targets).await?;
        for change in &changes {
            let image = change.image();
            progress
                .send(crate::Progress {
                    event: "saved".to_owned(),
                    name: image.name.clone(),
                    descriptor: Some(image.target.clone()),
                    ..crate::Progress::default()
                })
                .await;
        }
        progress.say("Completed import").await;
        Ok(changes)
    }

    /// Writes the images of `store` as an archive to `sink`, in order; the channel's bound is the
    /// back pressure. When `sink` closes the export ends.
    ///
    /// # Errors
    /// NotFound for images, platforms and content that are not there; those of the stores.
    pub async fn export(
        &self,
        scope: &Scope,
        store: &ImageStoreOptions,
        options: &ExportOptions,
        sink: mpsc::Sender<Bytes>,
        progress: &ProgressSender,
    ) -> Result<()> {
        let lease = Lease::take(&self.config.metadata, scope).await?;
        let exported = async {
            progress.say("Exporting").await;
            let images = store.lookup(&self.config.metadata, &scope.namespace)?;
            let content = self.config.content.scope(lease.scope().clone());
            export::write(&content, &images, options, sink).await?;
            progress.say("Completed export").await;
            Ok(())
        }
        .await;
        lease.release().await;
        exported
    }

    /// Gives the image of `source` the names of `destination` too.
    ///
    /// # Errors
    /// NotFound for the image, and for a destination without names.
    pub async fn tag(
        &self,
        scope: &Scope,
        source: &ImageStoreOptions,
        destination: &ImageStoreOptions,
    ) -> Result<Vec<ImageChange>> {
        let image = source.get(&self.config.metadata, &scope.namespace)?;
        let changes = self.store(scope, destination, &[image.target]).await?;
        if changes.is_empty() {
            return Err(TransferError::NoName.into());
        }
        Ok(changes)
    }

    /// Unpacks an image that is in the content store.
    ///
    /// # Errors
    /// NotFound if it has no manifest for the platform; those of the stores.
    pub async fn unpack(
        &self,
        scope: &Scope,
        target: &Descriptor,
        wish: &UnpackConfiguration,
        progress: &ProgressSender,
    ) -> Result<UnpackOutcome> {
        let unpackers = self.unpackers(std::slice::from_ref(wish))?;
        let lease = Lease::take(&self.config.metadata, scope).await?;
        let unpacked = async {
            let Some((matcher, _)) = unpackers.first() else {
                return Err(TransferError::NoUnpacker.into());
            };
            let content = self.config.content.scope(lease.scope().clone());
            let selection = Selection { matcher, all_metadata: false, limit: 1 };
            let root = OciDescriptor::from(target);
            let found = walk::manifests(&content, &root, &selection).await?;
            let found = found.first().ok_or(TransferError::NoPlatform)?;
            self.unpack_found(lease.scope(), found, &unpackers, progress)
                .await?
                .ok_or_else(|| Error::from(TransferError::NoPlatform))
        }
        .await;
        lease.release().await;
        unpacked
    }

    /// Unpacks one manifest, if it is an image for one of the unpackers.
    async fn unpack_found(
        &self,
        scope: &Scope,
        found: &Found,
        unpackers: &[(Matcher, &Unpacker)],
        progress: &ProgressSender,
    ) -> Result<Option<UnpackOutcome>> {
        let content = self.config.content.scope(scope.clone());
        let Some(config) = walk::config(&content, found).await? else { return Ok(None) };
        let Some((_, unpacker)) =
            unpackers.iter().find(|(matcher, _)| matcher.matches(&config.platform))
        else {
            return Ok(None);
        };
        let snapshotter = unpacker.snapshots.scope(scope.clone());
        let unpacking = Unpacking {
            content: &content,
            snapshotter: &snapshotter as &dyn Snapshotter,
            name: unpacker.snapshots.name(),
            differ: &*unpacker.differ,
            scope,
            parallel: if unpacker.can_rebase { self.config.parallel } else { 1 },
            sync_fs: self.config.sync_fs,
            progress,
        };
        unpacking.run(found, &config).await.map(Some)
    }

    /// The unpackers for these wishes; those that cannot be met are left out.
    fn unpackers(&self, wishes: &[UnpackConfiguration]) -> Result<Vec<(Matcher, &Unpacker)>> {
        let found: Vec<_> = wishes
            .iter()
            .filter_map(|wish| {
                let any_platform =
                    wish.platform.os.is_empty() && wish.platform.architecture.is_empty();
                let unpacker = self.config.unpackers.iter().find(|unpacker| {
                    (wish.snapshotter.is_empty() || unpacker.snapshots.name() == wish.snapshotter)
                        && (any_platform
                            || Matcher::runs_on(&unpacker.platform).matches(&wish.platform))
                })?;
                let platform = if any_platform { &unpacker.platform } else { &wish.platform };
                Some((Matcher::runs_on(platform), unpacker))
            })
            .collect();
        if found.is_empty() && !wishes.is_empty() {
            return Err(TransferError::NoUnpacker.into());
        }
        Ok(found)
    }

    /// Stores image records and tells the listener.
    async fn store(
        &self,
        scope: &Scope,
        store: &ImageStoreOptions,
        targets: &[Descriptor],
    ) -> Result<Vec<ImageChange>> {
        let changes = store.store(&self.config.metadata, scope, targets).await?;
        self.tell(&scope.namespace, &changes);
        Ok(changes)
    }

    fn tell(&self, namespace: &Namespace, changes: &[ImageChange]) {
        if let Some(listener) = &self.config.listener {
            for change in changes {
                listener(namespace, change);
            }
        }
    }
}
