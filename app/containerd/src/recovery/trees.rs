//! Committed snapshots that a loss of power has damaged.
//!
//! What a layer took on the disk when it was committed stands in its record: the number of files, and
//! the bytes of their blocks. A file that lost its data, or its name, makes the tree smaller. Such a
//! tree is unpacked anew from its blob and changes places with the damaged one. A tree whose blob is
//! gone or wrong stays as it is, and is named in the log.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base_fs::Usage;
use base_ident::{Descriptor, Digest};
use kernel_mount::Mount;
use rustix::fs::{CWD, RenameFlags};
use store_bolt::{Db, Entry, Options, value};
use store_content::LocalStore;
use store_diff::{ApplyOptions, Differ as _, WalkingDiffer};

use super::Tally;
use super::documents::{self, Layer};
use super::places::Places;

/// Trees that are measured at the same time: enough to keep a disk busy.
const MEASURERS: usize = 4;

/// How long the database is waited for: nobody else should have it.
const LOCK_WAIT: Duration = Duration::from_secs(1);

/// A committed snapshot.
#[derive(Clone, Debug)]
struct Tree {
    backend: String,
    id: u64,
    recorded: Usage,
}

/// Measures all committed trees and mends those that lost something.
pub(super) fn verify(places: &Places, runtime: &tokio::runtime::Runtime, tally: &mut Tally) {
    for (name, folder) in &places.snapshotters {
        // Where a tree is, and what it can be made of, is known of these alone.
        let inner = match name.as_str() {
            "overlayfs" => "fs",
            "native" => "",
            _ => continue,
        };
        let path = folder.join("metadata.db");
        let trees = match committed(&path) {
            Ok(trees) => trees,
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "cannot read the snapshots");
                continue;
            }
        };
        let damaged = damaged(folder, inner, &trees);
        tracing::info!(snapshotter = name, trees = trees.len(), damaged = damaged.len(), "checked");
        if damaged.is_empty() {
            continue;
        }
        let layers = documents::layers(&documents::blobs(&places.content));
        for tree in damaged {
            let mended = if inner.is_empty() {
                Err(anyhow::anyhow!("a tree of {name} is made of several layers"))
            } else {
                runtime.block_on(mend(places, folder, &tree, &layers))
            };
            match mended {
                Ok(()) => {
                    tracing::warn!(snapshot = tree.backend, "lost files; unpacked anew");
                    tally.add("tree_unpacked", 1);
                }
                Err(error) => {
                    tracing::error!(
                        snapshot = tree.backend,
                        error = format!("{error:#}"),
                        "lost files, and cannot be unpacked anew: remove its image and pull it again"
                    );
                    tally.add("tree_damaged", 1);
                }
            }
        }
    }
}

/// All committed snapshots that tell what they take.
fn committed(path: &Path) -> Result<Vec<Tree>, store_bolt::Error> {
    let mut trees = Vec::new();
    if !path.exists() {
        return Ok(trees);
    }
    let options = Options { read_only: true, lock_timeout: Some(LOCK_WAIT), ..Options::default() };
    let db = Db::open(path, options)?;
    let tx = db.view()?;
    let Some(bucket) = tx.root().path(&[b"v1", b"snapshots"])? else { return Ok(trees) };
    for entry in bucket.iter() {
        let (key, Entry::Bucket(record)) = entry? else { continue };
        if record.get(b"kind")? != Some(&[3]) {
            continue;
        }
        let number = |key: &[u8]| record.get(key).map(|value| value.and_then(value::read_count));
        let id = record.get(b"id")?.and_then(value::read_uvarint);
        if let (Some(id), Some(inodes), Some(size)) = (id, number(b"inodes")?, number(b"size")?) {
            trees.push(Tree {
                backend: String::from_utf8_lossy(key).into_owned(),
                id,
                recorded: Usage { inodes, size },
            });
        }
    }
    Ok(trees)
}

/// Those that take less than when they were committed.
fn damaged(folder: &Path, inner: &str, trees: &[Tree]) -> Vec<Tree> {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let found = std::sync::Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..MEASURERS.min(trees.len()) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let Some(tree) = trees.get(at) else { return };
                    let path = folder.join("snapshots").join(tree.id.to_string()).join(inner);
                    if is_damaged(&path, tree)
                        && let Ok(mut found) = found.lock()
                    {
                        found.insert(at, tree.clone());
                    }
                }
            });
        }
    });
    found.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).into_values().collect()
}

