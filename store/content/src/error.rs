//! What can be wrong with content, in containerd's words.

use std::path::Path;
use std::time::SystemTime;

use base_errors::{Class, Coded};
use base_ident::Digest;
use rustix::io::Errno;

/// A refused content operation.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// The store has no such blob.
    #[error("content {0}")]
    NotFound(Digest),
    /// The namespace has no such blob.
    #[error("content digest {0}")]
    NotInNamespace(Digest),
    /// The blob is there already.
    #[error("content {0}")]
    Exists(Digest),
    /// The store has no such ingest.
    #[error("ingest ref {0:?}")]
    IngestNotFound(String),
    /// The namespace has no such ingest.
    #[error("reference {0}")]
    ReferenceNotFound(String),
    /// A writer was asked for without a name for its ingest.
    #[error("ref must not be empty")]
    ReferenceEmpty,
    /// Another writer holds the ingest.
    #[error("ref {reference} locked for {held} (since {since})")]
    Locked {
        /// The reference.
        reference: String,
        /// How long it has been held.
        held: String,
        /// Since when.
        since: String,
    },
    /// The writer was committed before, or its commit failed.
    #[error("cannot {0} on closed writer")]
    Closed(&'static str),
    /// The ingest was aborted while it was being written.
    #[error("ingest ref {0:?} was aborted")]
    Aborted(String),
    /// Fewer or more bytes came than were promised.
    #[error("unexpected commit size {actual}, expected {expected}")]
    Size {
        /// Bytes received.
        actual: u64,
        /// Bytes promised.
        expected: u64,
    },
    /// As [`ContentError::Size`], found before the backend was asked.
    #[error("{reference:?} failed size validation: {actual} != {expected}")]
    SizeValidation {
        /// The client's reference.
        reference: String,
        /// Bytes received.
        actual: u64,
        /// Bytes promised.
        expected: u64,
    },
    /// Other bytes came than were promised.
    #[error("unexpected commit digest {actual}, expected {expected}")]
    Digest {
        /// The digest of what came.
        actual: Digest,
        /// The digest promised.
        expected: Digest,
    },
    /// As [`ContentError::Digest`], for a writer that never saw the bytes.
    #[error("{0:?} unexpected digest")]
    UnexpectedDigest(String),
    /// Only cutting to nothing is supported.
    #[error("truncate: unsupported size {0}")]
    Truncate(u64),
    /// Labels of a store that keeps none.
    #[error("update not supported on immutable content store")]
    Immutable,
    /// The blocking half of an operation was lost.
    #[error("content store: {0}")]
    Lost(String),
}

impl Coded for ContentError {
    fn class(&self) -> Class {
        match self {
            ContentError::NotFound(_)
            | ContentError::NotInNamespace(_)
            | ContentError::IngestNotFound(_)
            | ContentError::ReferenceNotFound(_)
            | ContentError::Aborted(_) => Class::NotFound,
            ContentError::Exists(_) => Class::AlreadyExists,
            ContentError::ReferenceEmpty | ContentError::Truncate(_) => Class::InvalidArgument,
            ContentError::Locked { .. } => Class::Unavailable,
            ContentError::Closed(_)
            | ContentError::Size { .. }
            | ContentError::SizeValidation { .. }
            | ContentError::Digest { .. }
            | ContentError::UnexpectedDigest(_)
            | ContentError::Immutable => Class::FailedPrecondition,
            ContentError::Lost(_) => Class::Internal,
        }
    }
}

impl ContentError {
    /// The error of a reference that is held since `since`.
    pub(crate) fn locked(reference: &str, since: SystemTime) -> Self {
        let held = since.elapsed().unwrap_or_default();
        ContentError::Locked {
            reference: reference.to_owned(),
            held: format!("{held:?}"),
            since: base_ident::timestamp::format(since),
        }
    }
}

/// An `io::Error` with the operation and the path that it belongs to.
pub(crate) fn io_error(
    operation: &'static str,
    path: &Path,
    error: &std::io::Error,
) -> base_fs::Error {
    base_fs::Error::new(operation, path, Errno::from_io_error(error).unwrap_or(Errno::IO))
}
