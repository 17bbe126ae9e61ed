//! What can go wrong while a layer is applied.

use std::fmt;

use base_errors::{Class, Coded};
use base_fs::{errno_class, errno_text};
use rustix::io::Errno;

use crate::tar::TarError;

/// A layer that could not be applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The stream is not a readable layer.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// The system refused a step for one entry.
    #[error("{operation} {path}: {}", errno_text(*errno))]
    Entry {
        /// The step, as its system call is named.
        operation: &'static str,
        /// The entry, as a path from the tree's root.
        path: Shown,
        /// What the system said.
        errno: Errno,
    },
    /// An entry of a type that no layer may have.
    #[error("unhandled tar header type {flag} of {path}")]
    Type {
        /// The type flag.
        flag: u8,
        /// The entry.
        path: Shown,
    },
    /// A whiteout of nothing, or of more than one name.
    #[error("invalid whiteout name: {name}: invalid archive")]
    Whiteout {
        /// The name.
        name: Shown,
    },
    /// The layer builds on folders or files of its parent, which is not there yet.
    #[error("{path} is of a parent that is not there yet")]
    NeedsParent {
        /// What it needs.
        path: Shown,
    },
    /// More than the layer can be followed for: links that lead in circles, folders too deep.
    #[error("{path}: too many levels")]
    Levels {
        /// Where it was given up.
        path: Shown,
    },
    /// The one who asked does not want it any more.
    #[error("the layer was not applied")]
    Cancelled,
    /// The machine has no thread left.
    #[error("start a thread: {0}")]
    Thread(#[source] std::io::Error),
}

impl ApplyError {
    /// For `map_err`: the system refused `operation` on `path`.
    pub(crate) fn at<'a>(
        operation: &'static str,
        path: &'a [u8],
    ) -> impl Fn(Errno) -> ApplyError + 'a {
        move |errno| ApplyError::Entry { operation, path: Shown::new(path), errno }
    }
}

impl Coded for ApplyError {
    fn class(&self) -> Class {
        match self {
            ApplyError::Tar(error) => error.class(),
            ApplyError::Entry { errno, .. } => match *errno {
                // What a layer asks for and no tree can give.
                Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG | Errno::ISDIR => {
                    Class::InvalidArgument
                }
                errno => errno_class(errno),
            },
            ApplyError::Type { .. } | ApplyError::Whiteout { .. } | ApplyError::Levels { .. } => {
                Class::InvalidArgument
            }
            ApplyError::NeedsParent { .. } => Class::FailedPrecondition,
            ApplyError::Cancelled => Class::Cancelled,
            ApplyError::Thread(_) => Class::ResourceExhausted,
        }
    }
}

/// The most bytes of a path that an error shows.
const MAX_SHOWN: usize = 300;

/// A path of an archive, for people: quoted, without control characters, cut if it is very long.
#[derive(Debug, PartialEq, Eq)]
pub struct Shown(String);

impl Shown {
    pub(crate) fn new(path: &[u8]) -> Self {
        let end = path.len().min(MAX_SHOWN);
        let mut text = format!("{:?}", String::from_utf8_lossy(&path[..end]));
        if end < path.len() {
            text.push_str("...");
        }
        Shown(text)
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
