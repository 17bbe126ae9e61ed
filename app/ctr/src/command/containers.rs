//! `containers`.

mod checkpoint;

use std::collections::BTreeMap;

use api_grpc::containers::{Container, ListContainersRequest, UpdateContainerRequest};
use api_shim::Any;
use api_shim::process::Status;
use base_errors::{Error, Result};
use clap::Subcommand;
use client::Client;
use serde::Serialize;
use serde_json::value::RawValue;

use super::{FirstError, body, plain};
use crate::connection::Connection;
use crate::container_flags::ContainerFlags;
use crate::format::{self, TabWriter};
use crate::{Outcome, log, say};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create container
    Create(Box<Create>),
    /// List containers
    #[command(visible_alias = "ls")]
    List {
        /// Print only the container id
        #[arg(long, short)]
        quiet: bool,
        /// Filters
        filters: Vec<String>,
    },
    /// Delete one or more existing containers
    #[command(visible_aliases = ["del", "remove", "rm"])]
    Delete {
        /// Do not clean up snapshot with container
        #[arg(long)]
        keep_snapshot: bool,
        /// Containers
        ids: Vec<String>,
    },
    /// Get info about a container
    Info {
        /// Only display the spec
        #[arg(long)]
        spec: bool,
        /// Container
        id: Option<String>,
    },
    /// Checkpoint a container
    Checkpoint(checkpoint::Checkpoint),
    /// Restore a container from checkpoint
    Restore(checkpoint::Restore),
    /// Set and clear labels for a container
    Label {
        /// Container, then labels `key=value`; without a value the label is cleared
        words: Vec<String>,
    },
}

/// Makes a container without a task.
#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    #[command(flatten)]
    flags: ContainerFlags,
    /// Image|RootFS, id, command and arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

impl Command {
    pub(crate) async fn run(self, connection: &Connection) -> Outcome {
        match self {
            Command::Create(create) => create.run(connection).await,
            Command::List { quiet, filters } => list(connection, quiet, filters).await,
            Command::Delete { keep_snapshot, ids } => delete(connection, keep_snapshot, ids).await,
            Command::Info { spec, id } => info(connection, spec, id).await,
            Command::Checkpoint(checkpoint) => checkpoint.run(connection).await,
            Command::Restore(restore) => restore.run(connection).await,
            Command::Label { words } => label(connection, &words).await,
        }
    }
}

impl Create {
    async fn run(self, connection: &Connection) -> Outcome {
        let words = self.flags.split(&self.words).map_err(|error| {
            // COMPAT: here, unlike in `run`, the error has a class.
            Error::invalid_argument(error.message())
        })?;
        let client = connection.connect().await?;
        self.flags.create(&client, &words, None).await?;
        Ok(0)
    }
}

async fn list(connection: &Connection, quiet: bool, filters: Vec<String>) -> Outcome {
    let client = connection.connect().await?;
    let request = ListContainersRequest { filters };
    let containers = body(client.containers().list(request).await)?.containers;
    if quiet {
        for container in &containers {
            say!("{}", container.id);
        }
        return Ok(0);
    }
    let mut table = TabWriter::wide();
    table.line("CONTAINER\tIMAGE\tRUNTIME\t");
    for container in &containers {
        let image = if container.image.is_empty() { "-" } else { &container.image };
        let runtime = container.runtime.as_ref().map(|runtime| runtime.name.as_str());
        table.line(&format!("{}\t{image}\t{}\t", container.id, runtime.unwrap_or_default()));
    }
    table.print()?;
    Ok(0)
}

async fn delete(connection: &Connection, keep_snapshot: bool, ids: Vec<String>) -> Outcome {
    if ids.is_empty() {
        return Err(Error::invalid_argument("must specify at least one container to delete"));
    }
    let client = connection.connect().await?;
    let mut first = FirstError::default();
    for id in ids {
        if let Err(error) = delete_one(&client, &id, keep_snapshot).await {
            log::error(format!("failed to delete container \"{id}\""), &error);
            first.keep(error);
        }
    }
    first.outcome()
}

async fn delete_one(client: &Client, id: &str, keep_snapshot: bool) -> Result<()> {
    let record = client.container(id).await?;
    if let Ok(process) = client.load_process(id, "").await {
        match process.status().await? {
            Status::Stopped | Status::Created => {
                process.delete().await?;
            }
            status => {
                let name = status.as_str_name().to_lowercase();
                return Err(plain(format!(
                    "cannot delete a non stopped container: {{{name} 0 0001-01-01 00:00:00 +0000 \
                     UTC}}"
                )));
            }
        }
    }
    client.delete_container(&record, keep_snapshot).await
}

/// An `Any` as Go writes it.
#[derive(Serialize)]
struct AnyInfo {
    type_url: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    value: String,
}

impl From<&Any> for AnyInfo {
    fn from(any: &Any) -> Self {
        AnyInfo { type_url: any.type_url.clone(), value: format::base64(&any.value) }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct RuntimeInfo {
    name: String,
    options: Option<AnyInfo>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Info<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    labels: &'a BTreeMap<String, String>,
    image: &'a str,
    runtime: RuntimeInfo,
    snapshot_key: &'a str,
    snapshotter: &'a str,
    created_at: String,
    updated_at: String,
    extensions: BTreeMap<&'a str, AnyInfo>,
    #[serde(rename = "SandboxID")]
    sandbox: &'a str,
    spec: Option<&'a RawValue>,
}

async fn info(connection: &Connection, spec_only: bool, id: Option<String>) -> Outcome {
    let id = need_id(id.as_deref())?;
    let client = connection.connect().await?;
    let container = client.container(id).await?;
    let spec: Option<&RawValue> =
        container.spec.as_ref().and_then(|spec| serde_json::from_slice(&spec.value).ok());
    if spec_only {
        format::print_indented(&spec)?;
        return Ok(0);
    }
    let runtime = container.runtime.clone().unwrap_or_default();
    let extensions = container.extensions.iter();
    format::print_indented(&Info {
        id: &container.id,
        labels: &container.labels,
        image: &container.image,
        runtime: RuntimeInfo {
            name: runtime.name,
            options: runtime.options.as_ref().map(AnyInfo::from),
        },
        snapshot_key: &container.snapshot_key,
        snapshotter: &container.snapshotter,
        created_at: format::rfc3339(container.created_at.as_ref()),
        updated_at: format::rfc3339(container.updated_at.as_ref()),
        extensions: extensions.map(|(key, any)| (key.as_str(), any.into())).collect(),
        sandbox: &container.sandbox,
        spec,
    })?;
    Ok(0)
}

async fn label(connection: &Connection, words: &[String]) -> Outcome {
    let id = need_id(words.first().map(String::as_str))?;
    let labels = format::parse_labels(&words[1..]);
    let client = connection.connect().await?;
    // A container that does not exist is found out before an empty change would clear everything.
    let known = client.container(id).await?;
    if labels.is_empty() {
        say!("{}", format::labels(&known.labels, ""));
        return Ok(0);
    }
    let update_mask = Some(format::label_paths(&labels));
    let container = Some(Container { id: id.to_owned(), labels, ..Container::default() });
    let request = UpdateContainerRequest { container, update_mask };
    let updated = body(client.containers().update(request).await)?.container.unwrap_or_default();
    say!("{}", format::labels(&updated.labels, ""));
    Ok(0)
}

/// The id, if it is not empty.
pub(crate) fn need_id(id: Option<&str>) -> Result<&str> {
    id.filter(|id| !id.is_empty()).ok_or_else(|| plain("container id must be provided"))
}
