//! `mounts.db`: what is active, byte for byte containerd's.
//!
//! ```text
//! v1/                          sequence: the last id
//!   <namespace>/
//!     mounts/<name>/
//!       id                     uvarint
//!       createdat updatedat    time
//!       lease                  id of a lease, if there is one
//!       labels/
//!       active/<index byte>/   type, mp (where), mat (when)
//!       system/<index byte>/   type, source, target, options (NUL between)
//!     leases/<lease>/<name> = ""
//! ```
//!
//! A record without `active` is of an activation on its way, or of one that a crash ended.

use std::path::PathBuf;
use std::time::SystemTime;

use base_errors::Result;
use base_ident::Labels;
use kernel_mount::{ActiveMount, Mount};
use store_bolt::{Bucket, BucketMut, Entry, WriteTx};

use crate::error::MountError;
use crate::owner::{Owner, owners};
use store_bolt::value::{read_time, read_uvarint, time, uvarint};

const V1: &[u8] = b"v1";
const MOUNTS: &[u8] = b"mounts";
const LEASES: &[u8] = b"leases";
const ID: &[u8] = b"id";
const CREATED_AT: &[u8] = b"createdat";
const UPDATED_AT: &[u8] = b"updatedat";
const LEASE: &[u8] = b"lease";
const LABELS: &[u8] = b"labels";
const ACTIVE: &[u8] = b"active";
const SYSTEM: &[u8] = b"system";
const TYPE: &[u8] = b"type";
const MOUNT_POINT: &[u8] = b"mp";
const MOUNTED_AT: &[u8] = b"mat";
const SOURCE: &[u8] = b"source";
const TARGET: &[u8] = b"target";
const OPTIONS: &[u8] = b"options";

/// A list of mounts that is active.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Activation {
    /// Its name.
    pub name: String,
    /// What is mounted. Read from the records, these have their kind alone.
    pub active: Vec<ActiveMount>,
    /// What the caller mounts.
    pub system: Vec<Mount>,
    /// Labels.
    pub labels: Labels,
}

/// A record.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) id: u64,
    pub(crate) lease: Option<String>,
    /// All mounts were made.
    pub(crate) is_complete: bool,
    pub(crate) activation: Activation,
}

impl Record {
    pub(crate) fn owners(&self) -> Vec<Owner> {
        owners(self.lease.as_deref(), &self.activation.labels)
    }
}

/// The record `name` of a namespace.
pub(crate) fn find(root: Bucket<'_>, namespace: &str, name: &str) -> Result<Option<Record>> {
    if name.is_empty() {
        return Ok(None);
    }
    let path = [V1, namespace.as_bytes(), MOUNTS, name.as_bytes()];
    root.path(&path)?.map(|bucket| read(name, bucket)).transpose()
}

/// The records of a namespace, in the order of their names.
pub(crate) fn list(root: Bucket<'_>, namespace: &str) -> Result<Vec<Record>> {
    match root.path(&[V1, namespace.as_bytes(), MOUNTS])? {
        Some(mounts) => list_of(mounts),
        None => Ok(Vec::new()),
    }
}

/// All records, with their namespaces.
pub(crate) fn all(root: Bucket<'_>) -> Result<Vec<(String, Record)>> {
    let mut records = Vec::new();
    let Some(v1) = root.bucket(V1)? else { return Ok(records) };
    for entry in v1.iter() {
        let (namespace, Entry::Bucket(bucket)) = entry? else { continue };
        let Some(mounts) = bucket.bucket(MOUNTS)? else { continue };
        let namespace = text(namespace);
        records.extend(list_of(mounts)?.into_iter().map(|record| (namespace.clone(), record)));
    }
    Ok(records)
}

/// A damaged record is logged and left out: it costs itself alone.
fn list_of(mounts: Bucket<'_>) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    for entry in mounts.iter() {
        let (name, Entry::Bucket(bucket)) = entry? else { continue };
        match read(&text(name), bucket) {
            Ok(record) => records.push(record),
            Err(error) => tracing::warn!(%error, "damaged mount record"),
        }
    }
    Ok(records)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn read(name: &str, bucket: Bucket<'_>) -> Result<Record> {
    let damaged = |reason| MountError::Damaged { name: name.to_owned(), reason };
    let value = |bucket: &Bucket<'_>, key| -> Result<String> {
        Ok(text(bucket.get(key)?.unwrap_or_default()))
    };
    let id = bucket.get(ID)?.and_then(read_uvarint).ok_or_else(|| damaged("id is no number"))?;
    let mut activation = Activation { name: name.to_owned(), ..Activation::default() };
    let active = bucket.bucket(ACTIVE)?;
    for entry in active.iter().flat_map(Bucket::iter) {
        let (_, Entry::Bucket(bucket)) = entry? else { continue };
        activation.active.push(ActiveMount {
            mount: Mount { kind: value(&bucket, TYPE)?, ..Mount::default() },
            mount_point: PathBuf::from(value(&bucket, MOUNT_POINT)?),
            mounted_at: bucket
                .get(MOUNTED_AT)?
                .and_then(read_time)
                .ok_or_else(|| damaged("time is no time"))?,
        });
    }
    for entry in bucket.bucket(SYSTEM)?.iter().flat_map(Bucket::iter) {
        let (_, Entry::Bucket(bucket)) = entry? else { continue };
        let options = value(&bucket, OPTIONS)?;
        activation.system.push(Mount {
            kind: value(&bucket, TYPE)?,
            source: value(&bucket, SOURCE)?,
            target: value(&bucket, TARGET)?,
            options: match options.as_str() {
                "" => Vec::new(),
                options => options.split('\0').map(str::to_owned).collect(),
            },
        });
    }
    for entry in bucket.bucket(LABELS)?.iter().flat_map(Bucket::iter) {
        let (key, entry) = entry?;
        if let Some(value) = entry.value() {
            activation.labels.insert(text(key), text(value));
        }
    }
    let lease = bucket.get(LEASE)?.filter(|lease| !lease.is_empty()).map(text);
    Ok(Record { id, lease, is_complete: active.is_some(), activation })
}

