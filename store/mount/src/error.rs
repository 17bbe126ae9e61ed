//! What can be wrong with an activation, in containerd's words.

use base_errors::{Class, Coded};

/// A refused operation of the mount manager.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// Nothing is active under the name.
    #[error("mount {0:?}")]
    NotFound(String),
    /// The name is taken.
    #[error("mount {0:?}")]
    Exists(String),
    /// An activation needs a name.
    #[error("mount name must not be empty")]
    NameEmpty,
    /// The list has nothing that needs the mount manager: the caller mounts it.
    #[error("")]
    NothingToDo,
    /// The list is longer than the format of the records allows.
    #[error("too many mounts ({0}): maximum 255")]
    TooMany(usize),
    /// The record went away while its mounts were made.
    #[error("mount {0:?} was deactivated meanwhile")]
    Gone(String),
    /// The database says what cannot be.
    #[error("record of mount {name:?}: {reason}")]
    Damaged {
        /// The record.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The blocking half of an operation was lost.
    #[error("mount manager: {0}")]
    Lost(String),
}

impl Coded for MountError {
    fn class(&self) -> Class {
        match self {
            MountError::NotFound(_) => Class::NotFound,
            MountError::Exists(_) => Class::AlreadyExists,
            MountError::NameEmpty | MountError::TooMany(_) => Class::InvalidArgument,
            MountError::NothingToDo => Class::NotImplemented,
            MountError::Gone(_) => Class::FailedPrecondition,
            MountError::Damaged { .. } => Class::DataLoss,
            MountError::Lost(_) => Class::Internal,
        }
    }
}

impl From<tokio::task::JoinError> for MountError {
    fn from(error: tokio::task::JoinError) -> Self {
        MountError::Lost(error.to_string())
    }
}
