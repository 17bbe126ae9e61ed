//! Brings the schema up to date when the database is opened.
//!
//! * 1: snapshots get the links to their children.
//! * 2: `content/ingest` (reference = backend reference) becomes `content/ingests/<reference>/ref`.
//! * 3: nothing; it marks the change to another fork of the database library.
//! * 4: sandboxes move from `<namespace>/sandboxes` to `v1/<namespace>/sandboxes`.
//!
//! A version that is newer than ours is accepted as it is. A new file gets no migration, only the
//! version.

use store_bolt::{Bucket, BucketMut, Db, Entry, Error, WriteTx};

use crate::schema::{
    CHILDREN, CONTENT, DB_VERSION, INGEST, INGESTS, PARENT, REF, ROOT, SANDBOXES, SNAPSHOTS,
    VERSION,
};
use crate::{MetadataError, Result};
use store_bolt::value::{read_varint, varint};

/// How deep buckets may lie in a sandbox's record; containerd writes two levels.
const MAX_DEPTH: usize = 8;

type Step = fn(&mut WriteTx<'_>) -> Result<(), Error>;

/// The version that each step leads to.
const STEPS: [(i64, Step); 4] =
    [(1, link_children), (2, move_ingests), (3, |_| Ok(())), (4, move_sandboxes)];

/// The stored version; `None` for a new file.
fn version(root: Bucket<'_>) -> Result<Option<i64>, Error> {
    let Some(bucket) = root.bucket(ROOT)? else { return Ok(None) };
    let stored = bucket.get(DB_VERSION)?;
    Ok(Some(stored.and_then(read_varint).unwrap_or(0)))
}

/// Runs the steps that are missing. Writes nothing if there is none.
pub(crate) fn run(db: &Db) -> Result<()> {
    if version(db.view()?.root())?.is_some_and(|version| version >= VERSION) {
        return Ok(());
    }
    db.update(|tx| {
        if let Some(version) = version(tx.read())? {
            for (target, step) in STEPS.iter().filter(|(target, _)| *target > version) {
                step(tx).map_err(|source| MetadataError::Migrate { version: *target, source })?;
                tracing::info!(version = target, "metadata schema migrated");
            }
        }
        tx.create_bucket_if_missing(&[ROOT])?.put(DB_VERSION, &varint(VERSION))?;
        Ok(())
    })
}

/// The names of the buckets in `bucket`.
fn names(bucket: Option<Bucket<'_>>) -> Result<Vec<Vec<u8>>, Error> {
    let mut names = Vec::new();
    if let Some(bucket) = bucket {
        for entry in bucket.iter() {
            if let (name, Entry::Bucket(_)) = entry? {
                names.push(name.to_owned());
            }
        }
    }
    Ok(names)
}

fn link_children(tx: &mut WriteTx<'_>) -> Result<(), Error> {
    for namespace in names(tx.read().bucket(ROOT)?)? {
        let snapshotters = [ROOT, namespace.as_slice(), SNAPSHOTS];
        for snapshotter in names(tx.read().path(&snapshotters)?)? {
            let path = [ROOT, namespace.as_slice(), SNAPSHOTS, snapshotter.as_slice()];
            let mut links = Vec::new();
            let keys = names(tx.read().path(&path)?)?;
            if let Some(bucket) = tx.read().path(&path)? {
                for key in &keys {
                    let Some(snapshot) = bucket.bucket(key)? else { continue };
                    let parent = snapshot.get(PARENT)?.unwrap_or_default();
                    if !parent.is_empty() && bucket.bucket(parent)?.is_some() {
                        links.push((parent.to_owned(), key));
                    }
                }
            }
            let mut bucket = tx.create_bucket_if_missing(&path)?;
            for (parent, key) in links {
                bucket
                    .create_bucket_if_missing(&parent)?
                    .create_bucket_if_missing(CHILDREN)?
                    .put(key, b"")?;
            }
        }
    }
    Ok(())
}

fn move_ingests(tx: &mut WriteTx<'_>) -> Result<(), Error> {
    for namespace in names(tx.read().bucket(ROOT)?)? {
        let path = [ROOT, namespace.as_slice(), CONTENT];
        let mut links = Vec::new();
        match tx.read().path(&path)?.map(|content| content.bucket(INGEST)).transpose()? {
            Some(Some(old)) => {
                for entry in old.iter() {
                    if let (reference, Entry::Value(backend)) = entry? {
                        links.push((reference.to_owned(), backend.to_owned()));
                    }
                }
            }
            _ => continue,
        }
        let mut content = tx.create_bucket_if_missing(&path)?;
        let mut ingests = content.create_bucket_if_missing(INGESTS)?;
        for (reference, backend) in links {
            ingests.create_bucket_if_missing(&reference)?.put(REF, &backend)?;
        }
        content.delete_bucket(INGEST)?;
    }
    Ok(())
}

/// A bucket's entries, copied out.
enum Item {
    Value(Vec<u8>),
    Bucket(Vec<(Vec<u8>, Item)>),
}

fn copy(bucket: Bucket<'_>, depth: usize) -> Result<Vec<(Vec<u8>, Item)>, Error> {
    let mut items = Vec::new();
    for entry in bucket.iter() {
        match entry? {
            (key, Entry::Value(value)) => {
                items.push((key.to_owned(), Item::Value(value.to_owned())))
            }
            (key, Entry::Bucket(bucket)) if depth < MAX_DEPTH => {
                items.push((key.to_owned(), Item::Bucket(copy(bucket, depth + 1)?)));
            }
            (key, Entry::Bucket(_)) => {
                let key = String::from_utf8_lossy(key);
                tracing::error!(%key, "sandbox record left out of the migration: nested too deep");
            }
        }
    }
    Ok(items)
}

fn write(bucket: &mut BucketMut<'_>, items: Vec<(Vec<u8>, Item)>) -> Result<(), Error> {
    for (key, item) in items {
        match item {
            Item::Value(value) => bucket.put(&key, &value)?,
            Item::Bucket(items) => write(&mut bucket.create_bucket_if_missing(&key)?, items)?,
        }
    }
    Ok(())
}

fn move_sandboxes(tx: &mut WriteTx<'_>) -> Result<(), Error> {
    for namespace in names(Some(tx.read()))? {
        // COMPAT: sandboxes of a namespace called `v1` lie inside of our own bucket and stay there.
        if namespace == ROOT {
            continue;
        }
        let sandboxes = match tx.read().path(&[&namespace, SANDBOXES])? {
            Some(bucket) => Some(copy(bucket, 0)?),
            None => None,
        };
        if let Some(mut sandboxes) = sandboxes {
            sandboxes.retain(|(_, item)| matches!(item, Item::Bucket(_)));
            let mut target = tx.create_bucket_if_missing(&[ROOT, &namespace, SANDBOXES])?;
            write(&mut target, sandboxes)?;
        }
        tx.root().delete_bucket(&namespace)?;
    }
    Ok(())
}