fn mounts<'a>(tx: &'a mut WriteTx<'_>, namespace: &str) -> Result<BucketMut<'a>> {
    Ok(tx.create_bucket_if_missing(&[V1, namespace.as_bytes(), MOUNTS])?)
}

/// Makes the record of an activation that begins; gives its id, and that of a former one which
/// never came to its end.
pub(crate) fn begin(
    tx: &mut WriteTx<'_>,
    namespace: &str,
    name: &str,
    lease: Option<&str>,
    labels: &Labels,
    now: SystemTime,
) -> Result<(u64, Option<u64>)> {
    let stale = match find(tx.read(), namespace, name)? {
        Some(record) if record.is_complete => {
            return Err(MountError::Exists(name.to_owned()).into());
        }
        Some(record) => {
            remove(tx, namespace, name)?;
            Some(record.id)
        }
        None => None,
    };
    mounts(tx, namespace)?;
    let id = tx.create_bucket_if_missing(&[V1])?.next_sequence()?;
    let mut all = mounts(tx, namespace)?;
    let mut bucket = all.create_bucket(name.as_bytes())?;
    bucket.put(ID, &uvarint(id))?;
    if labels.values().any(|value| !value.is_empty()) {
        let mut stored = bucket.create_bucket(LABELS)?;
        for (key, value) in labels.iter().filter(|(_, value)| !value.is_empty()) {
            stored.put(key.as_bytes(), value.as_bytes())?;
        }
    }
    bucket.put(CREATED_AT, &time(now))?;
    bucket.put(UPDATED_AT, &time(now))?;
    if let Some(lease) = lease {
        bucket.put(LEASE, lease.as_bytes())?;
        let path = [V1, namespace.as_bytes(), LEASES, lease.as_bytes()];
        tx.create_bucket_if_missing(&path)?.put(name.as_bytes(), b"")?;
    }
    Ok((id, stale))
}

/// Says what was mounted: the activation is complete.
pub(crate) fn complete(
    tx: &mut WriteTx<'_>,
    namespace: &str,
    id: u64,
    activation: &Activation,
) -> Result<()> {
    let name = activation.name.as_str();
    match find(tx.read(), namespace, name)? {
        Some(record) if record.id == id => {}
        _ => return Err(MountError::Gone(name.to_owned()).into()),
    }
    let index = |at: usize, all: usize| {
        u8::try_from(at).map_err(|_| MountError::TooMany(all)).map(|at| [at])
    };
    let mut all = mounts(tx, namespace)?;
    let mut bucket = all.create_bucket_if_missing(name.as_bytes())?;
    bucket.put(UPDATED_AT, &time(SystemTime::now()))?;
    {
        let mut active = bucket.create_bucket(ACTIVE)?;
        for (at, mount) in activation.active.iter().enumerate() {
            let mut one = active.create_bucket(&index(at, activation.active.len())?)?;
            one.put(TYPE, mount.mount.kind.as_bytes())?;
            one.put(MOUNT_POINT, mount.mount_point.as_os_str().as_encoded_bytes())?;
            one.put(MOUNTED_AT, &time(mount.mounted_at))?;
        }
    }
    if activation.system.is_empty() {
        return Ok(());
    }
    let mut system = bucket.create_bucket(SYSTEM)?;
    for (at, mount) in activation.system.iter().enumerate() {
        let mut one = system.create_bucket(&index(at, activation.system.len())?)?;
        one.put(TYPE, mount.kind.as_bytes())?;
        one.put(SOURCE, mount.source.as_bytes())?;
        one.put(TARGET, mount.target.as_bytes())?;
        if !mount.options.is_empty() {
            one.put(OPTIONS, mount.options.join("\0").as_bytes())?;
        }
    }
    Ok(())
}

/// Removes a record, if it is there, and its lease's link.
pub(crate) fn remove(tx: &mut WriteTx<'_>, namespace: &str, name: &str) -> Result<Option<Record>> {
    let Some(record) = find(tx.read(), namespace, name)? else { return Ok(None) };
    mounts(tx, namespace)?.delete_bucket(name.as_bytes())?;
    if let Some(lease) = &record.lease {
        let path = [V1, namespace.as_bytes(), LEASES];
        let mut leases = tx.create_bucket_if_missing(&path)?;
        let mut links = leases.create_bucket_if_missing(lease.as_bytes())?;
        links.delete(name.as_bytes())?;
        if links.as_read().is_empty()? {
            leases.delete_bucket(lease.as_bytes())?;
        }
    }
    Ok(Some(record))
}
