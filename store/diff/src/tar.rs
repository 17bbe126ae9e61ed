//! The tar format: a streaming reader and a writer, for what image layers use of it.
//!
//! Read: V7, ustar, PAX, GNU (long names, base-256 numbers) and GNU sparse files of all four
//! kinds. Written: ustar with PAX headers where a field does not fit, as Go's `archive/tar` does
//! under its PAX format, so that layers have the digests that other tools expect.

mod error;
mod header;
mod pax;
mod reader;
mod sparse;
mod writer;

pub use error::TarError;
pub use reader::{Entry, EntryKind, TarReader, Time};
pub use sparse::Segment;
pub use writer::{TarWriter, WriteEntry};

/// The unit of the format.
pub(crate) const BLOCK: usize = 512;

/// The most bytes of one special entry: a PAX header, a long name, a sparse map in the data. The
/// same bound as Go's reader.
pub(crate) const MAX_SPECIAL: u64 = 1 << 20;

/// Before the name of an extended attribute in a PAX header.
pub(crate) const XATTR_PREFIX: &[u8] = b"SCHILY.xattr.";
