//! A blob file that is open for reading.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use crate::store::ContentReader;

/// Reads with `pread`, so many may read at once.
#[derive(Debug)]
pub(super) struct LocalReader {
    pub(super) file: File,
    pub(super) size: u64,
}

impl ContentReader for LocalReader {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
        loop {
            match self.file.read_at(buffer, offset) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    fn file(&self) -> Option<&File> {
        Some(&self.file)
    }
}
