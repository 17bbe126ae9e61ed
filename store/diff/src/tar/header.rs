//! The 512-byte header block: fields, numbers, the checksum.

use super::error::TarError;
use super::{BLOCK, reader::Time};

/// The dialect of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// No magic: name, mode, ids, size, time, type and link name only.
    V7,
    /// POSIX ustar, also under PAX.
    Ustar,
    /// GNU: no prefix; access time and sparse map in its place.
    Gnu,
}

/// A header block with a right checksum.
pub(crate) struct Header<'a> {
    block: &'a [u8; BLOCK],
    pub(crate) dialect: Dialect,
}

impl<'a> Header<'a> {
    /// Checks the checksum and tells the dialect.
    pub(crate) fn parse(block: &'a [u8; BLOCK]) -> Result<Self, TarError> {
        let stored = octal(&block[148..156])?;
        let (mut unsigned, mut signed) = (0_u64, 0_i64);
        for (index, byte) in block.iter().enumerate() {
            let byte = if (148..156).contains(&index) { b' ' } else { *byte };
            unsigned += u64::from(byte);
            // Some old programs summed signed characters.
            signed += i64::from(i8::from_ne_bytes([byte]));
        }
        if stored != unsigned && i64::try_from(stored) != Ok(signed) {
            return Err(TarError::header("wrong checksum"));
        }
        let dialect = match &block[257..265] {
            b"ustar\x0000" => Dialect::Ustar,
            b"ustar  \0" => Dialect::Gnu,
            magic if magic.starts_with(b"ustar\0") => Dialect::Ustar,
            _ => Dialect::V7,
        };
        Ok(Header { block, dialect })
    }

    /// The entry's name, with the prefix of ustar.
    pub(crate) fn name(&self, into: &mut Vec<u8>) {
        into.clear();
        if self.dialect == Dialect::Ustar {
            let prefix = text(&self.block[345..500]);
            if !prefix.is_empty() {
                into.extend_from_slice(prefix);
                into.push(b'/');
            }
        }
        into.extend_from_slice(text(&self.block[0..100]));
    }

    pub(crate) fn link(&self) -> &'a [u8] {
        text(&self.block[157..257])
    }

    pub(crate) fn flag(&self) -> u8 {
        self.block[156]
    }

    pub(crate) fn mode(&self) -> Result<u64, TarError> {
        unsigned(&self.block[100..108])
    }

    pub(crate) fn uid(&self) -> Result<i64, TarError> {
        number(&self.block[108..116])
    }

    pub(crate) fn gid(&self) -> Result<i64, TarError> {
        number(&self.block[116..124])
    }

    pub(crate) fn size(&self) -> Result<u64, TarError> {
        unsigned(&self.block[124..136])
    }

    pub(crate) fn mtime(&self) -> Result<Time, TarError> {
        Ok(Time { seconds: number(&self.block[136..148])?, nanos: 0 })
    }

    /// GNU's access time, if it is set.
    pub(crate) fn atime(&self) -> Result<Option<Time>, TarError> {
        if self.dialect != Dialect::Gnu || self.block[345] == 0 {
            return Ok(None);
        }
        // Ancient ustar archives with GNU's magic have a prefix here: no number, no time.
        Ok(number(&self.block[345..357]).ok().map(|seconds| Time { seconds, nanos: 0 }))
    }

    /// Major and minor number of a device.
    pub(crate) fn device(&self) -> Result<(u64, u64), TarError> {
        if self.dialect == Dialect::V7 {
            return Ok((0, 0));
        }
        Ok((unsigned(&self.block[329..337])?, unsigned(&self.block[337..345])?))
    }

    /// The part of a GNU sparse map that is in the header, and whether more blocks follow.
    pub(crate) fn sparse(&self) -> (&'a [u8], bool) {
        (&self.block[386..482], self.block[482] != 0)
    }

    /// The size of a GNU sparse file with its holes.
    pub(crate) fn real_size(&self) -> Result<u64, TarError> {
        unsigned(&self.block[483..495])
    }
}

/// A field of text, up to its first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A number that cannot be negative.
pub(crate) fn unsigned(field: &[u8]) -> Result<u64, TarError> {
    u64::try_from(number(field)?).map_err(|_| TarError::header("negative number"))
}

/// A number: octal digits, or base 256 in two's complement if the top bit is set.
fn number(field: &[u8]) -> Result<i64, TarError> {
    let Some(first) = field.first() else { return Ok(0) };
    if first & 0x80 == 0 {
        return i64::try_from(octal(field)?).map_err(|_| TarError::header("number too large"));
    }
    let negative = first & 0x40 != 0;
    let invert = if negative { 0xff } else { 0 };
    let mut value = 0_u64;
    for (index, byte) in field.iter().enumerate() {
        let mut byte = byte ^ invert;
        if index == 0 {
            byte &= 0x7f;
        }
        if value >> 56 != 0 {
            return Err(TarError::header("number too large"));
        }
        value = value << 8 | u64::from(byte);
    }
    let value = i64::try_from(value).map_err(|_| TarError::header("number too large"))?;
    Ok(if negative { !value } else { value })
}

/// Octal digits between spaces and NULs.
fn octal(field: &[u8]) -> Result<u64, TarError> {
    let is_blank = |byte: &u8| matches!(byte, b' ' | 0);
    let start = field.iter().position(|byte| !is_blank(byte)).unwrap_or(field.len());
    let digits = &field[start..];
    let end = digits.iter().position(is_blank).unwrap_or(digits.len());
    let mut value = 0_u64;
    for digit in &digits[..end] {
        if !matches!(digit, b'0'..=b'7') || value >> 61 != 0 {
            return Err(TarError::header("not an octal number"));
        }
        value = value << 3 | u64::from(digit - b'0');
    }
    Ok(value)
}

/// Writes `value` as octal digits with a NUL behind; false if it does not fit.
pub(crate) fn put_octal(field: &mut [u8], value: u64) -> bool {
    let digits = field.len() - 1;
    if digits < 22 && value >> (3 * digits) != 0 {
        field[..digits].fill(b'0');
        return false;
    }
    let mut rest = value;
    for place in field[..digits].iter_mut().rev() {
        *place = b'0' + u8::try_from(rest & 7).unwrap_or(0);
        rest >>= 3;
    }
    field[digits] = 0;
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_both_kinds() {
        assert_eq!(number(b"0000644\0").unwrap(), 0o644);
        assert_eq!(number(b" 644 \0\0\0").unwrap(), 0o644);
        assert_eq!(number(b"\0\0\0\0\0\0\0\0").unwrap(), 0);
        assert_eq!(number(b"\x80\0\0\0\0\0\x01\0").unwrap(), 256);
        assert_eq!(number(b"\xff\xff\xff\xff\xff\xff\xff\xff").unwrap(), -1);
        assert_eq!(number(b"\xff\xff\xff\xff\xff\xff\xff\x00").unwrap(), -256);
        assert_eq!(number(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff").unwrap(), i64::MAX);
        assert!(number(b"\x80\0\0\x01\0\0\0\0\0\0\0\0").is_err());
        assert!(number(b"12x\0\0\0\0\0").is_err());
        assert!(number(b"9\0").is_err());
    }

    #[test]
    fn octal_fields_say_when_they_are_too_small() {
        let mut field = [0; 8];
        assert!(put_octal(&mut field, 0o644));
        assert_eq!(&field, b"0000644\0");
        assert!(put_octal(&mut field, 0o7_777_777));
        assert!(!put_octal(&mut field, 0o10_000_000));
    }
}
