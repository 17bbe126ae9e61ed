//! Imports an archive into stores of its own below a folder and unpacks it with overlayfs, for
//! measuring: `import FOLDER ARCHIVE`. The folder must be empty; it is kept.

#![allow(clippy::print_stdout, reason = "a program for the command line")]

use std::io::Read as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow};
use base_ident::Namespace;
use bytes::Bytes;
use image_transfer::{
    ImageReference, ImageStoreOptions, ImportOptions, Platform, ProgressSender, Transferrer,
    TransferrerConfig, UnpackConfiguration, Unpacker,
};
use store_content::{LocalStore, NamespacedContent, SharingPolicy};
use store_diff::WalkingDiffer;
use store_metadata::{Metadata, Options, Scope};
use store_snapshot::{NamespacedSnapshots, OverlayConfig, OverlaySnapshotter};

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let root = arguments.next().context("import FOLDER ARCHIVE")?;
    let archive = arguments.next().context("import FOLDER ARCHIVE")?;
    let cores = std::thread::available_parallelism()?.get();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(import(root, archive, cores)).map_err(|error| anyhow!("{error}"))
}

async fn import(root: PathBuf, archive: PathBuf, cores: usize) -> base_errors::Result<()> {
    let options = Options { no_sync: false, lock_timeout: None };
    let metadata = Metadata::open(root.join("meta.db"), options)?;
    let backend = Arc::new(LocalStore::open(root.join("content"))?);
    let content = NamespacedContent::new(metadata.clone(), backend, SharingPolicy::Shared);
    let config = OverlayConfig { root_path: root.join("overlayfs"), ..OverlayConfig::default() };
    let overlay = Arc::new(OverlaySnapshotter::open(config)?);
    let unpacker = Unpacker {
        snapshots: NamespacedSnapshots::new(metadata.clone(), "overlayfs", overlay),
        differ: Arc::new(WalkingDiffer::new(Some(root.join("tmpmounts")))),
        platform: Platform::host(),
        can_rebase: true,
    };
    let transferrer = Transferrer::new(TransferrerConfig {
        metadata,
        content,
        unpackers: vec![unpacker],
        parallel: cores,
        sync_fs: false,
        listener: None,
    });
    let store = ImageStoreOptions {
        extra_references: vec![ImageReference {
            name: "example.test/import".to_owned(),
            is_prefix: true,
            allow_overwrite: true,
            ..ImageReference::default()
        }],
        unpacks: vec![UnpackConfiguration::default()],
        ..ImageStoreOptions::default()
    };
    // As the streaming service gives it: frames of 32 KiB.
    let mut file = std::fs::File::open(archive)?;
    let source = futures_util::stream::iter(std::iter::from_fn(move || {
        let mut buffer = vec![0; 32 << 10];
        match file.read(&mut buffer) {
            Ok(0) => None,
            Ok(length) => {
                buffer.truncate(length);
                Some(Ok(Bytes::from(buffer)))
            }
            Err(error) => Some(Err(error)),
        }
    }));
    let scope = Scope::new(Namespace::new("default")?);
    let progress = ProgressSender::default();
    let start = Instant::now();
    let images =
        transferrer.import(&scope, source, &ImportOptions::default(), &store, &progress).await?;
    println!("{:.3} s, {} images", start.elapsed().as_secs_f64(), images.len());
    Ok(())
}
