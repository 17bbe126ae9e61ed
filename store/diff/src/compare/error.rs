//! What can go wrong while two trees are compared.

use base_errors::{Class, Coded};
use base_fs::{errno_class, errno_text};
use rustix::io::Errno;

/// Trees that could not be compared.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// The system refused a step.
    #[error("{operation} {path:?}: {}", errno_text(*errno))]
    Path {
        /// The step, as its system call is named.
        operation: &'static str,
        /// The path below the tree's root.
        path: String,
        /// What the system said.
        errno: Errno,
    },
    /// A file that was longer a moment ago.
    #[error("{path:?} became shorter while it was read")]
    Short {
        /// The path below the tree's root.
        path: String,
    },
    /// Folders within folders, beyond the bound.
    #[error("{path:?}: too many levels of folders")]
    Levels {
        /// Where it was given up.
        path: String,
    },
    /// The output does not take more.
    #[error("write layer: {0}")]
    Write(#[source] std::io::Error),
}

impl CompareError {
    /// For `map_err`: the system refused `operation` on `path`.
    pub(crate) fn at<'a>(
        operation: &'static str,
        path: &'a [u8],
    ) -> impl Fn(Errno) -> CompareError + 'a {
        move |errno| CompareError::Path { operation, path: shown(path), errno }
    }
}

pub(crate) fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

impl Coded for CompareError {
    fn class(&self) -> Class {
        match self {
            CompareError::Path { errno, .. } => errno_class(*errno),
            CompareError::Short { .. } => Class::FailedPrecondition,
            CompareError::Levels { .. } => Class::ResourceExhausted,
            CompareError::Write(error) => error.class(),
        }
    }
}
