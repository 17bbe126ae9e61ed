//! Committed snapshots that a loss of power has damaged.
//!
//! What a layer took on the disk when it was committed stands in its record: the number of files, and
//! the bytes of their blocks. A file that lost its data, or its name, makes the tree smaller. Such a
//! tree is unpacked anew from its blob and changes places with the damaged one. A tree whose blob is
//! gone or wrong stays as it is, and is named in the log.
//!
//! ```text
//! overlayfs   snapshots/<id>/fs            the layer
//! native      snapshots/<id>               a copy of the parent's tree with the layer
//! erofs       snapshots/<id>/layer.erofs   an image of the layer
//! blockfile   snapshots/<id>               a copy of the parent's image with the layer
//! ```
//!
//! Those of btrfs and devmapper are not looked at: a commit there is a transaction of the file system
//! or of the pool, which keep sums of all that they need to find a tree again.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
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

/// Bytes at the start of an image where every file system has something to be known by.
const HEAD: u64 = 128 << 10;

/// How a snapshotter keeps its committed trees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// A folder with a layer alone.
    Layer,
    /// A folder with all files.
    Whole,
    /// An image of a layer alone.
    Erofs,
    /// An image of a file system with all files.
    Blockfile,
}

impl Form {
    /// Of the snapshotter `name`; none for those that are not looked at.
    fn of(name: &str) -> Option<Form> {
        match name {
            "overlayfs" => Some(Form::Layer),
            "native" => Some(Form::Whole),
            "erofs" => Some(Form::Erofs),
            "blockfile" => Some(Form::Blockfile),
            _ => None,
        }
    }

    /// The tree with this id in the folder of its snapshotter.
    fn path(self, folder: &Path, id: u64) -> PathBuf {
        let own = folder.join("snapshots").join(id.to_string());
        match self {
            Form::Layer => own.join("fs"),
            Form::Erofs => own.join("layer.erofs"),
            Form::Whole | Form::Blockfile => own,
        }
    }

    /// Its trees hold what their parents' hold.
    fn needs_parent(self) -> bool {
        matches!(self, Form::Whole | Form::Blockfile)
    }
}

/// A committed snapshot.
#[derive(Clone, Debug)]
struct Tree {
    backend: String,
    /// The key of its parent, or nothing.
    parent: String,
    id: u64,
    recorded: Usage,
}

/// Measures all committed trees and mends those that lost something.
pub(super) fn verify(places: &Places, runtime: &tokio::runtime::Runtime, tally: &mut Tally) {
    for (name, folder) in &places.snapshotters {
        let Some(form) = Form::of(name) else { continue };
        let path = folder.join("metadata.db");
        let trees = match committed(&path) {
            Ok(trees) => trees,
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "cannot read the snapshots");
                continue;
            }
        };
        let damaged = damaged(folder, form, &trees);
        tracing::info!(snapshotter = name, trees = trees.len(), damaged = damaged.len(), "checked");
        if damaged.is_empty() {
            continue;
        }
        let layers = documents::layers(&documents::blobs(&places.content));
        for tree in damaged {
            let parent = trees.iter().find(|other| other.backend == tree.parent);
            let damage = Damage { places, folder, form, tree: &tree, parent, layers: &layers };
            match runtime.block_on(damage.mend()) {
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

/// All committed snapshots that tell what they take; parents come before their children.
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
        let parent = record.get(b"parent")?.unwrap_or_default();
        if let (Some(id), Some(inodes), Some(size)) = (id, number(b"inodes")?, number(b"size")?) {
            trees.push(Tree {
                backend: String::from_utf8_lossy(key).into_owned(),
                parent: String::from_utf8_lossy(parent).into_owned(),
                id,
                recorded: Usage { inodes, size },
            });
        }
    }
    let parents: BTreeMap<String, String> =
        trees.iter().map(|tree| (tree.backend.clone(), tree.parent.clone())).collect();
    trees.sort_by_cached_key(|tree| {
        let mut next = Some(&tree.parent);
        // A damaged record may make a circle.
        (0..parents.len())
            .take_while(|_| {
                next = next.and_then(|key| parents.get(key));
                next.is_some()
            })
            .count()
    });
    Ok(trees)
}

