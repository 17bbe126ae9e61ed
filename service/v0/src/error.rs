//! Errors in the words and with the codes of 0.2.9.

use std::io;
use std::path::PathBuf;

use base_errors::{Class, Coded};
use base_ident::IdentError;
use rustix::io::Errno;
use tonic::{Code, Status};

/// What a call can fail with.
///
/// COMPAT: 0.2 answered with Go's plain errors. Its gRPC library made codes of some errors of the
/// system, and `Unknown` of all others; clients match on texts.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// There is no such container.
    #[error("containerd: container not found")]
    ContainerNotFound,
    /// The container has no such process.
    #[error("containerd: process not found for container")]
    ProcessNotFound,
    /// A start took too long and was given up.
    #[error("containerd: container did not start before the specified timeout")]
    StartTimeout,
    /// A container whose process does not run.
    #[error("containerd: container not started")]
    NotStarted,
    /// A shim of 0.2 that ended, and did not say why.
    #[error("containerd: shim exited before container process was started")]
    ShimExited,
    /// A status other than `running` and `paused` was asked for.
    #[error("containerd: unknown container status ")]
    UnknownStatus,
    /// Checkpoints of a container that does not exist.
    #[error("no such containers")]
    NoSuchContainers,
    /// A container without a bundle.
    #[error("empty bundle path")]
    BundleEmpty,
    /// An exec without a container.
    #[error("container id cannot be empty")]
    ContainerIdEmpty,
    /// An exec without a name.
    #[error("process id cannot be empty")]
    ProcessIdEmpty,
    /// A checkpoint without a name.
    #[error("checkpoint name cannot be empty")]
    CheckpointNameEmpty,
    /// A name that has to be one entry of a folder, and is not.
    #[error("invalid {what} {name:?}: {source}")]
    Name {
        /// `container id`, `process id`.
        what: &'static str,
        /// The name.
        name: String,
        /// What is wrong with it.
        source: IdentError,
    },
    /// A file operation; also what stands for one, such as a second container of a name.
    #[error("{operation} {}: {}", path.display(), system_text(source))]
    File {
        /// `mkdir`, `open`.
        operation: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said, or would have said.
        source: io::Error,
    },
    /// The system refused a signal.
    #[error("{}", base_fs::errno_text(*.0))]
    Signal(Errno),
    /// Stored events alone, but from no time on.
    #[error("invalid parameter: StoredOnly cannot be specified without setting a valid Timestamp")]
    StoredOnly,
    /// A timestamp that is none.
    #[error("timestamp: {0}")]
    Timestamp(String),
    /// The OCI runtime failed and told why.
    #[error("oci runtime error: {0}")]
    Runtime(String),
    /// The shim failed, or the runtime is not there.
    #[error("shim error: {0}")]
    Shim(String),
    /// A command of the runtime failed on a container that runs.
    #[error("exit status 1: {0:?}")]
    Command(String),
    /// The bundle's description of the container cannot be read.
    #[error("{0}")]
    Spec(#[source] serde_json::Error),
    /// What State cannot find out.
    #[error("{0}")]
    Internal(String),
    /// Too many subscribers, containers or processes.
    #[error("too many {0}")]
    TooMany(&'static str),
    /// The daemon is stopping.
    #[error("the daemon is shutting down")]
    Stopping,
    /// Anything else, as the newer parts say it.
    #[error("{0}")]
    Other(String),
}

impl ApiError {
    /// A failed file operation.
    pub(crate) fn file(
        operation: &'static str,
        path: impl Into<PathBuf>,
        source: impl Into<io::Error>,
    ) -> Self {
        ApiError::File { operation, path: path.into(), source: source.into() }
    }

    /// What a failed start of a process says.
    pub(crate) fn of_start(error: &base_errors::Error) -> Self {
        let text = error.message();
        match runtime_message(text) {
            Some(message) => ApiError::Runtime(message.to_owned()),
            None => ApiError::Shim(text.to_owned()),
        }
    }

    /// What a failed command on a running container says.
    pub(crate) fn of_command(error: &base_errors::Error) -> Self {
        if error.is_not_found() {
            return ApiError::ContainerNotFound;
        }
        let text = error.message();
        ApiError::Command(runtime_message(text).unwrap_or(text).to_owned())
    }
}

/// The message behind `OCI runtime create failed: ` and the like.
fn runtime_message(text: &str) -> Option<&str> {
    let at = text.find("OCI runtime ")?;
    let message = text[at..].split_once(" failed: ").map(|(_, message)| message)?;
    Some(message.strip_suffix(": unknown").unwrap_or(message))
}

impl Coded for ApiError {
    fn class(&self) -> Class {
        match self {
            ApiError::NoSuchContainers => Class::NotFound,
            ApiError::File { source, .. } => match source.kind() {
                io::ErrorKind::AlreadyExists => Class::AlreadyExists,
                io::ErrorKind::NotFound => Class::NotFound,
                io::ErrorKind::PermissionDenied => Class::PermissionDenied,
                _ => Class::Unknown,
            },
            ApiError::Internal(_) => Class::Internal,
            _ => Class::Unknown,
        }
    }
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        let code = api_ttrpc::code::from_class(error.class());
        Status::new(Code::from_i32(code), error.to_string())
    }
}

/// The system's text as Go writes it.
pub(crate) fn system_text(error: &io::Error) -> String {
    match Errno::from_io_error(error) {
        Some(errno) => base_fs::errno_text(errno),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(error: ApiError) -> (i32, String) {
        let status = Status::from(error);
        (i32::from(status.code()), status.message().to_owned())
    }

    #[test]
    fn codes_and_texts_are_those_of_0_2() {
        let exists = ApiError::file("mkdir", "/run/c/a", Errno::EXIST);
        assert_eq!(answer(exists), (6, "mkdir /run/c/a: file exists".to_owned()));
        let missing = ApiError::file("open", "/b/config.json", Errno::NOENT);
        assert_eq!(answer(missing), (5, "open /b/config.json: no such file or directory".into()));
        assert_eq!(answer(ApiError::file("open", "/b", Errno::ACCESS)).0, 7);
        assert_eq!(
            answer(ApiError::UnknownStatus),
            (2, "containerd: unknown container status ".into())
        );
        assert_eq!(answer(ApiError::NoSuchContainers), (5, "no such containers".into()));
        assert_eq!(answer(ApiError::Signal(Errno::INVAL)), (2, "invalid argument".into()));
        assert_eq!(answer(ApiError::Command("x \"y\"".into())).1, "exit status 1: \"x \\\"y\\\"\"");
    }

    #[test]
    fn the_runtimes_own_words_are_found() {
        let error = base_errors::Error::unknown(
            "failed to create shim task: OCI runtime create failed: exec: \"x\": no: unknown",
        );
        assert_eq!(ApiError::of_start(&error).to_string(), "oci runtime error: exec: \"x\": no");
        let error = base_errors::Error::not_found("failed to start shim: start failed");
        assert_eq!(
            ApiError::of_start(&error).to_string(),
            "shim error: failed to start shim: start failed"
        );
    }
}
