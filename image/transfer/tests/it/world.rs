//! The stores of a daemon in a folder of their own.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use base_errors::Result;
use base_ident::filter::Filter;
use base_ident::{Digest, Namespace};
use bytes::Bytes;
use image_transfer::{
    ExportOptions, ImageChange, ImageReference, ImageStoreOptions, ImportOptions, Platform,
    Progress, ProgressSender, Transferrer, TransferrerConfig, UnpackConfiguration, Unpacker,
};
use store_content::{LocalStore, NamespacedContent, NamespacedStore, SharingPolicy, Store as _};
use store_diff::{Differ, WalkingDiffer};
use store_metadata::{Image, Metadata, Options, Scope};
use store_snapshot::{
    NamespacedSnapshots, NamespacedSnapshotter, NativeSnapshotter, OverlayConfig,
    OverlaySnapshotter, Snapshotter,
};
use tokio::sync::mpsc;

pub(crate) struct World {
    pub(crate) transferrer: Transferrer,
    pub(crate) metadata: Metadata,
    pub(crate) content: NamespacedContent,
    pub(crate) snapshots: Vec<NamespacedSnapshots>,
    pub(crate) changes: Arc<Mutex<Vec<String>>>,
    folder: tempfile::TempDir,
}

pub(crate) fn temp() -> tempfile::TempDir {
    let base = Path::new("/dev/shm");
    if base.is_dir() { tempfile::tempdir_in(base).unwrap() } else { tempfile::tempdir().unwrap() }
}

impl World {
    /// Stores with a native snapshotter, and overlayfs where it works.
    pub(crate) fn new() -> Self {
        World::with_differ(|differ| Arc::new(differ))
    }

