//! A realistic image, the same on every machine: 8 layers, about 600 MB unpacked.
//!
//! Files have the sizes, and their bytes the compressibility, that system images have: most files
//! are small texts, most bytes are in programs and libraries, some are packed already.

use std::path::PathBuf;

use anyhow::Result;
use e2e::image::{self, Builder, Entry, Format, Layer};

/// The image's name.
pub const NAME: &str = "docker.io/library/large:1";

/// Number of the contents made here; another one makes the archive anew.
const VERSION: u32 = 1;

/// Unpacked size of each layer, in millions of bytes: a base system, a language, libraries, an
/// application and small changes.
const LAYERS: [usize; 8] = [130, 60, 150, 25, 110, 8, 95, 22];

/// Files of one folder.
const PER_FOLDER: usize = 12;

/// How many layers there are.
#[must_use]
pub fn layers() -> usize {
    LAYERS.len()
}

/// Unpacked size of the files, in bytes.
#[must_use]
pub fn size() -> usize {
    LAYERS.iter().sum::<usize>() * 1_000_000
}

/// The archive; made at the first call, which takes a while, and kept.
///
/// # Errors
///
/// The cache cannot be written.
pub fn archive() -> Result<PathBuf> {
    image::cached(&format!("large-{VERSION}.tar"), |part| {
        eprintln!("bench:   making the image (once)");
        let mut source = Source::new();
        let layers = (0..LAYERS.len()).map(|number| layer(&mut source, number)).collect();
        Builder::new(NAME, layers).write(part, Format::Oci)
    })
}

fn layer(source: &mut Source, number: usize) -> Layer {
    let top = format!("usr/lib/layer{number}");
    let mut entries = vec![
        Entry::folder("usr", 0o755),
        Entry::folder("usr/lib", 0o755),
        Entry::folder(&top, 0o755),
    ];
    let mut folder = top.clone();
    let mut left = LAYERS[number] * 1_000_000;
    let mut files = 0;
    while left > 0 {
        if files % PER_FOLDER == 0 {
            folder = format!("{top}/package-{}", files / PER_FOLDER);
            entries.push(Entry::folder(&folder, 0o755));
        }
        let size = source.size().min(left);
        left -= size;
        let path = format!("{folder}/file-{files}");
        entries.push(match source.below(20) {
            // One of twenty is a link to another file, as libraries have them.
            0 if files > 0 => Entry::link(&format!("{path}.link"), &format!("file-{}", files - 1)),
            _ => Entry::file(&path, 0o644, source.bytes(size)),
        });
        files += 1;
    }
    Layer::gzip(entries)
}

/// Sizes and bytes from a fixed sequence of numbers.
struct Source {
    state: u64,
    words: Vec<Vec<u8>>,
}

impl Source {
    fn new() -> Source {
        let mut source = Source { state: 0x1234_5678_9abc_def1, words: Vec::new() };
        source.words = (0..4096).map(|_| source.word()).collect();
        source
    }

    /// A number of 64 bits (xorshift64*).
    fn next(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`.
    fn below(&mut self, limit: usize) -> usize {
        let limit = u64::try_from(limit).unwrap_or(u64::MAX);
        usize::try_from((self.next() >> 32) % limit).unwrap_or(0)
    }

    /// A number below `limit`, small ones more often: about one over its value.
    fn small(&mut self, limit: usize) -> usize {
        let scale = self.below(limit) + 1;
        self.below(scale)
    }

    /// The size of a file.
    fn size(&mut self) -> usize {
        match self.below(1000) {
            0..700 => 200 + self.below(8_000),
            700..940 => 8_000 + self.below(70_000),
            940..994 => 80_000 + self.below(700_000),
            _ => 800_000 + self.below(6_000_000),
        }
    }

    /// A word of a text.
    fn word(&mut self) -> Vec<u8> {
        let letters = b"etaoinshrdlucmfwypvbgkjqxz_0(;.";
        let length = 2 + self.below(9);
        let mut word: Vec<u8> = (0..length).map(|_| letters[self.small(letters.len())]).collect();
        word.push(if self.below(8) == 0 { b'\n' } else { b' ' });
        word
    }

    /// The bytes of a file of `size`.
    fn bytes(&mut self, size: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(size + 64);
        // Small files are texts more often than large ones.
        let text = if size < 80_000 { 70 } else { 25 };
        match self.below(100) {
            0..5 => self.packed(&mut bytes, size),
            kind if kind < 5 + text => self.text(&mut bytes, size),
            _ => self.program(&mut bytes, size),
        }
        bytes.truncate(size);
        bytes
    }

    /// What does not get smaller: pictures, archives.
    fn packed(&mut self, bytes: &mut Vec<u8>, size: usize) {
        while bytes.len() < size {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
    }

    /// Words, frequent ones more often, and phrases that were there before.
    fn text(&mut self, bytes: &mut Vec<u8>, size: usize) {
        while bytes.len() < size {
            if self.below(6) == 0 && bytes.len() > 64 {
                self.again(bytes, 32_000, 48);
            } else {
                let count = self.words.len();
                let at = self.small(count);
                bytes.extend_from_slice(&self.words[at]);
            }
        }
    }

    /// Instructions and tables: short repetitions, zeroes, few values more often than others.
    fn program(&mut self, bytes: &mut Vec<u8>, size: usize) {
        while bytes.len() < size {
            match self.below(16) {
                0..6 if bytes.len() > 64 => self.again(bytes, 16_000, 22),
                6..8 => bytes.resize(bytes.len() + 1 + self.below(24), 0),
                _ => {
                    for _ in 0..=self.below(6) {
                        let value = self.small(256);
                        bytes.push(u8::try_from(value).unwrap_or_default());
                    }
                }
            }
        }
    }

    /// Appends up to `longest` bytes from at most `far` back.
    fn again(&mut self, bytes: &mut Vec<u8>, far: usize, longest: usize) {
        let back = longest + self.below(far.min(bytes.len()) - longest.min(bytes.len() - 1));
        let from = bytes.len().saturating_sub(back);
        let length = 4 + self.below(longest - 4);
        let end = (from + length).min(bytes.len());
        bytes.extend_from_within(from..end);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::Source;

    #[test]
    fn bytes_pack_as_well_as_those_of_systems_and_are_always_the_same() {
        let make = || {
            let mut source = Source::new();
            let mut all = Vec::new();
            while all.len() < 8_000_000 {
                let size = source.size();
                all.extend(source.bytes(size));
            }
            all
        };
        let bytes = make();
        assert!(bytes == make(), "not the same bytes again");
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        packer.write_all(&bytes).unwrap();
        let packed = packer.finish().unwrap().len();
        let percent = packed * 100 / bytes.len();
        assert!((30..45).contains(&percent), "packed to {percent} %");
    }
}
