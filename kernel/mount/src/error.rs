//! What can go wrong with a mount.

use std::fmt;
use std::path::{Path, PathBuf};

use base_errors::{Class, Coded};
use base_fs::{errno_class, errno_text};
use rustix::io::Errno;

use crate::Mount;

/// The longest option text an error shows; overlays of many layers have kilobytes of it.
const SHOWN_OPTIONS: usize = 256;

/// A failed mount operation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused a step of a mount.
    #[error("failed to mount {mount}: {step}: {}", errno_text(*errno))]
    Mount {
        /// Kind, source, target and options, in short.
        mount: Box<Summary>,
        /// The step that failed.
        step: &'static str,
        /// What the system said.
        errno: Errno,
    },
    /// A mount that cannot be asked of any kernel.
    #[error("failed to mount {mount}: {reason}")]
    Invalid {
        /// Kind, source, target and options, in short.
        mount: Box<Summary>,
        /// What is wrong with it.
        reason: String,
    },
    /// A mount helper program failed.
    #[error("failed to mount {mount}: {program}: {reason}")]
    Helper {
        /// Kind, source, target and options, in short.
        mount: Box<Summary>,
        /// The program.
        program: &'static str,
        /// Its output, or why it did not run.
        reason: String,
    },
    /// The system refused an unmount.
    #[error("failed to unmount {}: {}", target.display(), errno_text(*errno))]
    Unmount {
        /// Where.
        target: PathBuf,
        /// What the system said.
        errno: Errno,
    },
    /// The kernel's mount table cannot be read.
    #[error("failed to read {}: {}", path.display(), errno_text(*errno))]
    MountInfo {
        /// The table.
        path: PathBuf,
        /// What the system said.
        errno: Errno,
    },
    /// What a mount stands on cannot be made.
    #[error("activate mounts for {}: {}", path.display(), error.message())]
    Activate {
        /// Where the mount was meant to be seen.
        path: PathBuf,
        /// What failed.
        error: Box<base_errors::Error>,
    },
    /// A folder for a temporary mount cannot be made or removed.
    #[error("{operation} {}: {}", path.display(), errno_text(*errno))]
    Temp {
        /// `mkdir`, `rmdir` or `open`.
        operation: &'static str,
        /// The folder.
        path: PathBuf,
        /// What the system said.
        errno: Errno,
    },
}

impl Error {
    /// The system's error number, where it was the system that refused.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Error::Mount { errno, .. }
            | Error::Unmount { errno, .. }
            | Error::MountInfo { errno, .. }
            | Error::Temp { errno, .. } => Some(*errno),
            Error::Invalid { .. } | Error::Helper { .. } | Error::Activate { .. } => None,
        }
    }
}

impl Coded for Error {
    fn class(&self) -> Class {
        match self {
            Error::Mount { errno, .. }
            | Error::Unmount { errno, .. }
            | Error::MountInfo { errno, .. }
            | Error::Temp { errno, .. } => errno_class(*errno),
            Error::Invalid { .. } => Class::InvalidArgument,
            Error::Helper { .. } => Class::Unknown,
            Error::Activate { error, .. } => error.class(),
        }
    }
}

/// A mount as an error shows it.
#[derive(Debug)]
pub struct Summary {
    kind: String,
    source: String,
    target: PathBuf,
    options: String,
}

impl Summary {
    pub(crate) fn new(mount: &Mount, target: &Path) -> Box<Self> {
        let mut options = mount.options.join(",");
        if options.len() > SHOWN_OPTIONS {
            let mut end = SHOWN_OPTIONS;
            while !options.is_char_boundary(end) {
                end -= 1;
            }
            options.truncate(end);
            options.push_str("...");
        }
        let target = if mount.target.is_empty() {
            target.to_owned()
        } else {
            target.join(mount.target.trim_start_matches('/'))
        };
        Box::new(Summary {
            kind: mount.kind.clone(),
            source: mount.source.clone(),
            target,
            options,
        })
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary { kind, source, target, options } = self;
        write!(f, "type {kind:?}, source {source:?}, target {target:?}, options [{options}]")
    }
}

/// Why one step of a mount failed, before the mount is named.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The system refused `step`.
    System { step: &'static str, errno: Errno },
    /// The request makes no sense.
    Invalid(String),
    /// A helper program failed.
    Helper { program: &'static str, reason: String },
}

impl Failure {
    /// For `map_err`: the system refused `step`.
    pub(crate) fn at(step: &'static str) -> impl Fn(Errno) -> Failure {
        move |errno| Failure::System { step, errno }
    }

    /// Names the mount.
    pub(crate) fn of(self, mount: &Mount, target: &Path) -> Error {
        let mount = Summary::new(mount, target);
        match self {
            Failure::System { step, errno } => Error::Mount { mount, step, errno },
            Failure::Invalid(reason) => Error::Invalid { mount, reason },
            Failure::Helper { program, reason } => Error::Helper { mount, program, reason },
        }
    }
}
