//! The command line.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use crate::config::{Config, DEFAULT_PATH, Overrides};
use crate::{daemon, database, hook, publish};

/// The version that we are compatible with, which clients see.
pub const VERSION: &str = "2.1.9+ironhull";

/// Our own version.
pub const REVISION: &str = concat!("ironhull-", env!("CARGO_PKG_VERSION"));

/// What `--version` prints: the words that tools cut it by.
pub(crate) const LONG_VERSION: &str =
    concat!("github.com/containerd/containerd 2.1.9+ironhull ironhull-", env!("CARGO_PKG_VERSION"));

/// High performance container runtime.
#[derive(Parser)]
#[command(
    name = "containerd",
    version = LONG_VERSION,
    disable_version_flag = true,
    after_help = "`containerd v0` takes the command line of containerd 0.2: see `containerd v0 --help`."
)]
pub struct Arguments {
    #[command(flatten)]
    flags: Flags,
    #[command(subcommand)]
    command: Option<Command>,
    /// Print the version
    #[arg(short = 'v', long, action = clap::ArgAction::Version)]
    version: Option<bool>,
}

#[derive(Args)]
struct Flags {
    /// Path to the configuration file
    #[arg(short = 'c', long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Set the logging level [trace, debug, info, warn, error, fatal, panic]
    #[arg(short = 'l', long, value_name = "LEVEL", global = true)]
    log_level: Option<String>,
    /// Address for containerd's GRPC server
    #[arg(short = 'a', long, global = true)]
    address: Option<String>,
    /// containerd root directory
    #[arg(long, value_name = "FOLDER", global = true)]
    root: Option<PathBuf>,
    /// containerd state directory
    #[arg(long, value_name = "FOLDER", global = true)]
    state: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Information on the containerd config
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Binary to publish events to containerd
    Publish {
        /// Namespace to publish to
        #[arg(long)]
        namespace: String,
        /// Topic of the event
        #[arg(long)]
        topic: String,
    },
    /// Provides a base for OCI runtime hooks to allow arguments to be injected.
    OciHook {
        /// The program and its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<OsString>,
    },
    /// Look into a bolt database, such as meta.db, while no daemon has it open
    #[command(hide = true)]
    Bolt {
        #[command(subcommand)]
        command: BoltCommand,
    },
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// See the output of the default config
    Default,
    /// See the output of the final main config with imported in subconfig files
    Dump,
    /// Migrate the current configuration file to the latest version (does not migrate subconfig files)
    Migrate,
}

#[derive(Subcommand)]
enum BoltCommand {
    /// Name everything that is wrong in the file
    Check {
        /// The file
        file: PathBuf,
    },
    /// Print all buckets, keys and values
    Dump {
        /// The file
        file: PathBuf,
    },
    /// Copy all that can be read into a new file, and name what cannot
    Salvage {
        /// The file
        file: PathBuf,
        /// The new file
        to: PathBuf,
        /// An older copy, which fills the gaps
        #[arg(long, value_name = "FILE")]
        fill: Option<PathBuf>,
    },
}

impl Arguments {
    /// Does what was asked for.
    pub fn run(self) -> Result<()> {
        let Flags { config, log_level, address, root, state } = self.flags;
        let overrides = Overrides { address, root, state, log_level };
        let asked_for = config.is_some();
        let path = config.unwrap_or_else(|| DEFAULT_PATH.into());
        match self.command {
            None => daemon::run(Config::load(&path, asked_for, &overrides)?),
            Some(Command::Config { command: ConfigCommand::Default }) => print(&Config::default()),
            Some(Command::Config { command: ConfigCommand::Dump | ConfigCommand::Migrate }) => {
                print(&Config::load(&path, asked_for, &overrides)?.config)
            }
            Some(Command::Publish { namespace, topic }) => {
                let address = Config::load(&path, asked_for, &overrides)?.config.grpc.address;
                publish::run(&address, &namespace, &topic)
            }
            Some(Command::OciHook { words }) => hook::run(&words),
            Some(Command::Bolt { command: BoltCommand::Check { file } }) => database::check(&file),
            Some(Command::Bolt { command: BoltCommand::Dump { file } }) => database::dump(&file),
            Some(Command::Bolt { command: BoltCommand::Salvage { file, to, fill } }) => {
                database::salvage(&file, &to, fill.as_deref())
            }
        }
    }
}

/// Prints `config` with the effective tables of all plugins.
#[expect(clippy::print_stdout, reason = "the command's output")]
fn print(config: &Config) -> Result<()> {
    let mut config = config.clone();
    let effective: BTreeMap<String, toml::Table> = crate::builtins::effective_tables(&config)?;
    for (uri, table) in effective {
        config.plugins.insert(uri, table);
    }
    print!("{}", config.to_toml()?);
    Ok(())
}
