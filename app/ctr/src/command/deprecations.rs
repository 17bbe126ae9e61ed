//! `deprecations`.

use clap::Subcommand;

use super::body;
use crate::connection::Connection;
use crate::format::{self, TabWriter};
use crate::{Outcome, say};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print warnings for deprecations
    List {
        /// Output format: default (table) or json
        #[arg(long, value_name = "value", default_value = "default")]
        format: String,
    },
}

impl Command {
    pub(crate) async fn run(self, connection: &Connection) -> Outcome {
        let Command::List { format: layout } = self;
        let client = connection.connect().await?;
        let server = body(client.introspection().server(()).await)?;
        if layout == "json" {
            let list: Vec<_> = server
                .deprecations
                .iter()
                .map(|warning| {
                    serde_json::json!({
                        "id": warning.id,
                        "message": warning.message,
                        "lastOccurrence": format::rfc3339(warning.last_occurrence.as_ref()),
                    })
                })
                .collect();
            format::print_indented(&list)?;
            return Ok(0);
        }
        if server.deprecations.is_empty() {
            return Ok(0);
        }
        let mut table = TabWriter::narrow();
        table.line("ID\tLAST OCCURRENCE\tMESSAGE\t");
        for warning in &server.deprecations {
            let last = format::rfc3339(warning.last_occurrence.as_ref());
            table.line(&format!("{}\t{last}\t{}\t", warning.id, warning.message));
        }
        table.print()?;
        say!("");
        Ok(0)
    }
}
