//! Records that cannot be read cost themselves alone.
//!
//! A record whose pages are whole but whose values are not what they should be would be in the way of
//! everything that meets it: it can neither be used nor deleted. It is moved into a database
//! beside `meta.db`, `meta.db.quarantine`, under the same names, and reported.

use std::path::{Path, PathBuf};
use std::time::Duration;

use store_bolt::value::read_time;
use store_bolt::{Bucket, BucketMut, Db, Entry, Error, Options};

use super::Tally;

/// Kinds of records that stand for themselves. Blobs and snapshots are referred to by others: of
/// those the fault stays where it is, and those who meet it hear of it.
const KINDS: [&[u8]; 4] = [b"containers", b"images", b"leases", b"sandboxes"];

/// How long the file is waited for: nobody else should have it.
const LOCK_WAIT: Duration = Duration::from_secs(1);

/// The most levels of a record that are looked at.
const MAX_DEPTH: usize = 8;

/// Namespace, kind and key of a record, and what is wrong with it.
struct Fault {
    path: [Vec<u8>; 3],
    reason: String,
}

/// Moves the bad records of the database at `path` aside.
///
/// # Errors
/// Those of the files; then nothing is removed.
pub(super) fn run(path: &Path, tally: &mut Tally) -> Result<(), Error> {
    let options = Options {
        store_freelist: false,
        lock_timeout: Some(LOCK_WAIT),
        mode: 0o644,
        ..Options::default()
    };
    let db = Db::open(path, options.clone())?;
    let tx = db.view()?;
    let Some(v1) = tx.bucket(b"v1")? else { return Ok(()) };
    let faults = faults(v1)?;
    if faults.is_empty() {
        return Ok(());
    }
    let aside = quarantine_path(path);
    let kept = Db::open(&aside, Options { mode: 0o600, ..options })?;
    for fault in faults {
        let [namespace, kind, key] = &fault.path;
        let names: [&[u8]; 4] = [b"v1", namespace, kind, key];
        tracing::error!(
            namespace = %String::from_utf8_lossy(namespace),
            kind = %String::from_utf8_lossy(kind),
            key = %String::from_utf8_lossy(key),
            reason = fault.reason, kept = %aside.display(),
            "a record cannot be read, and is moved aside"
        );
        let Some(record) = tx.root().path(&names)? else { continue };
        let values = values(record, 0)?;
        let owned: Vec<Vec<u8>> = names.iter().map(|name| name.to_vec()).collect();
        // DURABILITY: the copy before the record goes.
        kept.update(move |out| {
            let names: Vec<&[u8]> = owned.iter().map(Vec::as_slice).collect();
            put(&mut out.create_bucket_if_missing(&names)?, &values)
        })?;
        base_fs::failpoint::hit_io("recovery.record.remove").map_err(|source| Error::Io {
            action: "quarantine",
            path: path.to_path_buf(),
            source: source.into(),
        })?;
        let [namespace, kind, key] = fault.path;
        db.update(move |out| {
            let names: [&[u8]; 3] = [b"v1", &namespace, &kind];
            out.create_bucket_if_missing(&names)?.delete_bucket(&key)
        })?;
        tally.add("record_quarantined", 1);
    }
    Ok(())
}

/// Where the bad records of a database go.
fn quarantine_path(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(".quarantine");
    name.into()
}

fn faults(v1: Bucket<'_>) -> Result<Vec<Fault>, Error> {
    let mut faults = Vec::new();
    for namespace in v1.iter() {
        let (namespace, Entry::Bucket(bucket)) = namespace? else { continue };
        for kind in KINDS {
            let Some(records) = bucket.bucket(kind)? else { continue };
            for record in records.iter() {
                let (key, Entry::Bucket(record)) = record? else { continue };
                let reason = match std::str::from_utf8(key) {
                    Ok(_) => fault(record, false, 0)?,
                    Err(_) => Some("the key is not UTF-8".to_owned()),
                };
                if let Some(reason) = reason {
                    let path = [namespace.to_vec(), kind.to_vec(), key.to_vec()];
                    faults.push(Fault { path, reason });
                }
            }
        }
    }
    Ok(faults)
}

