//! Reading records: a bucket with a name, whose faults say where they are.

use std::collections::BTreeMap;
use std::time::SystemTime;

use prost::Message as _;
use prost_types::Any;
use store_bolt::{Bucket, Entry};

use crate::encode::zero_time;
use crate::schema::{CREATED_AT, EXTENSIONS, UPDATED_AT};
use crate::{MetadataError, Result};
use store_bolt::value::{read_time, read_varint};

/// The bucket of one object.
#[derive(Clone, Copy)]
pub(crate) struct Record<'a> {
    pub(crate) bucket: Bucket<'a>,
    /// The kind of object, for errors.
    pub(crate) kind: &'static str,
    /// The object's key.
    pub(crate) key: &'a [u8],
}

impl<'a> Record<'a> {
    /// A fault in this record.
    #[cold]
    pub(crate) fn damaged(&self, reason: impl Into<String>) -> MetadataError {
        MetadataError::Damaged {
            bucket: self.kind,
            key: String::from_utf8_lossy(self.key).into_owned(),
            reason: reason.into(),
        }
    }

    /// What stands at each of `keys`, found on one way through the record.
    pub(crate) fn entries<const N: usize>(
        &self,
        keys: [&[u8]; N],
    ) -> Result<[Option<Entry<'a>>; N]> {
        let mut found = [None; N];
        for entry in self.bucket.iter() {
            let (key, entry) = entry?;
            if let Some(at) = keys.iter().position(|wanted| *wanted == key) {
                found[at] = Some(entry);
            }
        }
        Ok(found)
    }

    /// `bytes`, which stand at `key`, as text.
    pub(crate) fn text(&self, bytes: &'a [u8], key: &[u8]) -> Result<&'a str> {
        std::str::from_utf8(bytes)
            .map_err(|_| self.damaged(format!("{} is not UTF-8", String::from_utf8_lossy(key))))
    }

    /// The object's key as text.
    pub(crate) fn name(&self) -> Result<String> {
        Ok(self.text(self.key, b"key")?.to_owned())
    }

    /// The text at `key`, empty if it is absent.
    pub(crate) fn string(&self, key: &[u8]) -> Result<String> {
        Ok(self.text(self.bucket.get(key)?.unwrap_or_default(), key)?.to_owned())
    }

    /// The time at `key`, if there is one.
    pub(crate) fn time(&self, key: &[u8]) -> Result<Option<SystemTime>> {
        self.time_of(self.bucket.get(key)?, key)
    }

    /// The time in `bytes`, which stand at `key`.
    fn time_of(&self, bytes: Option<&[u8]>, key: &[u8]) -> Result<Option<SystemTime>> {
        let Some(bytes) = bytes else { return Ok(None) };
        match read_time(bytes) {
            Some(time) => Ok(Some(time)),
            None => Err(self.damaged(format!("{} is no time", String::from_utf8_lossy(key)))),
        }
    }

    /// `createdat` and `updatedat`; year 1 if they are absent.
    pub(crate) fn times(&self) -> Result<(SystemTime, SystemTime)> {
        self.times_of(self.bucket.get(CREATED_AT)?, self.bucket.get(UPDATED_AT)?)
    }

    /// The same in `created` and `updated`.
    pub(crate) fn times_of(
        &self,
        created: Option<&[u8]>,
        updated: Option<&[u8]>,
    ) -> Result<(SystemTime, SystemTime)> {
        let created = self.time_of(created, CREATED_AT)?.unwrap_or_else(zero_time);
        Ok((created, self.time_of(updated, UPDATED_AT)?.unwrap_or_else(zero_time)))
    }

    /// The size at `key`, zero if it is absent.
    pub(crate) fn size(&self, key: &[u8]) -> Result<u64> {
        self.size_of(self.bucket.get(key)?, key)
    }

    /// The size in `bytes`, which stand at `key`.
    pub(crate) fn size_of(&self, bytes: Option<&[u8]>, key: &[u8]) -> Result<u64> {
        match bytes {
            None | Some([]) => Ok(0),
            Some(bytes) => {
                read_varint(bytes).and_then(|size| u64::try_from(size).ok()).ok_or_else(|| {
                    self.damaged(format!("{} is no size", String::from_utf8_lossy(key)))
                })
            }
        }
    }

    /// The map in the bucket `name`.
    pub(crate) fn map(&self, name: &[u8]) -> Result<BTreeMap<String, String>> {
        self.map_of(self.bucket.bucket(name)?)
    }

    /// The map in `bucket`.
    pub(crate) fn map_of(&self, bucket: Option<Bucket<'a>>) -> Result<BTreeMap<String, String>> {
        let mut map = BTreeMap::new();
        for entry in bucket.iter().flatten() {
            if let (key, Entry::Value(value)) = entry? {
                let (key, value) = (self.text(key, b"label")?, self.text(value, b"label")?);
                map.insert(key.to_owned(), value.to_owned());
            }
        }
        Ok(map)
    }

    /// The message at `key`.
    pub(crate) fn any(&self, key: &[u8]) -> Result<Option<Any>> {
        self.bucket.get(key)?.map(|bytes| self.decode(bytes, key)).transpose()
    }

    /// The messages in the bucket `extensions`.
    pub(crate) fn extensions(&self) -> Result<BTreeMap<String, Any>> {
        let mut extensions = BTreeMap::new();
        let Some(bucket) = self.bucket.bucket(EXTENSIONS)? else { return Ok(extensions) };
        for entry in bucket.iter() {
            if let (name, Entry::Value(value)) = entry? {
                let text = self.text(name, b"extension")?.to_owned();
                extensions.insert(text, self.decode(value, name)?);
            }
        }
        Ok(extensions)
    }

    fn decode(&self, bytes: &[u8], key: &[u8]) -> Result<Any> {
        Any::decode(bytes).map_err(|error| {
            self.damaged(format!("{} is no message: {error}", String::from_utf8_lossy(key)))
        })
    }

    /// The nested bucket `name`, with this record's name for errors.
    pub(crate) fn nested(&self, name: &[u8]) -> Result<Option<Record<'a>>> {
        Ok(self.bucket.bucket(name)?.map(|bucket| Record { bucket, ..*self }))
    }
}

