//! What can go wrong with a process.

use std::path::{Path, PathBuf};

use base_errors::{Class, Coded};
use base_fs::{errno_class, errno_text};
use rustix::io::Errno;

/// A failed operation on a process.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such process (any more).
    #[error("process {pid} does not exist")]
    NotFound {
        /// The process id.
        pid: i32,
    },
    /// The process is not a child of this one, so that its exit status is not for us.
    #[error("process {pid} is not a child")]
    NotChild {
        /// The process id.
        pid: i32,
    },
    /// The system refused.
    #[error("{operation} {pid}: {}", errno_text(*errno))]
    System {
        /// The system call.
        operation: &'static str,
        /// The process id; 0 for this process.
        pid: i32,
        /// What the system said.
        errno: Errno,
    },
    /// A file of `/proc` cannot be read or written.
    #[error("{}: {}", path.display(), errno_text(*errno))]
    Proc {
        /// The file.
        path: PathBuf,
        /// What the system said.
        errno: Errno,
    },
    /// A file of `/proc` does not look as documented.
    #[error("{}: cannot make sense of it", path.display())]
    Format {
        /// The file.
        path: PathBuf,
    },
    /// A signal of that name or number does not exist.
    #[error("unknown signal {text:?}")]
    UnknownSignal {
        /// The text.
        text: String,
    },
}

impl Coded for Error {
    fn class(&self) -> Class {
        match self {
            Error::NotFound { .. } => Class::NotFound,
            Error::NotChild { .. } => Class::FailedPrecondition,
            Error::System { errno, .. } | Error::Proc { errno, .. } => errno_class(*errno),
            Error::Format { .. } => Class::Internal,
            Error::UnknownSignal { .. } => Class::InvalidArgument,
        }
    }
}

impl Error {
    pub(crate) fn system(operation: &'static str, pid: i32) -> impl Fn(Errno) -> Error {
        move |errno| match errno {
            Errno::SRCH => Error::NotFound { pid },
            errno => Error::System { operation, pid, errno },
        }
    }

    pub(crate) fn proc(path: &Path, error: &std::io::Error) -> Error {
        let errno = Errno::from_io_error(error).unwrap_or(Errno::IO);
        Error::Proc { path: path.to_owned(), errno }
    }
}
