//! What can go wrong in a database file.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base_errors::{Class, Coded};

/// A failure of the engine. Cheap to clone, because one failed commit fails many callers.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// A page does not hold what the format promises.
    #[error("database {}: page {page}: {reason}", path.display())]
    Corrupt {
        /// The database file.
        path: Arc<Path>,
        /// The page at fault.
        page: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// The file holds no database that can be opened.
    #[error("database {}: {reason}", path.display())]
    Invalid {
        /// The database file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The system refused a file operation.
    #[error("{action} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The database file.
        path: PathBuf,
        /// The system's answer.
        source: Arc<io::Error>,
    },
    /// Another process holds the lock, and the time to wait for it ran out.
    #[error("database {}: locked by another process", path.display())]
    Locked {
        /// The database file.
        path: PathBuf,
    },
    /// The database was opened for reading only.
    #[error("database {}: opened read-only", path.display())]
    ReadOnly {
        /// The database file.
        path: PathBuf,
    },
    /// A key or a bucket's name is empty.
    #[error("key required")]
    KeyRequired,
    /// A key is longer than the format allows.
    #[error("key of {len} bytes is too large")]
    KeyTooLarge {
        /// Its length in bytes.
        len: usize,
    },
    /// A value is longer than the format allows.
    #[error("value of {len} bytes is too large")]
    ValueTooLarge {
        /// Its length in bytes.
        len: usize,
    },
    /// A bucket stands where a value was meant, or the other way round.
    #[error("key {key:?}: incompatible value")]
    IncompatibleValue {
        /// The key, as text.
        key: String,
    },
    /// There is no such bucket.
    #[error("bucket {name:?}")]
    BucketNotFound {
        /// The bucket's name, as text.
        name: String,
    },
    /// There is such a bucket already.
    #[error("bucket {name:?}")]
    BucketExists {
        /// The bucket's name, as text.
        name: String,
    },
    /// Buckets are nested deeper than this engine follows.
    #[error("buckets nested deeper than {limit}")]
    NestedTooDeep {
        /// The most that it follows.
        limit: usize,
    },
    /// A closure of an update panicked; its changes were undone.
    #[error("update panicked: {message}")]
    Panicked {
        /// The panic's message.
        message: String,
    },
    /// An update was started inside of an update of the same database.
    #[error("update inside of an update")]
    Nested,
    /// The database was closed before the update ran.
    #[error("database closed")]
    Closed,
}

impl Error {
    /// An [`Error::Io`] of `action` on `path`.
    pub(crate) fn io(action: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Error::Io { action, path: path.to_path_buf(), source: Arc::new(source.into()) }
    }
}

/// A key as text for messages.
pub(crate) fn text(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}

impl Coded for Error {
    fn class(&self) -> Class {
        match self {
            Error::Corrupt { .. } | Error::Invalid { .. } => Class::DataLoss,
            Error::Io { source, .. } => source.class(),
            Error::Locked { .. } | Error::Closed => Class::Unavailable,
            Error::ReadOnly { .. } => Class::FailedPrecondition,
            Error::KeyRequired
            | Error::KeyTooLarge { .. }
            | Error::ValueTooLarge { .. }
            | Error::IncompatibleValue { .. }
            | Error::NestedTooDeep { .. } => Class::InvalidArgument,
            Error::BucketNotFound { .. } => Class::NotFound,
            Error::BucketExists { .. } => Class::AlreadyExists,
            Error::Panicked { .. } | Error::Nested => Class::Internal,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Error::Corrupt { .. } | Error::Invalid { .. } => Some(
                "keep a copy of the file; whatever is readable in it can be salvaged into a new one"
                    .to_owned(),
            ),
            Error::Locked { .. } => {
                Some("another daemon may be running on the same root folder".to_owned())
            }
            _ => None,
        }
    }
}
