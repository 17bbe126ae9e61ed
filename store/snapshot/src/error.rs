//! What can be wrong with a snapshot, in containerd's words.

use base_errors::{Class, Coded};

/// A refused snapshot operation.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The tree records have no such snapshot.
    #[error("snapshot {0} does not exist")]
    NotFound(String),
    /// The parent is not there.
    #[error("missing parent {0:?} bucket")]
    ParentNotFound(String),
    /// The key or name is taken.
    #[error("snapshot {0}")]
    Exists(String),
    /// The name of a commit is taken.
    #[error("committed snapshot {0}")]
    NameExists(String),
    /// The parent can still change.
    #[error("failed to create snapshot: parent {0:?} is not committed snapshot")]
    ParentNotCommitted(String),
    /// Mounts of a snapshot that has none of its own.
    #[error("requested snapshot {0} not active or view")]
    NotMountable(String),
    /// The active snapshot of a commit is not there.
    #[error("failed to get active snapshot {0:?}")]
    ActiveNotFound(String),
    /// Only active snapshots are committed.
    #[error("snapshot {0:?} is not active")]
    NotActive(String),
    /// A snapshot changed while it was worked on.
    #[error("snapshot {0:?} was replaced meanwhile")]
    Replaced(String),
    /// A commit onto another parent than the snapshot has.
    #[error("snapshot {key:?} has parent {has:?}, cannot commit onto {wanted:?}")]
    Rebase {
        /// The active snapshot.
        key: String,
        /// Its parent.
        has: String,
        /// The parent that was asked for.
        wanted: String,
    },
    /// This snapshotter cannot change the parent at commit.
    #[error("snapshotter cannot commit {0:?} onto another parent")]
    RebaseUnsupported(String),
    /// Others stand on the snapshot.
    #[error("cannot remove snapshot with child")]
    HasChildren,
    /// A key or name is needed.
    #[error("snapshot key must not be empty")]
    KeyEmpty,
    /// The database says what cannot be.
    #[error("snapshot record {key:?}: {reason}")]
    Damaged {
        /// The record.
        key: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The chain of parents does not end.
    #[error("snapshot {0:?} has more parents than any image has layers")]
    ChainTooLong(String),
    /// Labels with id maps that cannot be read.
    #[error("failed to unmarshal snapshot ID mapped labels: {0:?}")]
    IdMap(String),
    /// Id maps without root.
    #[error("failed to find root pair in {0:?}")]
    IdMapRoot(String),
    /// The host or the folder cannot carry the snapshotter.
    #[error("{snapshotter} is not supported on {path}: {reason}")]
    Unsupported {
        /// The snapshotter.
        snapshotter: &'static str,
        /// Its folder.
        path: String,
        /// What failed.
        reason: String,
    },
    /// Another commit of the snapshot is on its way.
    #[error("snapshot {0:?} is being committed")]
    Busy(String),
    /// The plugin's configuration makes no sense.
    #[error("{0}")]
    Config(String),
    /// The plugin cannot work here, and that is fine: containerd's words for it.
    #[error("{0}")]
    Skip(String),
    /// A program failed.
    #[error("{program}: {reason}")]
    Program {
        /// Its name.
        program: String,
        /// Its output, or why it did not run.
        reason: String,
    },
    /// A backend that does not keep its contract.
    #[error("unexpected error from snapshotter: {0}")]
    Backend(String),
    /// A remote snapshotter said that the target exists, but does not have it.
    #[error("target snapshot {0:?} in backend")]
    TargetNotFound(String),
    /// The blocking half of an operation was lost.
    #[error("snapshotter: {0}")]
    Lost(String),
}

impl Coded for SnapshotError {
    fn class(&self) -> Class {
        match self {
            SnapshotError::NotFound(_)
            | SnapshotError::ParentNotFound(_)
            | SnapshotError::ActiveNotFound(_)
            | SnapshotError::TargetNotFound(_) => Class::NotFound,
            SnapshotError::Exists(_) | SnapshotError::NameExists(_) => Class::AlreadyExists,
            SnapshotError::ParentNotCommitted(_)
            | SnapshotError::Rebase { .. }
            | SnapshotError::KeyEmpty
            | SnapshotError::Config(_)
            | SnapshotError::IdMap(_)
            | SnapshotError::IdMapRoot(_) => Class::InvalidArgument,
            SnapshotError::NotMountable(_)
            | SnapshotError::NotActive(_)
            | SnapshotError::HasChildren
            | SnapshotError::Replaced(_) => Class::FailedPrecondition,
            SnapshotError::RebaseUnsupported(_)
            | SnapshotError::Unsupported { .. }
            | SnapshotError::Skip(_) => Class::NotImplemented,
            SnapshotError::Busy(_) => Class::Unavailable,
            SnapshotError::Damaged { .. } | SnapshotError::ChainTooLong(_) => Class::DataLoss,
            SnapshotError::Backend(_) | SnapshotError::Program { .. } => Class::Unknown,
            SnapshotError::Lost(_) => Class::Internal,
        }
    }
}

impl From<tokio::task::JoinError> for SnapshotError {
    fn from(error: tokio::task::JoinError) -> Self {
        SnapshotError::Lost(error.to_string())
    }
}

/// Runs file work on a thread for it.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> base_errors::Result<T> + Send + 'static,
) -> base_errors::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(SnapshotError::from)?
}

/// What a failpoint says at `path`.
pub(crate) fn failed(path: &std::path::Path) -> impl Fn(rustix::io::Errno) -> base_fs::Error {
    move |errno| base_fs::Error::new("write", path, errno)
}

/// An `io::Error` with the operation and the path that it belongs to.
pub(crate) fn io_error(
    operation: &'static str,
    path: &std::path::Path,
    error: &std::io::Error,
) -> base_fs::Error {
    let errno = rustix::io::Errno::from_io_error(error).unwrap_or(rustix::io::Errno::IO);
    base_fs::Error::new(operation, path, errno)
}
