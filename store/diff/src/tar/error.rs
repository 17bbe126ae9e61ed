//! What can be wrong with a tar stream.

use std::io;

use base_errors::{Class, Coded};

/// A tar stream that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// A field or a record is not what the format says.
    #[error("archive/tar: invalid tar header: {reason}")]
    Header {
        /// What is wrong.
        reason: &'static str,
    },
    /// A name, a PAX header or a sparse map beyond the bounds.
    #[error("archive/tar: header field too long")]
    TooLong,
    /// The stream ends within an entry.
    #[error("unexpected EOF")]
    Truncated,
    /// The bytes below cannot be had: an input error, or compressed data that is damaged.
    #[error("read archive: {0}")]
    Read(#[source] io::Error),
}

impl TarError {
    pub(crate) const fn header(reason: &'static str) -> Self {
        TarError::Header { reason }
    }
}

impl From<io::Error> for TarError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => TarError::Truncated,
            _ => TarError::Read(error),
        }
    }
}

impl Coded for TarError {
    fn class(&self) -> Class {
        match self {
            TarError::Header { .. } | TarError::TooLong => Class::InvalidArgument,
            TarError::Truncated => Class::DataLoss,
            TarError::Read(error) => match error.kind() {
                // What the decoders give for damaged data.
                io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::Other => {
                    Class::DataLoss
                }
                _ => error.class(),
            },
        }
    }
}
