//! Records that a backup or an empty file does not have, made anew from what is there.
//!
//! Nothing that has a record is touched. Snapshots come from the snapshotters' own databases, which
//! name the namespace of each; blobs from the content store, for every namespace that is known;
//! images from the manifests that nothing refers to; containers from the bundles of tasks. A lease
//! of [`KEPT`] holds all of it, so that the collector leaves a person the time to look.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use base_ident::{Namespace, timestamp};
use store_bolt::{Bucket, BucketMut, Db, Entry, Error, Options, WriteTx, value};

use super::documents::{self, Blob, Document};
use super::places::{Places, names};
use super::{Causes, Tally, encode::any};

/// How long what was found is held.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// How long the files are waited for: nobody else should have them.
const LOCK_WAIT: Duration = Duration::from_secs(1);

/// The largest specification of a container that is read.
const MAX_SPEC: u64 = 16 << 20;

/// The type of a specification.
const SPEC: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";

const V1: &[u8] = b"v1";
const CREATED: &[u8] = b"createdat";
const UPDATED: &[u8] = b"updatedat";

/// Keys and values of a bucket.
type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// A snapshot as its snapshotter has it.
struct Snapshot {
    snapshotter: String,
    namespace: String,
    number: u64,
    key: String,
    backend: String,
    parent: Option<String>,
    active: bool,
    created: Vec<u8>,
    updated: Vec<u8>,
    labels: Pairs,
}

/// A bundle of a task.
struct Bundle {
    namespace: String,
    id: String,
    runtime: String,
    spec: Vec<u8>,
}

/// Adds what is missing to `meta.db`.
///
/// # Errors
/// Those of the database.
pub(super) fn complete(places: &Places, tally: &mut Tally) -> Result<(), Error> {
    let mut snapshots = Vec::new();
    for (name, folder) in &places.snapshotters {
        let path = folder.join("metadata.db");
        if let Err(error) = read_snapshots(name, &path, &mut snapshots) {
            let error = Causes(&error);
            tracing::error!(path = %path.display(), %error, "not all snapshots can be read");
        }
    }
    let blobs = documents::blobs(&places.content);
    let bundles = read_bundles(&places.bundles);
    if let Some(folder) = places.metadata.parent() {
        fs::create_dir_all(folder).map_err(|source| Error::Io {
            action: "create",
            path: folder.to_path_buf(),
            source: source.into(),
        })?;
    }
    let options = Options {
        store_freelist: false,
        lock_timeout: Some(LOCK_WAIT),
        mode: 0o644,
        ..Options::default()
    };
    let db = Db::open(&places.metadata, options)?;
    let counts = db.update(move |tx| add(tx, &snapshots, &blobs, &bundles))?;
    for (what, count) in counts {
        tracing::warn!(what, count, "records were made anew");
        tally.add(what, count);
    }
    Ok(())
}

type Counts = BTreeMap<&'static str, u64>;

fn add(
    tx: &mut WriteTx<'_>,
    snapshots: &[Snapshot],
    blobs: &BTreeMap<String, Blob>,
    bundles: &[Bundle],
) -> Result<Counts, Error> {
    let mut counts = Counts::new();
    if tx.read().bucket(V1)?.is_none() {
        // A file of our version needs no migration.
        tx.create_bucket_if_missing(&[V1])?.put(b"version", &value::count(4))?;
    }
    let mut namespaces: BTreeSet<String> = BTreeSet::new();
    if let Some(v1) = tx.read().bucket(V1)? {
        for entry in v1.iter() {
            if let (name, Entry::Bucket(_)) = entry? {
                namespaces.insert(String::from_utf8_lossy(name).into_owned());
            }
        }
    }
    namespaces.extend(snapshots.iter().map(|snapshot| snapshot.namespace.clone()));
    namespaces.extend(bundles.iter().map(|bundle| bundle.namespace.clone()));
    if namespaces.is_empty() {
        namespaces.insert("default".to_owned());
    }
    let mut leases: BTreeMap<String, Held> = BTreeMap::new();
    for snapshot in snapshots {
        if add_snapshot(tx, snapshot)? {
            *counts.entry("snapshot_record").or_default() += 1;
            let held = leases.entry(snapshot.namespace.clone()).or_default();
            held.snapshots.push((snapshot.snapshotter.clone(), snapshot.key.clone()));
        }
    }
    let recorded = recorded_blobs(tx, &namespaces)?;
    for namespace in &namespaces {
        let held = leases.entry(namespace.clone()).or_default();
        // A blob that one namespace has is that one's alone.
        for (digest, blob) in blobs.iter().filter(|(digest, _)| !recorded.contains(*digest)) {
            add_blob(tx, namespace, digest, blob, blobs, snapshots)?;
            *counts.entry("blob_record").or_default() += 1;
            held.blobs.push(digest.clone());
        }
        let images = add_images(tx, namespace, blobs, &recorded)?;
        *counts.entry("image_record").or_default() += images;
    }
    for bundle in bundles {
        if add_container(tx, bundle, snapshots)? {
            *counts.entry("container_record").or_default() += 1;
        }
    }
    for (namespace, held) in leases {
        add_lease(tx, &namespace, &held)?;
    }
    counts.retain(|_, count| *count > 0);
    Ok(counts)
}

