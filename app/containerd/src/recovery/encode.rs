//! The few encodings that recovery writes: byte for byte containerd's.

use std::time::{SystemTime, UNIX_EPOCH};

/// The seconds from year 1 to the Unix epoch.
const EPOCH: i64 = 62_135_596_800;

/// `time` in UTC, in Go's binary form.
pub(super) fn time(time: SystemTime) -> [u8; 15] {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX).saturating_add(EPOCH);
    let mut bytes = [0; 15];
    bytes[0] = 1;
    bytes[1..9].copy_from_slice(&seconds.to_be_bytes());
    bytes[9..13].copy_from_slice(&since.subsec_nanos().to_be_bytes());
    bytes[13..].copy_from_slice(&[0xff, 0xff]);
    bytes
}

/// `value` as a zigzag varint.
pub(super) fn varint(value: u64) -> Vec<u8> {
    uvarint(value.saturating_mul(2))
}

/// `value` as a plain varint.
pub(super) fn uvarint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
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

/// Reads a plain varint.
pub(super) fn read_uvarint(bytes: &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for (at, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f).checked_shl(u32::try_from(7 * at).ok()?)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Reads a zigzag varint that is not negative.
pub(super) fn read_varint(bytes: &[u8]) -> Option<u64> {
    read_uvarint(bytes).filter(|raw| raw & 1 == 0).map(|raw| raw / 2)
}

/// A `google.protobuf.Any` of the type `url`.
pub(super) fn any(url: &str, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(url.len() + value.len() + 16);
    for (tag, field) in [(0x0a, url.as_bytes()), (0x12, value)] {
        bytes.push(tag);
        bytes.extend(uvarint(field.len() as u64));
        bytes.extend_from_slice(field);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn values_are_containerds() {
        assert_eq!(varint(4), [0x08]);
        assert_eq!(varint(11), [0x16]);
        for value in [0, 1, 127, 128, 300, u64::MAX / 2] {
            assert_eq!(read_varint(&varint(value)), Some(value));
        }
        let written = time(UNIX_EPOCH + Duration::new(1_733_406_552, 0x0b24_57e3));
        assert_eq!(written[..5], [1, 0, 0, 0, 0x0e]);
        assert_eq!(written[9..], [0x0b, 0x24, 0x57, 0xe3, 0xff, 0xff]);
        assert_eq!(any("a", b"bc"), [0x0a, 1, b'a', 0x12, 2, b'b', b'c']);
    }
}
