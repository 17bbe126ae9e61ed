//! The encodings of values in containerd's databases: byte for byte what Go's `encoding/binary` and
//! `time` write.
//!
//! ```text
//! time      01 | int64 BE seconds since year 1 | int32 BE nanoseconds | int16 BE zone in minutes
//!           the zone is FFFF for UTC; version 02 has a byte of zone seconds more
//! uvarint   seven bits a byte, the lowest first; the top bit says that more follow
//! varint    a uvarint of the zigzag form
//! ```

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The Unix time of Go's zero time, year 1: what readers see where a record has no time.
pub const ZERO_TIME_SECONDS: i64 = -62_135_596_800;

/// The seconds from year 1 to the Unix epoch.
const EPOCH: i64 = -ZERO_TIME_SECONDS;

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
#[must_use]
pub fn time(time: SystemTime) -> [u8; 15] {
    let (seconds, nanos) = parts(time);
    let mut bytes = [0; 15];
    bytes[0] = 1;
    bytes[1..9].copy_from_slice(&seconds.saturating_add(EPOCH).to_be_bytes());
    bytes[9..13].copy_from_slice(&nanos.to_be_bytes());
    bytes[13..].copy_from_slice(&[0xff, 0xff]);
    bytes
}

/// Reads Go's binary form of a time; the zone does not matter, because the seconds are in UTC.
#[must_use]
pub fn read_time(bytes: &[u8]) -> Option<SystemTime> {
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

/// `value` as a uvarint.
#[must_use]
pub fn uvarint(mut value: u64) -> Vec<u8> {
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

/// Reads a uvarint; bytes behind it are ignored, as in Go.
#[must_use]
pub fn read_uvarint(bytes: &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for (at, byte) in bytes.iter().enumerate() {
        if at > 9 || (at == 9 && *byte > 1) {
            return None;
        }
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// `value` as a varint.
#[must_use]
pub fn varint(value: i64) -> Vec<u8> {
    uvarint(value.wrapping_shl(1).cast_unsigned() ^ (value >> 63).cast_unsigned())
}

/// Reads a varint; bytes behind it are ignored, as in Go.
#[must_use]
pub fn read_varint(bytes: &[u8]) -> Option<i64> {
    let raw = read_uvarint(bytes)?;
    let half = (raw >> 1).cast_signed();
    Some(if raw & 1 == 0 { half } else { !half })
}

/// `value` as a varint; one beyond the format is cut to its largest.
#[must_use]
pub fn count(value: u64) -> Vec<u8> {
    varint(i64::try_from(value).unwrap_or(i64::MAX))
}

/// Reads a varint that is not negative.
#[must_use]
pub fn read_count(bytes: &[u8]) -> Option<u64> {
    read_varint(bytes).and_then(|value| u64::try_from(value).ok())
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
        let zero = UNIX_EPOCH - Duration::from_secs(ZERO_TIME_SECONDS.unsigned_abs());
        assert_eq!(hex(&time(zero)), "010000000000000000".to_owned() + "00000000ffff");
        assert_eq!(read_time(&time(zero)), Some(zero));
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
        assert_eq!(uvarint(4), [4]);
        assert_eq!(read_uvarint(&uvarint(u64::MAX)), Some(u64::MAX));
        assert_eq!(read_uvarint(&[0x80; 12]), None);
    }

    #[test]
    fn counts_are_cut_and_never_negative() {
        for value in [0, 1, 127, 128, 300, 1 << 40, u64::MAX >> 1] {
            assert_eq!(read_count(&count(value)), Some(value));
        }
        assert_eq!(count(u64::MAX), count(u64::MAX >> 1));
        assert_eq!(read_count(&varint(-1)), None);
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
