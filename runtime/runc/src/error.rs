//! What can go wrong with an OCI runtime program.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use base_errors::{Class, Coded};

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed operation of an OCI runtime.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The program is not in the search path.
    #[error("exec: {program:?}: executable file not found in $PATH")]
    ProgramMissing {
        /// Its name, as configured.
        program: String,
    },
    /// The system could not start the program.
    #[error("fork/exec {program}: {}", system_text(.source))]
    ProgramStart {
        /// Its path, as configured.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// The program ended with a failure and wrote what it had to say to its output.
    #[error("{program} did not terminate successfully: exit status {status}{}", after_colon(.output))]
    Exit {
        /// Its name, as configured.
        program: String,
        /// The exit status; 128 and the signal if it was killed.
        status: u32,
        /// Standard output and error, trimmed; may be empty.
        output: String,
    },
    /// An operation failed, and the runtime's log tells why.
    #[error("{operation}: {message}")]
    Logged {
        /// As in `OCI runtime create failed`.
        operation: &'static str,
        /// The last error line of the log.
        message: String,
    },
    /// An operation failed, and the runtime's log is silent.
    #[error("{operation}: {cause}")]
    Silent {
        /// As in `OCI runtime create failed`.
        operation: &'static str,
        /// The failure of the program.
        cause: Box<Error>,
    },
    /// An operation failed, and the runtime's log cannot be read.
    #[error("{operation}: unable to retrieve OCI runtime error ({reason}): {cause}")]
    Unlogged {
        /// As in `OCI runtime create failed`.
        operation: &'static str,
        /// Why the log could not be read.
        reason: String,
        /// The failure of the program.
        cause: Box<Error>,
    },
    /// The program did not come to its end and was killed.
    #[error("{program} {operation}: no end within {} s", .limit.as_secs())]
    Hung {
        /// Its name, as configured.
        program: String,
        /// The command that was run.
        operation: String,
        /// How long it was waited for.
        limit: Duration,
    },
    /// A signal for a process that has ended.
    #[error("process already finished")]
    Finished,
    /// The runtime does not know the container.
    #[error("no such container")]
    NoContainer,
    /// The runtime failed to send a signal.
    #[error("unknown error after kill: {0}")]
    Kill(Box<Error>),
    /// The program's answer makes no sense.
    #[error("{program}: unexpected output of {operation}: {reason}")]
    Answer {
        /// Its name, as configured.
        program: String,
        /// The command that was run.
        operation: &'static str,
        /// What is wrong with the answer.
        reason: String,
    },
    /// A file of ours could not be written or read.
    #[error("{operation} {}: {}", path.display(), system_text(.source))]
    File {
        /// `open`, `write`, `read`.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The pid file of a process is missing or damaged.
    #[error("failed to retrieve OCI runtime {what} pid: {reason}")]
    PidFile {
        /// `container` or `exec`.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A call of the system for the supervision of children failed.
    #[error("{step}: {}", system_text(.source))]
    System {
        /// What was tried.
        step: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl Error {
    /// True if a runtime has refused to make a container because it keeps one of this name.
    #[must_use]
    pub fn is_existing(&self) -> bool {
        // By the words that runc, crun and youki use.
        self.to_string().contains("already exists")
    }
}

impl Coded for Error {
    fn class(&self) -> Class {
        match self {
            Error::Finished | Error::NoContainer => Class::NotFound,
            Error::Hung { .. } => Class::DeadlineExceeded,
            Error::Silent { cause, .. } | Error::Unlogged { cause, .. } | Error::Kill(cause) => {
                cause.class()
            }
            Error::ProgramMissing { .. }
            | Error::ProgramStart { .. }
            | Error::Exit { .. }
            | Error::Logged { .. }
            | Error::Answer { .. }
            | Error::File { .. }
            | Error::PidFile { .. }
            | Error::System { .. } => Class::Unknown,
        }
    }
}

/// The system's text for an error as Go writes it: lower case and without the number.
pub(crate) fn system_text(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), base_errors::errno_text)
}

fn after_colon(output: &str) -> String {
    if output.is_empty() { String::new() } else { format!(": {output}") }
}
