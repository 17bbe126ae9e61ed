//! All commands and how they are called.

use std::ffi::OsString;
use std::io::Write as _;

use base_errors::Error;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::command::{
    containers, content, deprecations, disk, events, images, info, leases, namespaces, oci,
    operations, plugins, run, snapshots, tasks, version,
};
use crate::connection::Connection;
use crate::{Outcome, arguments};

/// ctr is a debug and administrative client of the containerd daemon. Its commands and flags are
/// those of containerd's ctr.
#[derive(Debug, Parser)]
#[command(name = "ctr", version = crate::VERSION, disable_help_subcommand = false)]
pub(crate) struct Cli {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Provides information about containerd plugins
    #[command(subcommand, visible_alias = "plugin")]
    Plugins(plugins::Command),
    /// Print the client and server versions
    Version,
    /// Manage containers
    #[command(subcommand, visible_aliases = ["c", "container"])]
    Containers(containers::Command),
    /// Manage content
    #[command(subcommand)]
    Content(content::Command),
    /// Explain what takes space, and who needs it
    Disk(disk::Disk),
    /// Display containerd events
    #[command(visible_alias = "event")]
    Events(events::Events),
    /// Manage images
    #[command(subcommand, visible_aliases = ["image", "i"])]
    Images(images::Command),
    /// Manage leases
    #[command(subcommand)]
    Leases(leases::Command),
    /// Manage namespaces
    #[command(subcommand, visible_aliases = ["namespace", "ns"])]
    Namespaces(namespaces::Command),
    /// Run a container
    Run(Box<run::Run>),
    /// Manage snapshots
    #[command(visible_alias = "snapshot")]
    Snapshots(snapshots::Snapshots),
    /// Manage tasks
    #[command(subcommand, visible_aliases = ["t", "task"])]
    Tasks(tasks::Command),
    /// OCI tools
    #[command(subcommand)]
    Oci(oci::Command),
    /// Print the server info
    Info,
    /// Print what the server is doing just now
    Operations(operations::Operations),
    /// Print what the server uses that will go away
    #[command(subcommand)]
    Deprecations(deprecations::Command),
}

impl Cli {
    /// Runs the command, within the time that was given.
    pub(crate) async fn run(self) -> Outcome {
        let timeout = self.connection.timeout;
        let work = Box::pin(self.dispatch());
        if timeout.is_zero() {
            return work.await;
        }
        match tokio::time::timeout(timeout, work).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Error::deadline_exceeded("")),
        }
    }

    async fn dispatch(self) -> Outcome {
        let connection = &self.connection;
        match self.command {
            Command::Plugins(command) => command.run(connection).await,
            Command::Version => version::run(connection).await,
            Command::Containers(command) => command.run(connection).await,
            Command::Content(command) => command.run(connection).await,
            Command::Disk(command) => command.run(connection).await,
            Command::Events(command) => command.run(connection).await,
            Command::Images(command) => command.run(connection).await,
            Command::Leases(command) => command.run(connection).await,
            Command::Namespaces(command) => command.run(connection).await,
            Command::Run(command) => command.run(connection).await,
            Command::Snapshots(command) => command.run(connection).await,
            Command::Tasks(command) => command.run(connection).await,
            Command::Oci(command) => command.run(),
            Command::Info => info::run(connection).await,
            Command::Operations(command) => command.run(connection).await,
            Command::Deprecations(command) => command.run(connection).await,
        }
    }
}

/// Reads the command line. What cannot be run is told already: the error is the exit status.
pub(crate) fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Cli, u8> {
    let mut command = Cli::command();
    command.build();
    let arguments = arguments::as_clap(&command, arguments);
    let parsed =
        command.try_get_matches_from(arguments).and_then(|matches| Cli::from_arg_matches(&matches));
    parsed.map_err(|error| tell(&error))
}

fn tell(error: &clap::Error) -> u8 {
    let text = error.render();
    let argument = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(argument)) => argument.trim_start_matches('-').to_owned(),
        _ => String::new(),
    };
    let (mut stdout, mut stderr) = (std::io::stdout(), std::io::stderr());
    match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = write!(stdout, "{text}");
            0
        }
        ErrorKind::InvalidSubcommand => {
            let name = match error.get(ContextKind::InvalidSubcommand) {
                Some(ContextValue::String(name)) => name.as_str(),
                _ => "",
            };
            let _ = writeln!(stderr, "No help topic for '{name}'");
            3
        }
        ErrorKind::UnknownArgument => {
            let _ = writeln!(stderr, "ctr: flag provided but not defined: -{argument}");
            1
        }
        _ => {
            let text = text.to_string();
            let text = text.strip_prefix("error: ").unwrap_or(&text);
            let _ = write!(stderr, "ctr: {text}");
            1
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_are_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_stands_after_the_image_is_the_containers() {
        let line = "ctr -n k8s.io run --rm -t --env A=1 image id sh -c --rm";
        let cli = parse(line.split(' ').map(OsString::from)).unwrap();
        assert_eq!(cli.connection.namespace, "k8s.io");
        let Command::Run(run) = cli.command else { panic!("{cli:?}") };
        assert!(run.rm && run.flags.tty && !run.detach);
        assert_eq!(run.words, ["image", "id", "sh", "-c", "--rm"]);
        assert_eq!(run.flags.env, ["A=1"]);
    }
}
