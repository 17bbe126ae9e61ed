//! Sparse maps: which parts of a file have data in the archive.

use super::error::TarError;
use super::header::unsigned;
use super::pax::decimal;

/// The most parts of one sparse file: 16 MiB of map.
const MAX_SEGMENTS: usize = 1 << 20;

/// A part of a sparse file that has data; all else is a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it begins in the file.
    pub offset: u64,
    /// Its bytes.
    pub length: u64,
}

/// Appends the segments of one old GNU map, 24 bytes each; an empty one ends the map.
pub(crate) fn push_gnu(map: &mut Vec<Segment>, bytes: &[u8]) -> Result<(), TarError> {
    for pair in bytes.chunks_exact(24) {
        if pair[0] == 0 {
            break;
        }
        let segment = Segment { offset: unsigned(&pair[..12])?, length: unsigned(&pair[12..])? };
        push(map, segment)?;
    }
    Ok(())
}

/// Appends a segment within the bound.
pub(crate) fn push(map: &mut Vec<Segment>, segment: Segment) -> Result<(), TarError> {
    if map.len() >= MAX_SEGMENTS {
        return Err(TarError::TooLong);
    }
    map.push(segment);
    Ok(())
}

/// The map of PAX format 0.1: `offset,length,offset,length…`.
pub(crate) fn parse_list(text: &[u8]) -> Result<Vec<Segment>, TarError> {
    let mut map = Vec::new();
    if text.is_empty() {
        return Ok(map);
    }
    let mut numbers = text.split(|byte| *byte == b',').map(decimal);
    while let Some(offset) = numbers.next() {
        let (Some(offset), Some(Some(length))) = (offset, numbers.next()) else {
            return Err(TarError::header("malformed sparse map"));
        };
        push(&mut map, Segment { offset, length })?;
    }
    Ok(map)
}

/// The map of PAX format 1.0, which stands before the data, one number a line: the count, then
/// offset and length in turns. None: `text` ends before the map does.
pub(crate) fn parse_lines(text: &[u8]) -> Result<Option<Vec<Segment>>, TarError> {
    let bad = || TarError::header("malformed sparse map");
    let complete = match text.iter().rposition(|byte| *byte == b'\n') {
        Some(end) => &text[..end],
        None => return Ok(None),
    };
    let mut lines = complete.split(|byte| *byte == b'\n');
    let count = lines.next().and_then(decimal).ok_or_else(bad)?;
    let count = usize::try_from(count).map_err(|_| bad())?;
    if count > MAX_SEGMENTS {
        return Err(TarError::TooLong);
    }
    let mut map = Vec::new();
    for _ in 0..count {
        let (Some(offset), Some(length)) = (lines.next(), lines.next()) else { return Ok(None) };
        let offset = decimal(offset).ok_or_else(bad)?;
        let length = decimal(length).ok_or_else(bad)?;
        map.push(Segment { offset, length });
    }
    Ok(Some(map))
}

/// Checks that segments ascend, do not overlap, stay within `real_size`, and have together the
/// `stored` bytes that the archive holds.
pub(crate) fn check(map: &[Segment], real_size: u64, stored: u64) -> Result<(), TarError> {
    let (mut end, mut sum) = (0_u64, 0_u64);
    for segment in map {
        let next = segment.offset.checked_add(segment.length);
        match next {
            Some(next) if segment.offset >= end && next <= real_size => end = next,
            _ => return Err(TarError::header("sparse map out of order")),
        }
        sum += segment.length;
    }
    if sum != stored {
        return Err(TarError::header("sparse map does not fit the data"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_checked() {
        let map = parse_list(b"0,10,20,5").unwrap();
        assert_eq!(map, [Segment { offset: 0, length: 10 }, Segment { offset: 20, length: 5 }]);
        assert!(check(&map, 25, 15).is_ok());
        assert!(check(&map, 24, 15).is_err());
        assert!(check(&map, 25, 16).is_err());
        assert!(check(&parse_list(b"20,5,0,10").unwrap(), 25, 15).is_err());
        assert!(parse_list(b"1,2,3").is_err());
        let huge = [Segment { offset: u64::MAX, length: 2 }];
        assert!(check(&huge, u64::MAX, 2).is_err());
    }

    #[test]
    fn a_map_in_the_data_is_complete_or_not() {
        assert_eq!(parse_lines(b"1\n0\n").unwrap(), None);
        assert_eq!(parse_lines(b"1\n0\n7\n\0\0").unwrap().unwrap().len(), 1);
        assert_eq!(parse_lines(b"0\n").unwrap().unwrap().len(), 0);
        assert!(parse_lines(b"x\n").is_err());
        assert!(parse_lines(b"99999999\n").is_err());
    }
}