fn is_damaged(path: &Path, tree: &Tree) -> bool {
    match base_fs::disk_usage(path) {
        // Blocks that a file system had set aside may have gone since: then nothing is lost but the
        // time to unpack.
        Ok(now) => now.inodes != tree.recorded.inodes || now.size < tree.recorded.size,
        Err(error) => {
            tracing::error!(%error, "a committed tree cannot be read");
            true
        }
    }
}

/// Unpacks the layer of `tree` beside it, and exchanges the two.
async fn mend(
    places: &Places,
    folder: &Path,
    tree: &Tree,
    layers: &BTreeMap<String, Layer>,
) -> Result<()> {
    let chain = tree.backend.splitn(3, '/').nth(2).unwrap_or_default();
    let layer = layers.get(chain).context("no image has a layer for it")?;
    let digest = Digest::parse(&layer.digest)?;
    let content = LocalStore::open(&places.content).map_err(described)?;
    let home = folder.join("snapshots").join(tree.id.to_string());
    let old = home.join("fs");
    // The snapshotter removes it with its next cleanup, should we not come further.
    let temporary = folder.join("snapshots").join(format!("new-mended-{}", tree.id));
    base_fs::remove_all(&temporary)?;
    let fresh = temporary.join("fs");
    fs::create_dir_all(&fresh).with_context(|| fresh.display().to_string())?;
    let unpacked = unpack(places, &content, layer, digest, &old, &fresh).await;
    let outcome = unpacked.and_then(|usage| {
        if !old.exists() {
            fs::create_dir_all(&old).with_context(|| old.display().to_string())?;
        }
        rustix::fs::renameat_with(CWD, &fresh, CWD, &old, RenameFlags::EXCHANGE)
            .with_context(|| format!("exchange {}", old.display()))?;
        // DURABILITY: the new tree was flushed before; this makes it the snapshot's.
        base_fs::failpoint::hit("recovery.tree.exchanged")?;
        base_fs::fsync_dir(&home)?;
        note(&folder.join("metadata.db"), &tree.backend, usage)
    });
    if let Err(error) = base_fs::remove_all(&temporary) {
        tracing::warn!(%error, "the damaged tree stays until the next cleanup");
    }
    outcome
}

fn described(error: base_errors::Error) -> anyhow::Error {
    anyhow::anyhow!("{error}")
}

async fn unpack(
    places: &Places,
    content: &LocalStore,
    layer: &Layer,
    digest: Digest,
    old: &Path,
    fresh: &Path,
) -> Result<Usage> {
    // A layer need not say whose its top folder is.
    if let Ok(top) = fs::symlink_metadata(old) {
        std::os::unix::fs::lchown(fresh, Some(top.uid()), Some(top.gid()))?;
        fs::set_permissions(fresh, top.permissions())?;
    }
    let mount = Mount {
        kind: "bind".to_owned(),
        source: fresh.display().to_string(),
        target: String::new(),
        options: vec!["rw".to_owned(), "rbind".to_owned()],
    };
    let descriptor = Descriptor {
        media_type: layer.media_type.clone(),
        digest,
        size: 0,
        annotations: BTreeMap::new(),
    };
    let options =
        ApplyOptions { sync_fs: true, parent_comes_later: !layer.base, ..ApplyOptions::default() };
    let differ = WalkingDiffer::new(Some(places.temporary.clone()));
    let applied = differ.apply(content, &descriptor, &[mount], options).await.map_err(described)?;
    ensure!(
        applied.digest.to_string() == layer.diff_id,
        "the blob unpacks to {}, not to {}",
        applied.digest,
        layer.diff_id
    );
    Ok(base_fs::disk_usage(fresh)?)
}

/// Writes what the new tree takes into its record.
fn note(path: &Path, backend: &str, usage: Usage) -> Result<()> {
    let options = Options { lock_timeout: Some(LOCK_WAIT), ..Options::default() };
    let db = Db::open(path, options)?;
    let key = backend.as_bytes().to_vec();
    let found = db.update(move |tx| {
        let Some(mut snapshots) = tx.bucket(b"v1")? else { return Ok(false) };
        let Some(mut record) = snapshots.bucket_path(&[b"snapshots", &key])? else {
            return Ok::<_, store_bolt::Error>(false);
        };
        record.put(b"inodes", &value::count(usage.inodes))?;
        record.put(b"size", &value::count(usage.size))?;
        Ok(true)
    })?;
    if !found {
        bail!("its record is gone");
    }
    Ok(())
}
