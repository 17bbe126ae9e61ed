//! Why a spec cannot be built.

use std::path::PathBuf;

use base_errors::{Class, Coded};

/// A failed build.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// Neither image nor caller name a program.
    #[error("no arguments specified")]
    NoArguments,
    /// The configuration of an image is not JSON of that kind.
    #[error("image config: {0}")]
    ImageConfig(#[source] serde_json::Error),
    /// A user that is neither a number nor in `/etc/passwd`.
    #[error("user {0:?}: no users found")]
    UserNotFound(String),
    /// A group that is neither a number nor in `/etc/group`.
    #[error("group {0:?}: no groups found")]
    GroupNotFound(String),
    /// More than `user:group`.
    #[error("invalid USER value {0}")]
    UserFormat(String),
    /// A name needs the container's files, and there are none.
    #[error("user {0:?} needs a root file system to be looked up")]
    NoRootfs(String),
    /// A file in the root file system.
    #[error("{0}")]
    Rootfs(#[source] base_fs::Error),
    /// A device of the host.
    #[error("device {}: {source}", path.display())]
    Device {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A path that should be a device.
    #[error("device {}: not a device node", .0.display())]
    NotADevice(PathBuf),
    /// A namespace kind that the OCI spec does not know.
    #[error("unknown namespace type {0:?}")]
    Namespace(String),
}

impl Coded for SpecError {
    fn class(&self) -> Class {
        match self {
            SpecError::NoArguments
            | SpecError::ImageConfig(_)
            | SpecError::UserFormat(_)
            | SpecError::NoRootfs(_)
            | SpecError::NotADevice(_)
            | SpecError::Namespace(_) => Class::InvalidArgument,
            SpecError::UserNotFound(_) | SpecError::GroupNotFound(_) => Class::NotFound,
            SpecError::Rootfs(error) => error.class(),
            SpecError::Device { source, .. } => source.class(),
        }
    }
}
