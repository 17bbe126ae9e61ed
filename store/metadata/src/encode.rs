//! The encodings of values: times, integers, maps, messages. Byte for byte containerd's.
//!
//! ```text
//! time      01 | int64 BE seconds since year 1 | int32 BE nanoseconds | int16 BE zone in minutes
//!           the zone is FFFF for UTC; version 02 has a byte of zone seconds more
//! integer   zigzag varint
//! map       bucket of key = value; never an empty value; no bucket if there is no entry
//! message   google.protobuf.Any, serialized
//! ```

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost::Message as _;
use prost_types::Any;
use store_bolt::BucketMut;

use crate::Result;
use crate::schema::{CREATED_AT, EXTENSIONS, UPDATED_AT};

/// The Unix time of Go's zero time, year 1: what readers see where a record has no time.
pub const ZERO_TIME_SECONDS: i64 = -62_135_596_800;

/// The seconds from year 1 to the Unix epoch.
const EPOCH: i64 = -ZERO_TIME_SECONDS;

/// Go's zero time.
pub(crate) fn zero_time() -> SystemTime {
    UNIX_EPOCH - Duration::from_secs(ZERO_TIME_SECONDS.unsigned_abs())
}

/// Seconds (rounded down) and nanoseconds since the Unix epoch.
fn parts(time: SystemTime) -> (i64, u32) {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => (i64::try_from(since.as_secs()).unwrap_or(i64::MAX), since.subsec_nanos()),
        Err(error) => {
            let before = error.duration();
            let seconds = i64::try_from(before.as_secs()).map_or(i64::MIN, |seconds| -seconds);
            match before.subsec_nanos() {
                0 => (seconds, 0),
                nanos => (seconds.saturating_sub(1), 1_000_000_000 - nanos),
            }
        }
    }
}

/// `time` in UTC, in Go's binary form.
pub(crate) fn time(time: SystemTime) -> [u8; 15] {
    let (seconds, nanos) = parts(time);
    let mut bytes = [0; 15];
    bytes[0] = 1;
    bytes[1..9].copy_from_slice(&seconds.saturating_add(EPOCH).to_be_bytes());
    bytes[9..13].copy_from_slice(&nanos.to_be_bytes());
    bytes[13..].copy_from_slice(&[0xff, 0xff]);
    bytes
}

/// Reads Go's binary form of a time; the zone does not matter, because the seconds are in UTC.
pub(crate) fn read_time(bytes: &[u8]) -> Option<SystemTime> {
    match (bytes.first()?, bytes.len()) {
        // COMPAT: version 2 is written for zones with seconds.
        (1, 15) | (2, 16) => {}
        _ => return None,
    }
    let seconds = i64::from_be_bytes(bytes.get(1..9)?.try_into().ok()?).checked_sub(EPOCH)?;
    let nanos = u32::from_be_bytes(bytes.get(9..13)?.try_into().ok()?);
    if nanos >= 1_000_000_000 {
        return None;
    }
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let start =
        if seconds < 0 { UNIX_EPOCH.checked_sub(whole)? } else { UNIX_EPOCH.checked_add(whole)? };
    start.checked_add(Duration::from_nanos(nanos.into()))
}

/// `value` as a zigzag varint.
pub(crate) fn varint(value: i64) -> Vec<u8> {
    let mut rest = value.wrapping_shl(1).cast_unsigned() ^ (value >> 63).cast_unsigned();
    let mut bytes = Vec::with_capacity(10);
    loop {
        let low = rest.to_le_bytes()[0] & 0x7f;
        rest >>= 7;
        if rest == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

/// Reads a zigzag varint; bytes behind it are ignored, as in Go.
pub(crate) fn read_varint(bytes: &[u8]) -> Option<i64> {
    let mut raw = 0u64;
    for (at, byte) in bytes.iter().enumerate() {
        if at > 9 || (at == 9 && *byte > 1) {
            return None;
        }
        raw |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            let half = (raw >> 1).cast_signed();
            return Some(if raw & 1 == 0 { half } else { !half });
        }
    }
    None
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
    use proptest::prelude::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn golden_time() {
        let bytes = time(UNIX_EPOCH + Duration::new(0xe_e293_f9d8 - 62_135_596_800, 0x0b24_57e3));
        assert_eq!(hex(&bytes), "010000000ee293f9d80b2457e3ffff");
    }

    #[test]
    fn golden_zero_time() {
        assert_eq!(hex(&time(zero_time())), "010000000000000000".to_owned() + "00000000ffff");
        assert_eq!(read_time(&time(zero_time())), Some(zero_time()));
    }

    #[test]
    fn times_with_zones_are_read() {
        let mut bytes = time(UNIX_EPOCH + Duration::from_secs(1_700_000_000)).to_vec();
        let expected = read_time(&bytes);
        bytes[13..].copy_from_slice(&60i16.to_be_bytes());
        assert_eq!(read_time(&bytes), expected);
        bytes[0] = 2;
        assert_eq!(read_time(&bytes), None, "version 2 is one byte longer");
        bytes.push(30);
        assert_eq!(read_time(&bytes), expected);
        assert!(expected.is_some());
    }

    #[test]
    fn broken_times_are_refused() {
        for bytes in [&[][..], &[1; 3], &[3; 15], &[1; 16], &[0xff; 15]] {
            assert_eq!(read_time(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn golden_integers() {
        assert_eq!(varint(4), [0x08]);
        assert_eq!(varint(11), [0x16]);
        assert_eq!(varint(0), [0]);
        assert_eq!(varint(-1), [1]);
        assert_eq!(read_varint(&[0x08]), Some(4));
        assert_eq!(read_varint(&[]), None);
        assert_eq!(read_varint(&[0x80; 11]), None);
        assert_eq!(read_varint(&[0x80]), None);
    }

    #[test]
    fn golden_message() {
        let any = Any { type_url: "t".to_owned(), value: vec![7] };
        assert_eq!(hex(&any.encode_to_vec()), "0a0174120107");
        assert!(Any::default().encode_to_vec().is_empty());
    }

    proptest! {
        #[test]
        fn integers_are_read_back(value: i64) {
            prop_assert_eq!(read_varint(&varint(value)), Some(value));
        }

        #[test]
        fn times_are_read_back(seconds in -62_135_596_800i64..300_000_000_000, nanos in 0u32..1_000_000_000) {
            let whole = Duration::from_secs(seconds.unsigned_abs());
            let time_ = if seconds < 0 { UNIX_EPOCH - whole } else { UNIX_EPOCH + whole }
                + Duration::from_nanos(nanos.into());
            prop_assert_eq!(read_time(&time(time_)), Some(time_));
        }

        #[test]
        fn any_bytes_are_safe(bytes in proptest::collection::vec(any::<u8>(), 0..20)) {
            let _ = read_time(&bytes);
            let _ = read_varint(&bytes);
        }
    }
}