    /// The same, with a differ made of the one that walks.
    pub(crate) fn with_differ(make: impl FnOnce(WalkingDiffer) -> Arc<dyn Differ>) -> Self {
        let folder = temp();
        let root = folder.path();
        let options = Options { no_sync: true, lock_timeout: None };
        let metadata = Metadata::open(root.join("meta.db"), options).unwrap();
        let backend = Arc::new(LocalStore::open(root.join("content")).unwrap());
        let content = NamespacedContent::new(metadata.clone(), backend, SharingPolicy::Shared);
        let native: Arc<dyn Snapshotter> =
            Arc::new(NativeSnapshotter::open(root.join("native")).unwrap());
        let mut snapshots = vec![NamespacedSnapshots::new(metadata.clone(), "native", native)];
        let config = OverlayConfig {
            root_path: root.join("overlayfs"),
            sync_remove: true,
            ..OverlayConfig::default()
        };
        match OverlaySnapshotter::open(config) {
            Ok(overlay) => {
                let overlay: Arc<dyn Snapshotter> = Arc::new(overlay);
                snapshots
                    .insert(0, NamespacedSnapshots::new(metadata.clone(), "overlayfs", overlay));
            }
            Err(error) => println!("without overlayfs: {error}"),
        }
        let differ = make(WalkingDiffer::new(Some(root.join("tmpmounts"))));
        let unpackers = snapshots
            .iter()
            .map(|snapshots| Unpacker {
                snapshots: snapshots.clone(),
                differ: differ.clone(),
                platform: Platform::host(),
                can_rebase: snapshots.name() == "overlayfs",
            })
            .collect();
        let changes = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&changes);
        let transferrer = Transferrer::new(TransferrerConfig {
            metadata: metadata.clone(),
            content: content.clone(),
            unpackers,
            parallel: 4,
            sync_fs: false,
            listener: Some(Arc::new(move |namespace, change| {
                let what = match change {
                    ImageChange::Created(_) => "create",
                    ImageChange::Updated(_) => "update",
                };
                heard.lock().unwrap().push(format!("{namespace} {what} {}", change.image().name));
            })),
        });
        World { transferrer, metadata, content, snapshots, changes, folder }
    }

    pub(crate) fn scope(&self) -> Scope {
        Scope::new(Namespace::new("test").unwrap())
    }

    pub(crate) fn store(&self) -> NamespacedStore {
        self.content.scope(self.scope())
    }

    pub(crate) fn snapshotter(&self, name: &str) -> Option<NamespacedSnapshotter> {
        let found = self.snapshots.iter().find(|snapshots| snapshots.name() == name);
        if found.is_none() {
            println!("skipped: no {name} here");
        }
        found.map(|snapshots| snapshots.scope(self.scope()))
    }

    /// Imports in chunks of odd sizes.
    pub(crate) async fn import(
        &self,
        archive: &[u8],
        store: &ImageStoreOptions,
    ) -> Result<Vec<ImageChange>> {
        self.import_with(archive, store, &ImportOptions::default(), &ProgressSender::default())
            .await
    }

    pub(crate) async fn import_with(
        &self,
        archive: &[u8],
        store: &ImageStoreOptions,
        options: &ImportOptions,
        progress: &ProgressSender,
    ) -> Result<Vec<ImageChange>> {
        let chunks: Vec<_> =
            archive.chunks(32_749).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        let source = futures_util::stream::iter(chunks);
        self.transferrer.import(&self.scope(), source, options, store, progress).await
    }

    pub(crate) async fn export(
        &self,
        store: &ImageStoreOptions,
        options: &ExportOptions,
    ) -> Result<Vec<u8>> {
        let (sender, mut receiver) = mpsc::channel::<Bytes>(2);
        let collect = async {
            let mut archive = Vec::new();
            while let Some(chunk) = receiver.recv().await {
                archive.extend_from_slice(&chunk);
            }
            archive
        };
        let scope = self.scope();
        let progress = ProgressSender::default();
        let export = self.transferrer.export(&scope, store, options, sender, &progress);
        let (exported, archive) = tokio::join!(export, collect);
        exported.map(|()| archive)
    }

    pub(crate) fn images(&self) -> Vec<Image> {
        let namespace = self.scope().namespace;
        self.metadata
            .view(|tx| Ok(tx.images(&namespace, &Filter::parse_all::<String>(&[])?)?))
            .unwrap()
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.images().into_iter().map(|image| image.name).collect()
    }

    /// Asserts that nothing is left that a finished transfer does not need.
    pub(crate) async fn assert_clean(&self) {
        let namespace = self.scope().namespace;
        let leases = self
            .metadata
            .view(|tx| Ok(tx.leases(&namespace, &Filter::parse_all::<String>(&[])?)?))
            .unwrap();
        assert!(leases.is_empty(), "{leases:?}");
        assert!(self.store().list_statuses(&[]).await.unwrap().is_empty());
        for snapshots in &self.snapshots {
            let list = snapshots.scope(self.scope()).list(&[]).await.unwrap();
            assert!(list.iter().all(|info| !info.name.starts_with("extract-")), "{list:?}");
        }
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains(self.folder.path().to_str().unwrap()), "{mounts}");
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().to_owned()
    }
}

/// All names that an archive has, and its images unpacked with `snapshotter`.
pub(crate) fn any_name(snapshotter: Option<&str>) -> ImageStoreOptions {
    ImageStoreOptions {
        extra_references: vec![ImageReference {
            name: "example.test/prefix".to_owned(),
            is_prefix: true,
            allow_overwrite: true,
            ..ImageReference::default()
        }],
        unpacks: snapshotter
            .map(|name| UnpackConfiguration {
                platform: Platform::default(),
                snapshotter: name.to_owned(),
            })
            .into_iter()
            .collect(),
        ..ImageStoreOptions::default()
    }
}

/// Takes all progress events.
pub(crate) fn listen() -> (ProgressSender, mpsc::Receiver<Progress>) {
    let (sender, receiver) = mpsc::channel(1000);
    (ProgressSender::new(sender), receiver)
}

pub(crate) fn digest(data: &[u8]) -> Digest {
    store_content::Hasher::hash(base_ident::Algorithm::Sha256, data)
}