/// The record `key` in `bucket`, if both are there.
pub(crate) fn find<'a>(
    bucket: Option<Bucket<'a>>,
    kind: &'static str,
    key: &'a [u8],
) -> Result<Option<Record<'a>>> {
    let Some(bucket) = bucket else { return Ok(None) };
    Ok(bucket.bucket(key)?.map(|bucket| Record { bucket, kind, key }))
}

/// Reads all records in `bucket` that `keep` wants, in the order of their keys. One that is damaged
/// is logged and left out.
pub(crate) fn list<'a, T>(
    bucket: Option<Bucket<'a>>,
    kind: &'static str,
    read: impl Fn(Record<'a>) -> Result<T>,
    keep: impl Fn(&T) -> bool,
) -> Result<Vec<T>> {
    let mut found = Vec::new();
    each(bucket, kind, read, |object| {
        if keep(&object) {
            found.push(object);
        }
    })?;
    Ok(found)
}

/// Reads all records in `bucket` in the order of their keys, and gives them to `take`. One that is
/// damaged is logged and left out.
pub(crate) fn each<'a, T>(
    bucket: Option<Bucket<'a>>,
    kind: &'static str,
    read: impl Fn(Record<'a>) -> Result<T>,
    mut take: impl FnMut(T),
) -> Result<()> {
    for entry in bucket.iter().flatten() {
        let (key, Entry::Bucket(bucket)) = entry? else { continue };
        match read(Record { bucket, kind, key }) {
            Ok(object) => take(object),
            Err(error) => {
                let key = String::from_utf8_lossy(key);
                tracing::error!(bucket = kind, key = %key, %error, "record left out");
            }
        }
    }
    Ok(())
}
