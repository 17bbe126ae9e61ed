//! PAX records: `length key=value newline`, to and from bytes.

use super::error::TarError;
use super::reader::Time;

/// Takes the next record from `rest`.
pub(crate) fn next_record<'a>(rest: &mut &'a [u8]) -> Result<(&'a [u8], &'a [u8]), TarError> {
    let bad = TarError::header("malformed PAX record");
    let Some(space) = rest.iter().take(20).position(|byte| *byte == b' ') else { return Err(bad) };
    let Some(length) = decimal(&rest[..space]).and_then(|length| usize::try_from(length).ok())
    else {
        return Err(bad);
    };
    if length < space + 3 || length > rest.len() || rest[length - 1] != b'\n' {
        return Err(bad);
    }
    let record = &rest[space + 1..length - 1];
    *rest = &rest[length..];
    let Some(equals) = record.iter().position(|byte| *byte == b'=') else { return Err(bad) };
    let (key, value) = (&record[..equals], &record[equals + 1..]);
    if key.is_empty() || key.contains(&0) {
        return Err(bad);
    }
    // A NUL would cut a name short for some readers and not for others.
    if matches!(key, b"path" | b"linkpath" | b"uname" | b"gname" | b"GNU.sparse.name")
        && value.contains(&0)
    {
        return Err(bad);
    }
    Ok((key, value))
}

/// A number of decimal digits.
pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |value, digit| {
        digit
            .is_ascii_digit()
            .then(|| value.checked_mul(10)?.checked_add(u64::from(digit - b'0')))
            .flatten()
    })
}

/// A time in seconds, with a sign and a fraction; beyond nanoseconds it is cut.
pub(crate) fn time(text: &[u8]) -> Result<Time, TarError> {
    let bad = || TarError::header("malformed PAX time");
    let (negative, digits) = match text.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let mut parts = digits.splitn(2, |byte| *byte == b'.');
    let whole = decimal(parts.next().unwrap_or_default()).ok_or_else(bad)?;
    let whole = i64::try_from(whole).map_err(|_| bad())?;
    let mut nanos = 0_u32;
    if let Some(fraction) = parts.next() {
        if !fraction.iter().all(u8::is_ascii_digit) {
            return Err(bad());
        }
        for place in 0..9 {
            let digit = fraction.get(place).map_or(0, |digit| digit - b'0');
            nanos = nanos * 10 + u32::from(digit);
        }
    }
    Ok(match (negative, nanos) {
        (false, nanos) => Time { seconds: whole, nanos },
        (true, 0) => Time { seconds: -whole, nanos: 0 },
        (true, nanos) => Time { seconds: -whole - 1, nanos: 1_000_000_000 - nanos },
    })
}

/// Appends a record; its length counts its own digits.
pub(crate) fn push_record(into: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let payload = key.len() + value.len() + 3;
    let mut length = payload + decimal_len(payload);
    if payload + decimal_len(length) != length {
        length = payload + decimal_len(length);
    }
    into.extend_from_slice(length.to_string().as_bytes());
    into.push(b' ');
    into.extend_from_slice(key);
    into.push(b'=');
    into.extend_from_slice(value);
    into.push(b'\n');
}

fn decimal_len(value: usize) -> usize {
    value.checked_ilog10().map_or(1, |log| log as usize + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_round_trip_at_every_length() {
        for length in 0..1100 {
            let value = vec![b'v'; length];
            let mut bytes = Vec::new();
            push_record(&mut bytes, b"k", &value);
            let mut rest = &bytes[..];
            assert_eq!(next_record(&mut rest).unwrap(), (&b"k"[..], &value[..]));
            assert!(rest.is_empty());
        }
    }

    #[test]
    fn bad_records_are_refused() {
        for record in [
            &b""[..],
            b"5 a=b\n",
            b"7 a=b\n",
            b"x a=b\n",
            b"6 a=b ",
            b"6 abc\n",
            b"6 =bc\n",
            b"99999999999999999999 a=b\n",
            b"11 path=a\0b\n",
            b"8 a\0b=c\n",
        ] {
            assert!(next_record(&mut &record[..]).is_err(), "{record:?}");
        }
    }

    #[test]
    fn times_have_signs_and_fractions() {
        assert_eq!(time(b"12.5").unwrap(), Time { seconds: 12, nanos: 500_000_000 });
        assert_eq!(time(b"12").unwrap(), Time { seconds: 12, nanos: 0 });
        assert_eq!(time(b"0.1234567899").unwrap(), Time { seconds: 0, nanos: 123_456_789 });
        assert_eq!(time(b"-1.25").unwrap(), Time { seconds: -2, nanos: 750_000_000 });
        assert!(time(b"1.2.3").is_err() && time(b"").is_err() && time(b"a").is_err());
    }
}
