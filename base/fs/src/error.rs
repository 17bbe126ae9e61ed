//! The one error of this crate: which operation failed on which path, and why.

use std::io;
use std::path::{Path, PathBuf};

use base_errors::{Class, Coded};
use rustix::io::Errno;

/// A failed file operation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused an operation on one path.
    #[error("{operation} {}: {}", path.display(), errno_text(*errno))]
    Path {
        /// The operation, as its system call is named: `open`, `mkdir`.
        operation: &'static str,
        /// The path, as far as it is known; below a root, the path within the root.
        path: PathBuf,
        /// What the system said.
        errno: Errno,
    },
    /// The system refused an operation on two paths.
    #[error("{operation} {} {}: {}", from.display(), to.display(), errno_text(*errno))]
    Paths {
        /// The operation: `rename`, `copy`, `link`.
        operation: &'static str,
        /// Where it was.
        from: PathBuf,
        /// Where it should have gone.
        to: PathBuf,
        /// What the system said.
        errno: Errno,
    },
    /// A path that names nothing usable: empty, with a NUL byte, or with no last name.
    #[error("{}: {reason}", path.display())]
    Name {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
}

impl Error {
    /// A failed operation on one path.
    pub fn new(operation: &'static str, path: impl AsRef<Path>, errno: Errno) -> Self {
        Error::Path { operation, path: path.as_ref().to_owned(), errno }
    }

    /// The system's error number, where it was the system that refused.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Error::Path { errno, .. } | Error::Paths { errno, .. } => Some(*errno),
            Error::Name { .. } => None,
        }
    }

    /// True if the path does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.errno() == Some(Errno::NOENT)
    }

    /// Makes `io::Error`s of the standard library name their path.
    #[must_use]
    pub fn io(operation: &'static str, path: &Path, error: &io::Error) -> Self {
        Error::new(operation, path, Errno::from_io_error(error).unwrap_or(Errno::IO))
    }
}

impl Coded for Error {
    fn class(&self) -> Class {
        match self {
            Error::Path { errno, .. } | Error::Paths { errno, .. } => errno_class(*errno),
            Error::Name { .. } => Class::InvalidArgument,
        }
    }
}

/// The class of an error number. A full disk or quota is [`Class::ResourceExhausted`].
#[must_use]
pub fn errno_class(errno: Errno) -> Class {
    match errno {
        Errno::NOSPC | Errno::DQUOT | Errno::NOMEM | Errno::MFILE | Errno::NFILE => {
            Class::ResourceExhausted
        }
        other => io::Error::from(other).class(),
    }
}

/// The system's text of an error number in lower case, without the number:
/// `no such file or directory`.
#[must_use]
pub fn errno_text(errno: Errno) -> String {
    base_errors::errno_text(errno.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_lower_case_and_without_numbers() {
        assert_eq!(errno_text(Errno::NOENT), "no such file or directory");
        assert_eq!(errno_text(Errno::INVAL), "invalid argument");
        let error = Error::new("open", "/x", Errno::NOENT);
        assert_eq!(error.to_string(), "open /x: no such file or directory");
    }

    #[test]
    fn a_full_disk_is_resource_exhausted() {
        assert_eq!(Error::new("write", "/x", Errno::NOSPC).class(), Class::ResourceExhausted);
        assert_eq!(Error::new("write", "/x", Errno::DQUOT).class(), Class::ResourceExhausted);
        assert_eq!(Error::new("open", "/x", Errno::NOENT).class(), Class::NotFound);
    }
}