/// What a lease holds.
#[derive(Default)]
struct Held {
    blobs: Vec<String>,
    snapshots: Vec<(String, String)>,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Reads all snapshots of a snapshotter; ends at the first page that cannot be read.
fn read_snapshots(name: &str, path: &Path, all: &mut Vec<Snapshot>) -> Result<(), Error> {
    if !path.exists() {
        return Ok(());
    }
    let options = Options { read_only: true, lock_timeout: Some(LOCK_WAIT), ..Options::default() };
    let db = Db::open(path, options)?;
    let tx = db.view()?;
    let Some(bucket) = tx.root().path(&[V1, b"snapshots"])? else { return Ok(()) };
    for entry in bucket.iter() {
        let (backend, Entry::Bucket(record)) = entry? else { continue };
        let backend = text(backend);
        // The namespace, a number, and the client's key, which may have slashes.
        let mut parts = backend.splitn(3, '/');
        let (Some(namespace), Some(number), Some(key)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let Ok(number) = number.parse() else { continue };
        if Namespace::new(namespace).is_err() || key.is_empty() {
            continue;
        }
        let value = |key: &[u8]| record.get(key).map(|value| value.map(<[u8]>::to_vec));
        all.push(Snapshot {
            snapshotter: name.to_owned(),
            namespace: namespace.to_owned(),
            number,
            key: key.to_owned(),
            parent: value(b"parent")?
                .and_then(|parent| text(&parent).splitn(3, '/').nth(2).map(str::to_owned)),
            active: value(b"kind")?.as_deref() != Some(&[3]),
            created: value(CREATED)?.unwrap_or_default(),
            updated: value(UPDATED)?.unwrap_or_default(),
            labels: pairs(record.bucket(b"labels")?)?,
            backend,
        });
    }
    Ok(())
}

fn pairs(bucket: Option<Bucket<'_>>) -> Result<Pairs, Error> {
    let mut pairs = Vec::new();
    if let Some(bucket) = bucket {
        for entry in bucket.iter() {
            if let (key, Entry::Value(value)) = entry? {
                pairs.push((key.to_vec(), value.to_vec()));
            }
        }
    }
    Ok(pairs)
}

/// Records a snapshot whose name in the snapshotter no record has; says whether it did.
fn add_snapshot(tx: &mut WriteTx<'_>, snapshot: &Snapshot) -> Result<bool, Error> {
    let path = [V1, snapshot.namespace.as_bytes(), b"snapshots", snapshot.snapshotter.as_bytes()];
    if let Some(bucket) = tx.read().path(&path)? {
        if bucket.bucket(snapshot.key.as_bytes())?.is_some() {
            return Ok(false);
        }
        for entry in bucket.iter() {
            if let (_, Entry::Bucket(record)) = entry?
                && record.get(b"name")? == Some(snapshot.backend.as_bytes())
            {
                return Ok(false);
            }
        }
    }
    let mut all = tx.create_bucket_if_missing(&path)?;
    // Numbers of names in the snapshotter are not given twice.
    all.set_sequence(all.sequence().max(snapshot.number));
    let mut record = all.create_bucket_if_missing(snapshot.key.as_bytes())?;
    record.put(b"name", snapshot.backend.as_bytes())?;
    record.put(CREATED, &snapshot.created)?;
    record.put(UPDATED, &snapshot.updated)?;
    if let Some(parent) = &snapshot.parent {
        record.put(b"parent", parent.as_bytes())?;
    }
    for (key, value) in &snapshot.labels {
        record.create_bucket_if_missing(b"labels")?.put(key, value)?;
    }
    if let Some(parent) = &snapshot.parent
        && let Some(mut parent) = all.bucket(parent.as_bytes())?
    {
        parent.create_bucket_if_missing(b"children")?.put(snapshot.key.as_bytes(), b"")?;
    }
    // Children that were recorded before their parent.
    let mut children = Vec::new();
    for entry in all.as_read().iter() {
        if let (key, Entry::Bucket(record)) = entry?
            && record.get(b"parent")? == Some(snapshot.key.as_bytes())
        {
            children.push(key.to_vec());
        }
    }
    if let Some(mut record) = all.bucket(snapshot.key.as_bytes())? {
        for child in children {
            record.create_bucket_if_missing(b"children")?.put(&child, b"")?;
        }
    }
    Ok(true)
}

/// The digests that any namespace has a record of.
fn recorded_blobs(
    tx: &WriteTx<'_>,
    namespaces: &BTreeSet<String>,
) -> Result<BTreeSet<String>, Error> {
    let mut recorded = BTreeSet::new();
    for namespace in namespaces {
        if let Some(blobs) = tx.read().path(&[V1, namespace.as_bytes(), b"content", b"blob"])? {
            for entry in blobs.iter() {
                recorded.insert(text(entry?.0));
            }
        }
    }
    Ok(recorded)
}

/// The labels by which the collector finds what a blob refers to.
fn references(
    namespace: &str,
    blob: &Blob,
    blobs: &BTreeMap<String, Blob>,
    snapshots: &[Snapshot],
) -> Vec<(String, String)> {
    let reference = |suffix: String, digest: &str| {
        (format!("containerd.io/gc.ref.content.{suffix}"), digest.to_owned())
    };
    let mut labels = Vec::new();
    match &blob.document {
        Document::Index { manifests, .. } => {
            let there = manifests.iter().filter(|(digest, _)| blobs.contains_key(digest));
            labels.extend(
                there.enumerate().map(|(n, (digest, _))| reference(format!("m.{n}"), digest)),
            );
        }
        Document::Manifest { config, layers, .. } => {
            labels.push(reference("config".to_owned(), config));
            let layers = layers.iter().enumerate();
            labels.extend(layers.map(|(n, (digest, _))| reference(format!("l.{n}"), digest)));
        }
        Document::Config { diff_ids } => {
            let Some(top) = documents::chain(diff_ids).pop() else { return labels };
            let unpacked = snapshots
                .iter()
                .filter(|snapshot| snapshot.namespace == namespace && snapshot.key == top);
            labels.extend(unpacked.map(|snapshot| {
                (format!("containerd.io/gc.ref.snapshot.{}", snapshot.snapshotter), top.clone())
            }));
        }
        Document::Other => {}
    }
    labels
}

fn put_labels(bucket: &mut BucketMut<'_>, labels: &[(String, String)]) -> Result<(), Error> {
    for (key, value) in labels {
        bucket.create_bucket_if_missing(b"labels")?.put(key.as_bytes(), value.as_bytes())?;
    }
    Ok(())
}

fn add_blob(
    tx: &mut WriteTx<'_>,
    namespace: &str,
    digest: &str,
    blob: &Blob,
    blobs: &BTreeMap<String, Blob>,
    snapshots: &[Snapshot],
) -> Result<(), Error> {
    let path = [V1, namespace.as_bytes(), b"content", b"blob", digest.as_bytes()];
    let mut record = tx.create_bucket_if_missing(&path)?;
    let time = value::time(blob.modified);
    record.put(CREATED, &time)?;
    record.put(UPDATED, &time)?;
    record.put(b"size", &value::count(blob.size))?;
    put_labels(&mut record, &references(namespace, blob, blobs, snapshots))
}

/// Names the manifests and indexes among new blobs that nothing refers to. Gives their number.
fn add_images(
    tx: &mut WriteTx<'_>,
    namespace: &str,
    blobs: &BTreeMap<String, Blob>,
    recorded: &BTreeSet<String>,
) -> Result<u64, Error> {
    let mut referred: BTreeSet<&str> = BTreeSet::new();
    let mut names: Vec<(String, &str)> = Vec::new();
    for blob in blobs.values() {
        if let Document::Index { manifests, .. } = &blob.document {
            referred.extend(manifests.iter().map(|(digest, _)| digest.as_str()));
            let named = manifests.iter().filter_map(|(digest, name)| Some((name.clone()?, digest)));
            names.extend(named.map(|(name, digest)| (name, digest.as_str())));
        }
    }
    for (digest, blob) in blobs {
        let is_root = match &blob.document {
            // An archive's own index only names what is in it.
            Document::Index { manifests, .. } => manifests.iter().all(|(_, name)| name.is_none()),
            Document::Manifest { .. } => true,
            _ => false,
        };
        if is_root && !referred.contains(digest.as_str()) {
            names.push((format!("recovered.invalid/image@{digest}"), digest));
        }
    }
    let now = value::time(SystemTime::now());
    let mut added = 0;
    for (name, digest) in names {
        let Some(blob) = blobs.get(digest).filter(|_| !recorded.contains(digest)) else { continue };
        let (Document::Index { media_type, .. } | Document::Manifest { media_type, .. }) =
            &blob.document
        else {
            continue;
        };
        let path = [V1, namespace.as_bytes(), b"images", name.as_bytes()];
        if tx.read().path(&path)?.is_some() {
            continue;
        }
        let mut record = tx.create_bucket_if_missing(&path)?;
        record.put(CREATED, &now)?;
        record.put(UPDATED, &now)?;
        let mut target = record.create_bucket_if_missing(b"target")?;
        target.put(b"digest", digest.as_bytes())?;
        target.put(b"mediatype", media_type.as_bytes())?;
        target.put(b"size", &value::count(blob.size))?;
        added += 1;
    }
    Ok(added)
}

/// The bundles that have a specification.
fn read_bundles(folder: &Path) -> Vec<Bundle> {
    let mut bundles = Vec::new();
    for namespace in names(folder) {
        if Namespace::new(&namespace).is_err() {
            continue;
        }
        let folder = folder.join(&namespace);
        for id in names(&folder) {
            let folder = folder.join(&id);
            let Ok(spec) = base_fs::read_file(folder.join("config.json"), MAX_SPEC) else {
                continue;
            };
            let runtime = fs::read_to_string(folder.join("shim-binary-path")).unwrap_or_default();
            let runtime = runtime_name(runtime.trim());
            bundles.push(Bundle { namespace: namespace.clone(), id, runtime, spec });
        }
    }
    bundles
}

/// The name of the runtime of a shim, `containerd-shim-<name>-<version>`.
fn runtime_name(program: &str) -> String {
    let name = program.rsplit('/').next().unwrap_or_default();
    match name.strip_prefix("containerd-shim-").and_then(|name| name.rsplit_once('-')) {
        Some((name, version)) => format!("io.containerd.{name}.{version}"),
        None => "io.containerd.runc.v2".to_owned(),
    }
}

/// Records the container of a task; says whether there was none.
fn add_container(
    tx: &mut WriteTx<'_>,
    bundle: &Bundle,
    snapshots: &[Snapshot],
) -> Result<bool, Error> {
    let path = [V1, bundle.namespace.as_bytes(), b"containers", bundle.id.as_bytes()];
    if tx.read().path(&path)?.is_some() {
        return Ok(false);
    }
    let now = value::time(SystemTime::now());
    // COMPAT: all clients name the snapshot of a container by the container.
    let rootfs = snapshots.iter().find(|snapshot| {
        snapshot.active && snapshot.namespace == bundle.namespace && snapshot.key == bundle.id
    });
    let mut record = tx.create_bucket_if_missing(&path)?;
    record.put(CREATED, &now)?;
    record.put(UPDATED, &now)?;
    record.put(b"image", b"")?;
    record.put(b"snapshotter", rootfs.map_or("", |found| &found.snapshotter).as_bytes())?;
    record.put(b"snapshotKey", rootfs.map_or("", |found| &found.key).as_bytes())?;
    record.put(b"spec", &any(SPEC, &bundle.spec))?;
    record.create_bucket_if_missing(b"runtime")?.put(b"name", bundle.runtime.as_bytes())?;
    Ok(true)
}

/// Holds what was found.
fn add_lease(tx: &mut WriteTx<'_>, namespace: &str, held: &Held) -> Result<(), Error> {
    if held.blobs.is_empty() && held.snapshots.is_empty() {
        return Ok(());
    }
    let now = SystemTime::now();
    let id = format!("recovered-{}", timestamp::format(now));
    let path = [V1, namespace.as_bytes(), b"leases", id.as_bytes()];
    let mut lease = tx.create_bucket_if_missing(&path)?;
    lease.put(CREATED, &value::time(now))?;
    let expiry = timestamp::format(now + KEPT);
    put_labels(&mut lease, &[("containerd.io/gc.expire".to_owned(), expiry)])?;
    for digest in &held.blobs {
        lease.create_bucket_if_missing(b"content")?.put(digest.as_bytes(), b"")?;
    }
    for (snapshotter, key) in &held.snapshots {
        lease
            .create_bucket_if_missing(b"snapshots")?
            .create_bucket_if_missing(snapshotter.as_bytes())?
            .put(key.as_bytes(), b"")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shims_name_their_runtimes() {
        assert_eq!(runtime_name("/usr/bin/containerd-shim-runc-v2"), "io.containerd.runc.v2");
        assert_eq!(runtime_name("containerd-shim-kata-qemu-v2"), "io.containerd.kata-qemu.v2");
        assert_eq!(runtime_name(""), "io.containerd.runc.v2");
    }
}