/// Those that take less than when they were committed, in the same order.
fn damaged(folder: &Path, form: Form, trees: &[Tree]) -> Vec<Tree> {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let found = std::sync::Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..MEASURERS.min(trees.len()) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let Some(tree) = trees.get(at) else { return };
                    if is_damaged(&form.path(folder, tree.id), form, tree)
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

fn is_damaged(path: &Path, form: Form, tree: &Tree) -> bool {
    let looked = match form {
        Form::Blockfile => is_no_image(path, tree.recorded.size),
        Form::Layer | Form::Whole | Form::Erofs => base_fs::disk_usage(path)
            // Blocks that a file system had set aside may have gone since: then nothing is lost but
            // the time to unpack.
            .map(|now| now.inodes != tree.recorded.inodes || now.size < tree.recorded.size)
            .map_err(anyhow::Error::from),
    };
    looked.unwrap_or_else(|error| {
        tracing::error!(%error, "a committed tree cannot be read");
        true
    })
}

/// Whether an image is shorter than it was, or begins with nothing.
fn is_no_image(path: &Path, length: u64) -> Result<bool> {
    let file = fs::File::open(path).with_context(|| path.display().to_string())?;
    if file.metadata()?.len() < length {
        return Ok(true);
    }
    let mut head = Vec::new();
    file.take(HEAD).read_to_end(&mut head)?;
    Ok(head.iter().all(|byte| *byte == 0))
}

/// A tree that is not whole, and what is needed to mend it.
struct Damage<'a> {
    places: &'a Places,
    folder: &'a Path,
    form: Form,
    tree: &'a Tree,
    parent: Option<&'a Tree>,
    layers: &'a BTreeMap<String, Layer>,
}

