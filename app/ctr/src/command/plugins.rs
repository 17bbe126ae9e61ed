//! `plugins`.

use std::collections::BTreeSet;

use api_grpc::introspection::{Plugin, PluginsRequest};
use api_shim::types::Platform;
use clap::Subcommand;

use super::body;
use crate::connection::Connection;
use crate::format::TabWriter;
use crate::{Outcome, say};

/// What an error of a plugin that does not want to be loaded ends with.
const SKIPPED: &str = "skip plugin";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Lists containerd plugins
    #[command(visible_alias = "ls")]
    List {
        /// Print only the plugin ids
        #[arg(long, short)]
        quiet: bool,
        /// Print detailed information about each plugin
        #[arg(long, short)]
        detailed: bool,
        /// Filters
        filters: Vec<String>,
    },
}

impl Command {
    pub(crate) async fn run(self, connection: &Connection) -> Outcome {
        let Command::List { quiet, detailed, filters } = self;
        let client = connection.connect().await?;
        let request = PluginsRequest { filters };
        let plugins = body(client.introspection().plugins(request).await)?.plugins;
        if quiet {
            for plugin in &plugins {
                say!("{}", plugin.id);
            }
            return Ok(0);
        }
        if detailed {
            print_details(&plugins)?
        } else {
            print_table(&plugins)?
        }
        Ok(0)
    }
}

fn print_table(plugins: &[Plugin]) -> std::io::Result<()> {
    let mut table = TabWriter::wide();
    table.line("TYPE\tID\tPLATFORMS\tSTATUS\t");
    for plugin in plugins {
        let platforms = match platforms(&plugin.platforms) {
            none if none.is_empty() => "-".to_owned(),
            platforms => platforms,
        };
        let status = match &plugin.init_err {
            None => "ok",
            Some(error) if error.message.contains(SKIPPED) => "skip",
            Some(_) => "error",
        };
        table.line(&format!("{}\t{}\t{platforms}\t{status}\t", plugin.r#type, plugin.id));
    }
    table.print()
}

fn print_details(plugins: &[Plugin]) -> std::io::Result<()> {
    let mut table = TabWriter::wide();
    for (index, plugin) in plugins.iter().enumerate() {
        if index != 0 {
            table.line("\t\t\t");
        }
        table.line(&format!("Type:\t {}", plugin.r#type));
        table.line(&format!("ID:\t {}", plugin.id));
        if !plugin.requires.is_empty() {
            table.line("Requires:\t");
            for required in &plugin.requires {
                table.line(&format!("\t {required}"));
            }
        }
        if !plugin.platforms.is_empty() {
            table.line(&format!("Platforms:\t {}", platforms(&plugin.platforms)));
        }
        if !plugin.exports.is_empty() {
            table.line("Exports:\t");
            for (key, value) in &plugin.exports {
                table.line(&format!("\t {key} \t {value}"));
            }
        }
        if !plugin.capabilities.is_empty() {
            table.line(&format!("Capabilities:\t {}", plugin.capabilities.join(",")));
        }
        if let Some(error) = &plugin.init_err {
            table.line("Error:\t");
            table.line(&format!("\t Code:\t {}", code_name(error.code)));
            table.line(&format!("\t Message:\t {}", error.message));
        }
    }
    table.print()
}

/// All platforms, each once, sorted.
fn platforms(platforms: &[Platform]) -> String {
    let names: BTreeSet<String> = platforms
        .iter()
        .map(|platform| client::image::Platform::from(platform).normalised().to_string())
        .collect();
    names.into_iter().collect::<Vec<_>>().join(",")
}

/// The name that Go gives to a code.
fn code_name(code: i32) -> String {
    let names = [
        "OK",
        "Canceled",
        "Unknown",
        "InvalidArgument",
        "DeadlineExceeded",
        "NotFound",
        "AlreadyExists",
        "PermissionDenied",
        "ResourceExhausted",
        "FailedPrecondition",
        "Aborted",
        "OutOfRange",
        "Unimplemented",
        "Internal",
        "Unavailable",
        "DataLoss",
        "Unauthenticated",
    ];
    match usize::try_from(code).ok().and_then(|code| names.get(code)) {
        Some(name) => (*name).to_owned(),
        None => format!("Code({code})"),
    }
}
