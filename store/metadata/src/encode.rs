//! The encodings of values: times, integers, maps, messages. Byte for byte containerd's.
//!
//! ```text
//! numbers, times   as `store_bolt::value` has them
//! map              bucket of key = value; never an empty value; no bucket if there is no entry
//! message          google.protobuf.Any, serialized
//! ```

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost::Message as _;
use prost_types::Any;
use store_bolt::BucketMut;
use store_bolt::value::{ZERO_TIME_SECONDS, time};

use crate::Result;
use crate::schema::{CREATED_AT, EXTENSIONS, UPDATED_AT};

/// Go's zero time.
pub(crate) fn zero_time() -> SystemTime {
    UNIX_EPOCH - Duration::from_secs(ZERO_TIME_SECONDS.unsigned_abs())
}

/// Writes `createdat` and `updatedat`.
pub(crate) fn put_times(
    bucket: &mut BucketMut<'_>,
    created: SystemTime,
    updated: SystemTime,
) -> Result<()> {
    bucket.put(CREATED_AT, &time(created))?;
    bucket.put(UPDATED_AT, &time(updated))?;
    Ok(())
}

/// Writes `map` as the bucket `name`, in the place of the old one. Entries with empty values are
/// left out, and an empty map has no bucket.
pub(crate) fn put_map(
    bucket: &mut BucketMut<'_>,
    name: &[u8],
    map: &BTreeMap<String, String>,
) -> Result<()> {
    if bucket.as_read().bucket(name)?.is_some() {
        bucket.delete_bucket(name)?;
    }
    if map.values().all(String::is_empty) {
        return Ok(());
    }
    let mut entries = bucket.create_bucket(name)?;
    for (key, value) in map.iter().filter(|(_, value)| !value.is_empty()) {
        entries.put(key.as_bytes(), value.as_bytes())?;
    }
    Ok(())
}

/// Writes a message; an absent one leaves what is there.
pub(crate) fn put_any(bucket: &mut BucketMut<'_>, name: &[u8], any: Option<&Any>) -> Result<()> {
    if let Some(any) = any {
        bucket.put(name, &any.encode_to_vec())?;
    }
    Ok(())
}

/// Merges `extensions` into the stored ones.
pub(crate) fn put_extensions(
    bucket: &mut BucketMut<'_>,
    extensions: &BTreeMap<String, Any>,
) -> Result<()> {
    if extensions.is_empty() {
        return Ok(());
    }
    let mut stored = bucket.create_bucket_if_missing(EXTENSIONS)?;
    for (name, any) in extensions {
        stored.put(name.as_bytes(), &any.encode_to_vec())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn golden_message() {
        let any = Any { type_url: "t".to_owned(), value: vec![7] };
        assert_eq!(hex(&any.encode_to_vec()), "0a0174120107");
        assert!(Any::default().encode_to_vec().is_empty());
    }
}