impl Damage<'_> {
    /// Unpacks the layer of the tree beside it, and exchanges the two.
    async fn mend(&self) -> Result<()> {
        let chain = self.tree.backend.splitn(3, '/').nth(2).unwrap_or_default();
        let layer = self.layers.get(chain).context("no image has a layer for it")?;
        let old = self.form.path(self.folder, self.tree.id);
        // The snapshotter removes it with its next cleanup, should we not come further.
        let temporary = self.folder.join("snapshots").join(format!("new-mended-{}", self.tree.id));
        base_fs::remove_all(&temporary)?;
        let outcome = match self.make(&temporary, layer, &old).await {
            Ok(fresh) => self.exchange(&fresh, &old),
            Err(error) => Err(error),
        };
        if let Err(error) = base_fs::remove_all(&temporary) {
            tracing::warn!(%error, "the damaged tree stays until the next cleanup");
        }
        outcome
    }

    /// Makes the tree anew at or below `temporary`, durably, and tells where.
    async fn make(&self, temporary: &Path, layer: &Layer, old: &Path) -> Result<PathBuf> {
        let parent = match (self.parent, self.tree.parent.as_str()) {
            (None, "") => None,
            (Some(parent), _) => Some(self.form.path(self.folder, parent.id)),
            (None, key) => bail!("its parent {key} is gone"),
        };
        // Parents come first, so that what is damaged now stays damaged.
        if self.form.needs_parent()
            && let (Some(parent), Some(path)) = (self.parent, &parent)
        {
            ensure!(!is_damaged(path, self.form, parent), "its parent is damaged");
        }
        match self.form {
            Form::Layer => {
                let fresh = temporary.join("fs");
                self.unpack_layer(layer, old, &fresh).await?;
                Ok(fresh)
            }
            Form::Whole => {
                match parent {
                    Some(parent) => base_fs::copy_tree(parent, temporary)?,
                    None => fs::create_dir_all(temporary)?,
                }
                if let Ok(top) = fs::symlink_metadata(old) {
                    fs::set_permissions(temporary, top.permissions())?;
                }
                self.unpack(layer, bind(temporary), false).await?;
                base_fs::sync_file_system(temporary)?;
                Ok(temporary.to_owned())
            }
            Form::Erofs => {
                let (folder, fresh) = (temporary.join("fs"), temporary.join("layer.erofs"));
                self.unpack_layer(layer, &old.with_file_name("fs"), &folder).await?;
                store_snapshot::make_erofs_layer(&folder, &fresh).map_err(described)?;
                // Without the flag it is as good.
                let _ = kernel_mount::set_immutable(old, false);
                Ok(fresh)
            }
            Form::Blockfile => {
                let source = parent.unwrap_or_else(|| self.folder.join("scratch"));
                store_snapshot::copy_image(&source, temporary).map_err(described)?;
                self.unpack(layer, self.places.blockfile_mount(temporary), false).await?;
                fs::File::open(temporary)?.sync_all()?;
                Ok(temporary.to_owned())
            }
        }
    }

    /// Unpacks the layer alone to the new folder `fresh`, which gets the owner of `top`.
    async fn unpack_layer(&self, layer: &Layer, top: &Path, fresh: &Path) -> Result<()> {
        fs::create_dir_all(fresh).with_context(|| fresh.display().to_string())?;
        // A layer need not say whose its top folder is.
        if let Ok(top) = fs::symlink_metadata(top) {
            std::os::unix::fs::lchown(fresh, Some(top.uid()), Some(top.gid()))?;
            fs::set_permissions(fresh, top.permissions())?;
        }
        self.unpack(layer, bind(fresh), !layer.base).await
    }

    /// Applies the layer to a mount, durably.
    async fn unpack(&self, layer: &Layer, mount: Mount, parent_comes_later: bool) -> Result<()> {
        let content = LocalStore::open(&self.places.content).map_err(described)?;
        let descriptor = Descriptor {
            media_type: layer.media_type.clone(),
            digest: Digest::parse(&layer.digest)?,
            size: 0,
            annotations: BTreeMap::new(),
        };
        let options = ApplyOptions { sync_fs: true, parent_comes_later, ..ApplyOptions::default() };
        let differ = WalkingDiffer::new(Some(self.places.temporary.clone()));
        let applied =
            differ.apply(&content, &descriptor, &[mount], options).await.map_err(described)?;
        ensure!(
            applied.digest.to_string() == layer.diff_id,
            "the blob unpacks to {}, not to {}",
            applied.digest,
            layer.diff_id
        );
        Ok(())
    }

    /// Has `fresh` change places with `old`, and writes down what it takes.
    fn exchange(&self, fresh: &Path, old: &Path) -> Result<()> {
        let home = old.parent().context("a tree has a folder above it")?;
        let needed = match self.form {
            // Its owner is that of children.
            Form::Erofs => home.join("fs"),
            Form::Layer | Form::Whole | Form::Blockfile => home.to_owned(),
        };
        fs::create_dir_all(&needed).with_context(|| needed.display().to_string())?;
        let flags = if old.exists() { RenameFlags::EXCHANGE } else { RenameFlags::NOREPLACE };
        rustix::fs::renameat_with(CWD, fresh, CWD, old, flags)
            .with_context(|| format!("exchange {}", old.display()))?;
        // DURABILITY: the new tree was flushed before; this makes it the snapshot's.
        base_fs::failpoint::hit("recovery.tree.exchanged")?;
        base_fs::fsync_dir(home)?;
        let usage = match self.form {
            Form::Blockfile => self.tree.recorded,
            Form::Layer | Form::Whole | Form::Erofs => base_fs::disk_usage(old)?,
        };
        note(&self.folder.join("metadata.db"), &self.tree.backend, usage)
    }
}

fn described(error: base_errors::Error) -> anyhow::Error {
    anyhow::anyhow!("{error}")
}

fn bind(folder: &Path) -> Mount {
    Mount {
        kind: "bind".to_owned(),
        source: folder.display().to_string(),
        target: String::new(),
        options: vec!["rw".to_owned(), "rbind".to_owned()],
    }
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
