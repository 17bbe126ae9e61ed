//! The encodings of values, as Go's `encoding/binary` and `time` write them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The seconds from year 1 to the Unix epoch.
const EPOCH: i64 = 62_135_596_800;

/// `value` as a uvarint.
pub(super) fn uvarint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(10);
    loop {
        let low = value.to_le_bytes()[0] & 0x7f;
        value >>= 7;
        if value == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

/// Reads a uvarint and the number of its bytes.
pub(super) fn read_uvarint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0u64;
    for (at, byte) in bytes.iter().enumerate() {
        if at > 9 || (at == 9 && *byte > 1) {
            return None;
        }
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some((value, at + 1));
        }
    }
    None
}

/// `value` as a zigzag varint; values beyond the format are cut to its largest.
pub(super) fn varint(value: u64) -> Vec<u8> {
    uvarint(value.min(u64::MAX >> 1) << 1)
}

/// Reads a zigzag varint; negative ones count as nothing.
pub(super) fn read_varint(bytes: &[u8]) -> Option<u64> {
    let (raw, _) = read_uvarint(bytes)?;
    Some(if raw & 1 == 0 { raw >> 1 } else { 0 })
}

/// `time` in UTC, in Go's binary form.
pub(super) fn time(time: SystemTime) -> [u8; 15] {
    let (seconds, nanos) = match time.duration_since(UNIX_EPOCH) {
        Ok(since) => (i64::try_from(since.as_secs()).unwrap_or(i64::MAX), since.subsec_nanos()),
        Err(error) => {
            let before = error.duration();
            let seconds = -i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
            match before.subsec_nanos() {
                0 => (seconds, 0),
                nanos => (seconds - 1, 1_000_000_000 - nanos),
            }
        }
    };
    let mut bytes = [0; 15];
    bytes[0] = 1;
    bytes[1..9].copy_from_slice(&seconds.saturating_add(EPOCH).to_be_bytes());
    bytes[9..13].copy_from_slice(&nanos.to_be_bytes());
    bytes[13..].copy_from_slice(&[0xff, 0xff]);
    bytes
}

/// Reads Go's binary form of a time; the seconds are in UTC whatever the zone.
pub(super) fn read_time(bytes: &[u8]) -> Option<SystemTime> {
    // COMPAT: version 2 is written for zones with seconds.
    if !matches!((bytes.first()?, bytes.len()), (1, 15) | (2, 16)) {
        return None;
    }
    let seconds = i64::from_be_bytes(bytes.get(1..9)?.try_into().ok()?).checked_sub(EPOCH)?;
    let nanos = u32::from_be_bytes(bytes.get(9..13)?.try_into().ok()?);
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let start =
        if seconds < 0 { UNIX_EPOCH.checked_sub(whole)? } else { UNIX_EPOCH.checked_add(whole)? };
    start.checked_add(Duration::from_nanos(nanos.into()))
}

/// The key of a link from a parent to its child.
pub(super) fn parent_key(parent: u64, child: u64) -> Vec<u8> {
    let mut key = parent_prefix(parent);
    key.extend(uvarint(child));
    key
}

/// What the links to all children of a parent begin with.
pub(super) fn parent_prefix(parent: u64) -> Vec<u8> {
    let mut key = uvarint(parent);
    key.push(0);
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_values() {
        assert_eq!(parent_key(1, 2), [1, 0, 2]);
        assert_eq!(parent_key(128, 300), [0x80, 1, 0, 0xac, 2]);
        assert_eq!(varint(11), [0x16]);
        assert_eq!(uvarint(4), [4]);
        let text: String =
            time(UNIX_EPOCH + Duration::new(0xe_e293_f9d8 - 62_135_596_800, 0x0b24_57e3))
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
        assert_eq!(text, "010000000ee293f9d80b2457e3ffff");
    }

    #[test]
    fn values_are_read_back() {
        for value in [0, 1, 127, 128, 300, 1 << 40, u64::MAX >> 1] {
            assert_eq!(read_varint(&varint(value)), Some(value));
            assert_eq!(read_uvarint(&uvarint(value)), Some((value, uvarint(value).len())));
        }
        let now = SystemTime::now();
        assert_eq!(read_time(&time(now)), Some(now));
        for bytes in [&[][..], &[1; 3], &[3; 15], &[0x80; 12]] {
            assert_eq!(read_time(bytes), None);
            assert_eq!(
                read_uvarint(bytes).map(|(_, length)| length > bytes.len()),
                match bytes {
                    [] | [0x80, ..] => None,
                    _ => Some(false),
                }
            );
        }
    }
}