/// What is wrong in a record, if anything.
fn fault(bucket: Bucket<'_>, messages: bool, depth: usize) -> Result<Option<String>, Error> {
    if depth > MAX_DEPTH {
        return Ok(Some("it is nested too deep".to_owned()));
    }
    for entry in bucket.iter() {
        let (key, entry) = entry?;
        let name = String::from_utf8_lossy(key);
        let good = match entry {
            Entry::Bucket(inner) => {
                if let Some(reason) = fault(inner, key == b"extensions", depth + 1)? {
                    return Ok(Some(format!("{name}: {reason}")));
                }
                continue;
            }
            Entry::Value(value) => match key {
                _ if messages => is_message(value),
                b"createdat" | b"updatedat" => read_time(value).is_some(),
                b"spec" | b"options" => is_message(value),
                b"size" => value.len() <= 10,
                _ => std::str::from_utf8(value).is_ok(),
            },
        };
        if !good {
            return Ok(Some(format!("{name} is not what it should be")));
        }
    }
    Ok(None)
}

/// A serialized `google.protobuf.Any`, or nothing.
fn is_message(mut value: &[u8]) -> bool {
    let varint = |value: &mut &[u8]| -> Option<u64> {
        let len = value.iter().position(|byte| byte & 0x80 == 0)? + 1;
        let (head, rest) = value.split_at(len);
        *value = rest;
        store_bolt::value::read_uvarint(head)
    };
    while !value.is_empty() {
        let Some(tag) = varint(&mut value) else { return false };
        let skip = match tag & 7 {
            0 if varint(&mut value).is_some() => 0,
            1 => 8,
            2 => match varint(&mut value) {
                Some(len) => usize::try_from(len).unwrap_or(usize::MAX),
                None => return false,
            },
            5 => 4,
            _ => return false,
        };
        let Some((field, rest)) = value.split_at_checked(skip) else { return false };
        if tag == 0x0a && std::str::from_utf8(field).is_err() {
            return false;
        }
        value = rest;
    }
    true
}

/// A bucket's content.
enum Item {
    Value(Vec<u8>),
    Bucket(Vec<(Vec<u8>, Item)>),
}

fn values(bucket: Bucket<'_>, depth: usize) -> Result<Vec<(Vec<u8>, Item)>, Error> {
    let mut items = Vec::new();
    if depth <= MAX_DEPTH {
        for entry in bucket.iter() {
            let (key, entry) = entry?;
            let item = match entry {
                Entry::Value(value) => Item::Value(value.to_vec()),
                Entry::Bucket(inner) => Item::Bucket(values(inner, depth + 1)?),
            };
            items.push((key.to_vec(), item));
        }
    }
    Ok(items)
}

fn put(bucket: &mut BucketMut<'_>, items: &[(Vec<u8>, Item)]) -> Result<(), Error> {
    for (key, item) in items {
        match item {
            Item::Value(value) => bucket.put(key, value)?,
            Item::Bucket(inner) => put(&mut bucket.create_bucket_if_missing(key)?, inner)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::recovery::encode;

    #[test]
    fn a_bad_record_is_moved_aside_and_the_others_stay() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("meta.db");
        let options = Options { store_freelist: false, ..Options::default() };
        let db = Db::open(&path, options.clone()).expect("open");
        db.update(|tx| {
            for (id, spec) in [("good", encode::any("type", b"{}")), ("bad", vec![0x0a, 200])] {
                let names: [&[u8]; 4] = [b"v1", b"ns", b"containers", id.as_bytes()];
                let mut record = tx.create_bucket_if_missing(&names)?;
                record.put(b"createdat", &store_bolt::value::time(SystemTime::now()))?;
                record.put(b"spec", &spec)?;
                record.create_bucket_if_missing(b"labels")?.put(b"a", b"b")?;
            }
            Ok::<_, Error>(())
        })
        .expect("put");
        drop(db);
        let mut tally = Tally::default();
        run(&path, &mut tally).expect("run");
        assert_eq!(tally.0.get("record_quarantined"), Some(&1));
        let has = |path: &Path, id: &[u8]| {
            let db = Db::open(path, options.clone()).expect("open");
            let tx = db.view().expect("view");
            tx.root().path(&[b"v1", b"ns", b"containers", id]).expect("read").is_some()
        };
        assert!(has(&path, b"good") && !has(&path, b"bad"));
        assert!(has(&quarantine_path(&path), b"bad"));
        run(&path, &mut tally).expect("again");
        assert_eq!(tally.0.get("record_quarantined"), Some(&1));
    }

    #[test]
    fn values_are_known_by_their_form() {
        assert!(is_message(b"") && is_message(&encode::any("t", b"x")));
        assert!(!is_message(b"\x0a\xff") && !is_message(b"\x0a\x01\xff"));
    }
}
