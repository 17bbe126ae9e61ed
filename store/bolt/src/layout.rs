//! The format's numbers: sizes, flags, and the meta page.
//!
//! All integers are little-endian, as on every machine that containerd runs on.
//!
//! ```text
//! page    id u64 | flags u16 | count u16 | overflow u32 | body        (16 bytes, then the body)
//! leaf    flags u32 | pos u32 | ksize u32 | vsize u32                 count times, then the data
//! branch  pos u32 | ksize u32 | pgid u64                              count times, then the keys
//! bucket  root pgid u64 | sequence u64 | inline page if root is 0     the value of a bucket's key
//! free    pgid u64, ascending                                         count times
//! meta    magic u32 | version u32 | page size u32 | flags u32 | root pgid u64 | sequence u64
//!         | free list pgid u64 | high water pgid u64 | txid u64 | checksum u64
//! ```
//! `pos` counts from the start of its own element. `overflow` is the number of further pages that
//! belong to this one. A free list of 0xFFFF pages or more stores its true count as first id.

/// Bytes before a page's body.
pub(crate) const PAGE_HEADER: usize = 16;
/// Bytes of one element, leaf or branch.
pub(crate) const ELEMENT: usize = 16;
/// Bytes before the inline page in a bucket's value.
pub(crate) const BUCKET_HEADER: usize = 16;
/// Bytes of a meta, checksum included.
pub(crate) const META: usize = 64;

/// A page of keys and children.
pub(crate) const FLAG_BRANCH: u16 = 0x01;
/// A page of keys and values.
pub(crate) const FLAG_LEAF: u16 = 0x02;
/// One of the two metas.
pub(crate) const FLAG_META: u16 = 0x04;
/// A stored free list.
pub(crate) const FLAG_FREELIST: u16 = 0x10;
/// A leaf element whose value is a bucket.
pub(crate) const ELEMENT_BUCKET: u32 = 0x01;

/// The first number of a meta.
pub(crate) const MAGIC: u32 = 0xED0C_DAED;
/// The version of the format.
pub(crate) const VERSION: u32 = 2;
/// The free list's pgid where none is stored.
pub(crate) const NO_FREELIST: u64 = u64::MAX;
/// Pages 0 and 1 are the metas.
pub(crate) const FIRST_PAGE: u64 = 2;

/// Longest key, as in bbolt.
pub(crate) const MAX_KEY: usize = 32768;
/// Longest value, as in bbolt.
pub(crate) const MAX_VALUE: usize = (1 << 31) - 2;

/// Smallest and largest page size that is looked for, as in bbolt.
pub(crate) const PAGE_SIZES: std::ops::RangeInclusive<u32> = 1024..=(1024 << 15);

/// Deepest tree within one bucket. With two children per branch at the least, 2^32 leaves.
pub(crate) const MAX_TREE_DEPTH: usize = 32;
/// Deepest nesting of buckets; containerd uses seven.
pub(crate) const MAX_NESTING: usize = 64;

/// Two bytes at `at`.
pub(crate) fn u16_at(data: &[u8], at: usize) -> Option<u16> {
    let bytes = data.get(at..at.checked_add(2)?)?;
    Some(u16::from_le_bytes(bytes.try_into().ok()?))
}

/// Four bytes at `at`.
pub(crate) fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    let bytes = data.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

/// Eight bytes at `at`.
pub(crate) fn u64_at(data: &[u8], at: usize) -> Option<u64> {
    let bytes = data.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

/// A number from the file as an index. Numbers beyond the address space become one that no slice
/// reaches.
pub(crate) fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// A page header.
pub(crate) fn page_header(id: u64, flags: u16, count: u16, overflow: u32) -> [u8; PAGE_HEADER] {
    let mut header = [0; PAGE_HEADER];
    header[0..8].copy_from_slice(&id.to_le_bytes());
    header[8..10].copy_from_slice(&flags.to_le_bytes());
    header[10..12].copy_from_slice(&count.to_le_bytes());
    header[12..16].copy_from_slice(&overflow.to_le_bytes());
    header
}

/// A meta: which state of the file is the committed one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    /// Bytes per page.
    pub(crate) page_size: u32,
    /// Unused flags, kept as found.
    pub(crate) flags: u32,
    /// Root page of the top bucket.
    pub(crate) root: u64,
    /// Sequence of the top bucket.
    pub(crate) sequence: u64,
    /// Page of the stored free list, or [`NO_FREELIST`].
    pub(crate) freelist: u64,
    /// First page that was never used.
    pub(crate) high_water: u64,
    /// Number of the commit.
    pub(crate) txid: u64,
}

