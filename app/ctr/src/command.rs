//! The groups of commands.

pub(crate) mod containers;
pub(crate) mod content;
pub(crate) mod deprecations;
pub(crate) mod disk;
pub(crate) mod events;
pub(crate) mod images;
pub(crate) mod info;
pub(crate) mod leases;
pub(crate) mod namespaces;
pub(crate) mod oci;
pub(crate) mod operations;
pub(crate) mod plugins;
pub(crate) mod run;
pub(crate) mod snapshots;
pub(crate) mod tasks;
pub(crate) mod version;

use base_errors::{Error, Result};

/// The body of an answer, or the daemon's error.
pub(crate) fn body<T>(answer: std::result::Result<tonic::Response<T>, tonic::Status>) -> Result<T> {
    answer.map(tonic::Response::into_inner).map_err(api_grpc::status::from_status)
}

/// An error with this text and nothing else.
pub(crate) fn plain(text: impl Into<String>) -> Error {
    Error::unknown(text)
}

/// Prints how a command is called, as containerd's ctr does where arguments are missing.
pub(crate) fn usage(words: &[&str]) -> crate::Outcome {
    use clap::CommandFactory as _;
    let mut command = crate::cli::Cli::command();
    command.build();
    let mut found = &mut command;
    for word in words {
        match found.find_subcommand_mut(word) {
            Some(next) => found = next,
            None => return Err(Error::internal(format!("no command {word:?}"))),
        }
    }
    crate::say!("{}", found.render_help());
    Ok(0)
}

/// Collects the first of several errors; the others are only told.
#[derive(Default)]
pub(crate) struct FirstError(Option<Error>);

impl FirstError {
    pub(crate) fn keep(&mut self, error: Error) {
        self.0.get_or_insert(error);
    }

    pub(crate) fn outcome(self) -> crate::Outcome {
        match self.0 {
            Some(error) => Err(error),
            None => Ok(0),
        }
    }
}
