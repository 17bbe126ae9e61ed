//! `content`.

use std::io::Write as _;

use api_grpc::content::{DeleteContentRequest, Info, ListContentRequest, UpdateRequest};
use base_errors::{Error, Result};
use base_ident::{Digest, IdentError};
use clap::Subcommand;
use tokio_stream::StreamExt as _;

use super::{FirstError, body, plain};
use crate::connection::Connection;
use crate::format::{self, TabWriter};
use crate::{Outcome, log, say};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Display active transfers
    Active {
        /// Total timeout for fetch
        #[arg(long, short, value_name = "value", default_value = "0s")]
        timeout: String,
        /// Path to content store root
        #[arg(long, value_name = "value", default_value = "/tmp/content")]
        root: String,
        /// Filter of references
        filter: Option<String>,
    },
    /// Permanently delete one or more blobs
    #[command(visible_aliases = ["del", "remove", "rm"])]
    Delete {
        /// Digests
        digests: Vec<String>,
    },
    /// Get the data for an object
    Get {
        /// Digest
        digest: Option<String>,
    },
    /// Accept content into the store
    Ingest {
        /// Validate against provided size
        #[arg(long, value_name = "value", default_value_t = 0)]
        expected_size: i64,
        /// Verify content against expected digest
        #[arg(long, value_name = "value", default_value = "", hide_default_value = true)]
        expected_digest: String,
        /// Name of the transaction
        reference: Option<String>,
    },
    /// List all blobs in the store
    #[command(visible_alias = "ls")]
    List {
        /// Print only the blob digest
        #[arg(long, short)]
        quiet: bool,
        /// Filters
        filters: Vec<String>,
    },
    /// Add labels to content
    Label {
        /// Digest, then labels `key=value`; without a value the label is cleared
        words: Vec<String>,
    },
}

impl Command {
    pub(crate) async fn run(self, connection: &Connection) -> Outcome {
        match self {
            Command::Active { filter, timeout: _, root: _ } => active(connection, filter).await,
            Command::Delete { digests } => delete(connection, digests).await,
            Command::Get { digest } => get(connection, digest.as_deref()).await,
            Command::Ingest { expected_size, expected_digest, reference } => {
                ingest(connection, expected_size, &expected_digest, reference).await
            }
            Command::List { quiet, filters } => list(connection, quiet, filters).await,
            Command::Label { words } => label(connection, &words).await,
        }
    }
}

/// Reads a digest; the errors are Go's, without the text itself.
pub(crate) fn parse_digest(text: &str) -> Result<Digest> {
    Digest::parse(text).map_err(|error| match error {
        IdentError::DigestFormat(_) => plain("invalid checksum digest format"),
        IdentError::DigestLength(_) => plain("invalid checksum digest length"),
        IdentError::DigestAlgorithm(_) => plain("unsupported digest algorithm"),
        other => Error::from(other),
    })
}

async fn active(connection: &Connection, filter: Option<String>) -> Outcome {
    let client = connection.connect().await?;
    let ingests = client.ingests(filter.into_iter().collect()).await?;
    let mut table = TabWriter::new(1, 8, 0, '\t');
    table.line("REF\tSIZE\tAGE\t");
    for ingest in &ingests {
        let size = format::human_size(ingest.offset);
        let age = format::human_duration(format::since(ingest.started_at.as_ref()));
        table.line(&format!("{}\t{size}\t{age}\t", ingest.r#ref));
    }
    table.print()?;
    Ok(0)
}

async fn delete(connection: &Connection, digests: Vec<String>) -> Outcome {
    let client = connection.connect().await?;
    let mut first = FirstError::default();
    for text in digests {
        let deleted = async {
            let digest = parse_digest(&text)?.to_string();
            body(client.contents().delete(DeleteContentRequest { digest }).await)
        };
        match deleted.await {
            Ok(()) => say!("{text}"),
            Err(error) if error.is_not_found() => {}
            Err(error) => {
                log::error(format!("could not delete {text}"), &error);
                first.keep(error);
            }
        }
    }
    first.outcome()
}

async fn get(connection: &Connection, digest: Option<&str>) -> Outcome {
    let digest = parse_digest(digest.unwrap_or_default())?;
    let client = connection.connect().await?;
    let mut stdout = std::io::stdout();
    let mut blocks = std::pin::pin!(client.blob_stream(digest.as_str(), 0).await?);
    while let Some(block) = blocks.next().await {
        stdout.write_all(&block?)?;
    }
    stdout.flush()?;
    Ok(0)
}

async fn ingest(
    connection: &Connection,
    size: i64,
    digest: &str,
    reference: Option<String>,
) -> Outcome {
    if !digest.is_empty() {
        parse_digest(digest)?;
    }
    let reference = reference
        .filter(|reference| !reference.is_empty())
        .ok_or_else(|| plain("must specify a transaction reference"))?;
    let client = connection.connect().await?;
    let stdin = rustix::stdio::stdin().try_clone_to_owned()?;
    let source = crate::streams::Blocks::read(std::fs::File::from(stdin));
    match client.ingest(&reference, source, size, digest, std::collections::BTreeMap::new()).await {
        // The blob is there: that is what was wanted.
        Err(error) if error.is_already_exists() => Ok(0),
        ingested => ingested.map(|_| 0),
    }
}

async fn list(connection: &Connection, quiet: bool, filters: Vec<String>) -> Outcome {
    let client = connection.connect().await?;
    let mut answers = body(client.contents().list(ListContentRequest { filters }).await)?;
    let mut table = TabWriter::new(1, 8, 1, '\t');
    if !quiet {
        table.line("DIGEST\tSIZE\tAGE\tLABELS");
    }
    while let Some(part) = answers.message().await.map_err(api_grpc::status::from_status)? {
        for info in part.info {
            if quiet {
                say!("{}", info.digest);
                continue;
            }
            let size = format::human_size(info.size);
            let age = format::human_duration(format::since(info.created_at.as_ref()));
            let labels = format::labels(&info.labels, "-");
            table.line(&format!("{}\t{size}\t{age}\t{labels}", info.digest));
        }
    }
    table.print()?;
    Ok(0)
}

async fn label(connection: &Connection, words: &[String]) -> Outcome {
    let digest = parse_digest(words.first().map(String::as_str).unwrap_or_default())?;
    let labels = format::parse_labels(&words[1..]);
    let client = connection.connect().await?;
    let info = if labels.is_empty() {
        client.blob_info(digest.as_str()).await?
    } else {
        let update_mask = Some(format::label_paths(&labels));
        let info = Some(Info { digest: digest.to_string(), labels, ..Info::default() });
        let request = UpdateRequest { info, update_mask };
        body(client.contents().update(request).await)?.info.unwrap_or_default()
    };
    say!("{}", format::labels(&info.labels, ""));
    Ok(0)
}
