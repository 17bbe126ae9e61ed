//! What can go wrong on the daemon's side; errors of shims pass through as they are.

use std::path::PathBuf;
use std::time::Duration;

use base_errors::{Class, Coded};
use base_ident::IdentError;

/// Errors about tasks as such. Texts are containerd's, because clients match on them.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// There is no such task.
    #[error("task {0} not found")]
    NotFound(String),
    /// There is such a task, or it is being created.
    #[error("task {0}")]
    Exists(String),
    /// The id of the task breaks the identifier rule.
    #[error("invalid task id {id}: {source}")]
    Id {
        /// The id.
        id: String,
        /// What is wrong with it.
        source: IdentError,
    },
    /// Exec without an id.
    #[error("exec id cannot be empty")]
    ExecIdEmpty,
    /// The id of an exec breaks the identifier rule.
    #[error("invalid exec id {id}: {source}")]
    ExecId {
        /// The id.
        id: String,
        /// What is wrong with it.
        source: IdentError,
    },
    /// The shim of this task is still being reconnected.
    #[error("task {0} is being reconnected")]
    Reconnecting(String),
    /// The shim of this task did not answer before, and has not since.
    #[error("the shim of task {0} does not answer")]
    Silent(String),
    /// The caller went away while its task was created.
    #[error("create of task {0}")]
    Cancelled(String),
    /// Too many creates wait.
    #[error("{0} tasks are waiting to be created")]
    QueueFull(usize),
    /// The background work that a caller waited for has ended without an answer.
    #[error("{0} was interrupted")]
    Interrupted(&'static str),
    /// The sandbox that a container shall join has no shim.
    #[error("can't find sandbox {0}")]
    Sandbox(String),
    /// The filters of a metrics request do not parse.
    #[error("{0}")]
    Filter(IdentError),
}

impl Coded for TaskError {
    fn class(&self) -> Class {
        match self {
            TaskError::NotFound(_) | TaskError::Sandbox(_) => Class::NotFound,
            TaskError::Exists(_) => Class::AlreadyExists,
            TaskError::Id { .. }
            | TaskError::ExecIdEmpty
            | TaskError::ExecId { .. }
            | TaskError::Filter(_) => Class::InvalidArgument,
            TaskError::Reconnecting(_) => Class::Unavailable,
            TaskError::Silent(_) => Class::DeadlineExceeded,
            TaskError::Cancelled(_) => Class::Cancelled,
            TaskError::QueueFull(_) => Class::ResourceExhausted,
            TaskError::Interrupted(_) => Class::Internal,
        }
    }
}

/// Errors about the folder of a task.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// A file operation.
    #[error("{operation} {path}: {source}", path = path.display())]
    Path {
        /// What was tried.
        operation: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The root folder of the container is not empty, though nothing is mounted on it any more.
    #[error("failed to remove bundle rootfs: {} is not empty", path.display())]
    RootfsNotEmpty {
        /// The folder.
        path: PathBuf,
    },
    /// The spec is not a spec.
    #[error("unmarshal OCI spec: {0}")]
    Spec(#[source] serde_json::Error),
}

impl BundleError {
    /// A failed file operation.
    pub(crate) fn path(
        operation: &'static str,
        path: impl Into<PathBuf>,
        source: impl Into<std::io::Error>,
    ) -> Self {
        BundleError::Path { operation, path: path.into(), source: source.into() }
    }
}

impl Coded for BundleError {
    fn class(&self) -> Class {
        match self {
            BundleError::Path { source, .. } => match source.kind() {
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                    Class::ResourceExhausted
                }
                // Missing or doubled files of ours say nothing about the client's objects.
                _ => Class::Unknown,
            },
            BundleError::RootfsNotEmpty { .. } => Class::FailedPrecondition,
            BundleError::Spec(_) => Class::InvalidArgument,
        }
    }
}

/// Errors about shim programs and connections to shims.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    /// No runtime was named.
    #[error("failed to resolve runtime path: no runtime name")]
    RuntimeMissing,
    /// The name is neither dotted nor an absolute path.
    #[error(
        "failed to resolve runtime path: invalid runtime name {0}, correct runtime name should be \
         either format like `io.containerd.runc.v2` or a full path to the binary"
    )]
    RuntimeName(String),
    /// The path leads nowhere.
    #[error(
        "failed to resolve runtime path: invalid custom binary path: stat {}: {source}",
        path.display()
    )]
    RuntimePath {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The program is neither in the search path nor beside the daemon.
    #[error(
        "failed to resolve runtime path: runtime {runtime:?} binary not installed {binary:?}: \
         file does not exist"
    )]
    NotInstalled {
        /// Name of the runtime.
        runtime: String,
        /// Name of the program.
        binary: String,
    },
    /// The program could not be run at all.
    #[error("{command} {}: {source}", program.display())]
    Spawn {
        /// `start` or `delete`.
        command: &'static str,
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The program ran and failed.
    #[error("{output}: {status}")]
    Failed {
        /// What it wrote.
        output: String,
        /// How it ended: `exit status 1`.
        status: String,
    },
    /// The program did not end in time.
    #[error("{command} of {} took longer than {limit:?}", program.display())]
    Timeout {
        /// `start` or `delete`.
        command: &'static str,
        /// The program.
        program: PathBuf,
        /// The limit.
        limit: Duration,
    },
    /// What the program wrote is no answer.
    #[error("{command}: unreadable answer: {reason}")]
    Answer {
        /// `start` or `delete`.
        command: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A version or protocol that is not known here.
    #[error("unsupported shim {what} {value:?}")]
    Unsupported {
        /// `version`, `protocol` or `address`.
        what: &'static str,
        /// Its value.
        value: String,
    },
    /// No connection.
    #[error("connect to shim at {address:?}: {source}")]
    Connect {
        /// Where.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
}

impl Coded for ShimError {
    fn class(&self) -> Class {
        match self {
            ShimError::RuntimeName(_) | ShimError::RuntimeMissing => Class::InvalidArgument,
            ShimError::RuntimePath { .. }
            | ShimError::NotInstalled { .. }
            | ShimError::Spawn { .. }
            | ShimError::Failed { .. }
            | ShimError::Answer { .. } => Class::Unknown,
            ShimError::Timeout { .. } => Class::DeadlineExceeded,
            ShimError::Unsupported { .. } => Class::NotImplemented,
            ShimError::Connect { .. } => Class::Unavailable,
        }
    }
}
