//! Brings the schema to where all of today's daemons find what is theirs, when the database is opened.
//!
//! * 1: snapshots get the links to their children.
//! * 2: `content/ingest` (reference = backend reference) becomes `content/ingests/<reference>/ref`.
//! * 3: nothing; it marks the change to another fork of the database library.
//!
//! From there, 4 moves sandboxes from `<namespace>/sandboxes` to `v1/<namespace>/sandboxes`. That is
//! left to containerd 2.x: we read both, and 1.7 reads the former alone. So a file keeps the version
//! that it has from 3 on, also one that is newer than ours. A new file gets no migration, only the
//! version.

use store_bolt::{Bucket, Db, Entry, Error, WriteTx};

use crate::schema::{
    CHILDREN, CONTENT, DB_VERSION, INGEST, INGESTS, KEPT, PARENT, REF, ROOT, SNAPSHOTS, VERSION,
};
use crate::{MetadataError, Result};
use store_bolt::value::{read_varint, varint};

type Step = fn(&mut WriteTx<'_>) -> Result<(), Error>;

/// The version that each step leads to.
const STEPS: [(i64, Step); 3] = [(1, link_children), (2, move_ingests), (KEPT, |_| Ok(()))];

/// The stored version; `None` for a new file.
pub(crate) fn version(root: Bucket<'_>) -> Result<Option<i64>, Error> {
    let Some(bucket) = root.bucket(ROOT)? else { return Ok(None) };
    let stored = bucket.get(DB_VERSION)?;
    Ok(Some(stored.and_then(read_varint).unwrap_or(0)))
}

/// Runs the steps that are missing. Writes nothing if there is none.
pub(crate) fn run(db: &Db) -> Result<()> {
    if version(db.view()?.root())?.is_some_and(|version| version >= KEPT) {
        return Ok(());
    }
    db.update(|tx| {
        let mut becomes = VERSION;
        if let Some(version) = version(tx.read())? {
            becomes = version.max(KEPT);
            for (target, step) in STEPS.iter().filter(|(target, _)| *target > version) {
                step(tx).map_err(|source| MetadataError::Migrate { version: *target, source })?;
                tracing::info!(version = target, "metadata schema migrated");
            }
        }
        tx.create_bucket_if_missing(&[ROOT])?.put(DB_VERSION, &varint(becomes))?;
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
