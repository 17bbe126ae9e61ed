//! Checksums made right, so that a changed input gets past them.
//!
//! An input of odd length stays as it is: wrong checksums are inputs as well.

use std::borrow::Cow;

/// A block of an archive.
const BLOCK: usize = 512;
/// Where a header has its checksum, and where the dialect's name.
const CHECKSUM: std::ops::Range<usize> = 148..156;
const MAGIC: std::ops::Range<usize> = 257..262;

/// Where a page has its meta, the part of it that the checksum is of, and the checksum.
const META: usize = 16;
const SUMMED: usize = 56;
/// Page sizes that inputs have.
const PAGES: [usize; 2] = [1024, 4096];

/// An archive whose headers have right checksums.
pub(crate) fn tar(data: &[u8]) -> Cow<'_, [u8]> {
    if data.len() % 2 == 1 {
        return Cow::Borrowed(data);
    }
    let mut data = data.to_vec();
    for block in data.chunks_exact_mut(BLOCK).filter(|block| block[MAGIC] == *b"ustar") {
        block[CHECKSUM].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    Cow::Owned(data)
}

/// A database whose metas have right checksums.
pub(crate) fn bolt(data: &[u8]) -> Cow<'_, [u8]> {
    if data.len() % 2 == 1 {
        return Cow::Borrowed(data);
    }
    let mut data = data.to_vec();
    for page in [0].into_iter().chain(PAGES) {
        if let Some(meta) = data.get_mut(page + META..page + META + SUMMED + 8) {
            // FNV-1a of 64 bits.
            let sum = meta[..SUMMED].iter().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
                (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
            });
            // Only what is a meta: other bytes are data of some page.
            if meta[..4] == [0xed, 0xda, 0x0c, 0xed] {
                meta[SUMMED..].copy_from_slice(&sum.to_le_bytes());
            }
        }
    }
    Cow::Owned(data)
}
