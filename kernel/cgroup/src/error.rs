//! What can go wrong with a control group.

use std::path::{Path, PathBuf};

use base_errors::{Class, Coded};
use base_fs::{errno_class, errno_text};
use rustix::io::Errno;

/// A failed operation on a control group.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The group does not exist (any more).
    #[error("cgroup {}", path.display())]
    NotFound {
        /// The group's folder, or the process's file.
        path: PathBuf,
    },
    /// A group name that leads out of the hierarchy, or is none.
    #[error("cgroup path {path:?}: {reason}")]
    InvalidPath {
        /// The name.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The system refused an operation.
    #[error("{operation} {}: {}", path.display(), errno_text(*errno))]
    System {
        /// The operation.
        operation: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        errno: Errno,
    },
    /// This machine has no control groups mounted where they could be used.
    #[error("control groups are not mounted: {reason}")]
    Unavailable {
        /// What is missing.
        reason: String,
    },
}

impl Coded for Error {
    fn class(&self) -> Class {
        match self {
            Error::NotFound { .. } => Class::NotFound,
            Error::InvalidPath { .. } => Class::InvalidArgument,
            Error::System { errno, .. } => errno_class(*errno),
            Error::Unavailable { .. } => Class::FailedPrecondition,
        }
    }
}

impl Error {
    /// A refused operation; a group that is gone is told as such.
    pub(crate) fn new(operation: &'static str, path: impl AsRef<Path>, errno: Errno) -> Self {
        let path = path.as_ref().to_owned();
        match errno {
            // ENODEV is what an open file of a removed group says.
            Errno::NOENT | Errno::NODEV => Error::NotFound { path },
            errno => Error::System { operation, path, errno },
        }
    }

    pub(crate) fn io(operation: &'static str, path: &Path, error: &std::io::Error) -> Self {
        Self::new(operation, path, Errno::from_io_error(error).unwrap_or(Errno::IO))
    }
}
