//! The encodings of values, as Go's `encoding/binary` and `time` write them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The seconds from year 1 to the Unix epoch.
const EPOCH: i64 = 62_135_596_800;

/// `value` as a uvarint.
pub(crate) fn uvarint(mut value: u64) -> Vec<u8> {
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

/// Reads a uvarint.
pub(crate) fn read_uvarint(bytes: &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for (at, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f).checked_shl(u32::try_from(7 * at).ok()?)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// `time` in UTC, in Go's binary form. Times before 1970 are written as 1970.
pub(crate) fn time(time: SystemTime) -> [u8; 15] {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX).saturating_add(EPOCH);
    let mut bytes = [0; 15];
    bytes[0] = 1;
    bytes[1..9].copy_from_slice(&seconds.to_be_bytes());
    bytes[9..13].copy_from_slice(&since.subsec_nanos().to_be_bytes());
    bytes[13..].copy_from_slice(&[0xff, 0xff]);
    bytes
}

/// Reads Go's binary form of a time; the seconds are in UTC whatever the zone.
pub(crate) fn read_time(bytes: &[u8]) -> Option<SystemTime> {
    // COMPAT: version 2 is written for zones with seconds.
    if !matches!((bytes.first()?, bytes.len()), (1, 15) | (2, 16)) {
        return None;
    }
    let seconds = i64::from_be_bytes(bytes.get(1..9)?.try_into().ok()?).checked_sub(EPOCH)?;
    let nanos = u32::from_be_bytes(bytes.get(9..13)?.try_into().ok()?);
    let seconds = u64::try_from(seconds).ok()?;
    UNIX_EPOCH
        .checked_add(Duration::from_secs(seconds))?
        .checked_add(Duration::from_nanos(nanos.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_back() {
        for value in [0, 1, 127, 128, 300, u64::MAX] {
            assert_eq!(read_uvarint(&uvarint(value)), Some(value));
        }
        let now = SystemTime::now();
        assert_eq!(read_time(&time(now)), Some(now));
        for bytes in [&[][..], &[0x80; 12], &[3; 15]] {
            assert_eq!((read_uvarint(bytes).is_some(), read_time(bytes)), (bytes == [3; 15], None));
        }
    }
}