impl Meta {
    /// Decodes the meta that follows a page header, `data` starting at the meta itself.
    ///
    /// The error is the reason why it is not valid.
    pub(crate) fn decode(data: &[u8]) -> Result<Meta, &'static str> {
        let fields = || {
            Some((
                u32_at(data, 0)?,
                u32_at(data, 4)?,
                Meta {
                    page_size: u32_at(data, 8)?,
                    flags: u32_at(data, 12)?,
                    root: u64_at(data, 16)?,
                    sequence: u64_at(data, 24)?,
                    freelist: u64_at(data, 32)?,
                    high_water: u64_at(data, 40)?,
                    txid: u64_at(data, 48)?,
                },
                u64_at(data, 56)?,
            ))
        };
        let (magic, version, meta, checksum) = fields().ok_or("meta is cut off")?;
        if magic != MAGIC {
            return Err("not a bolt database: wrong magic number");
        }
        if version != VERSION {
            return Err("unknown version of the format");
        }
        if checksum != fnv64(&data[..META - 8]) {
            return Err("meta has a wrong checksum");
        }
        if !meta.page_size.is_power_of_two() || !PAGE_SIZES.contains(&meta.page_size) {
            return Err("meta has an impossible page size");
        }
        if meta.high_water < FIRST_PAGE || meta.root < FIRST_PAGE || meta.root >= meta.high_water {
            return Err("meta has a root beyond the file");
        }
        Ok(meta)
    }

    /// Encodes the meta into a page of its own: `page` is one page long and zeroed.
    pub(crate) fn encode(&self, page: &mut [u8], id: u64) {
        page[..PAGE_HEADER].copy_from_slice(&page_header(id, FLAG_META, 0, 0));
        let meta = &mut page[PAGE_HEADER..PAGE_HEADER + META];
        meta[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        meta[4..8].copy_from_slice(&VERSION.to_le_bytes());
        meta[8..12].copy_from_slice(&self.page_size.to_le_bytes());
        meta[12..16].copy_from_slice(&self.flags.to_le_bytes());
        meta[16..24].copy_from_slice(&self.root.to_le_bytes());
        meta[24..32].copy_from_slice(&self.sequence.to_le_bytes());
        meta[32..40].copy_from_slice(&self.freelist.to_le_bytes());
        meta[40..48].copy_from_slice(&self.high_water.to_le_bytes());
        meta[48..56].copy_from_slice(&self.txid.to_le_bytes());
        let checksum = fnv64(&meta[..META - 8]);
        meta[56..64].copy_from_slice(&checksum.to_le_bytes());
    }
}

/// FNV-1a of 64 bits.
pub(crate) fn fnv64(data: &[u8]) -> u64 {
    data.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const META_4K: Meta = Meta {
        page_size: 4096,
        flags: 0,
        root: 3,
        sequence: 7,
        freelist: NO_FREELIST,
        high_water: 4,
        txid: 1,
    };

    #[test]
    fn fnv_matches_its_published_vectors() {
        assert_eq!(fnv64(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv64(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv64(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn a_meta_survives_the_round_trip() {
        let mut page = vec![0; 4096];
        META_4K.encode(&mut page, 1);
        assert_eq!(Meta::decode(&page[PAGE_HEADER..]), Ok(META_4K));
    }

    #[test]
    fn any_changed_byte_makes_a_meta_invalid() {
        let mut page = vec![0; 4096];
        META_4K.encode(&mut page, 0);
        for at in 0..META {
            let mut torn = page.clone();
            torn[PAGE_HEADER + at] ^= 0x40;
            assert!(Meta::decode(&torn[PAGE_HEADER..]).is_err(), "byte {at}");
        }
        assert!(Meta::decode(&page[PAGE_HEADER..PAGE_HEADER + META - 1]).is_err());
    }
}
