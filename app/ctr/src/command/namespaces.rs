//! `namespaces`.

use api_grpc::namespaces::{
    CreateNamespaceRequest, DeleteNamespaceRequest, ListNamespacesRequest, Namespace,
    UpdateNamespaceRequest,
};
use clap::Subcommand;

use super::{FirstError, body, plain};
use crate::connection::Connection;
use crate::format::{self, TabWriter};
use crate::{Outcome, log, say};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a new namespace
    #[command(visible_alias = "c")]
    Create {
        /// Name, then labels `key=value`
        words: Vec<String>,
    },
    /// List namespaces
    #[command(visible_alias = "ls")]
    List {
        /// Print only the namespace name
        #[arg(long, short)]
        quiet: bool,
    },
    /// Remove one or more namespaces
    #[command(visible_alias = "rm")]
    Remove {
        /// Delete the namespace's cgroup
        #[arg(long, short)]
        cgroup: bool,
        /// Names
        names: Vec<String>,
    },
    /// Set and clear labels for a namespace
    Label {
        /// Name, then labels `key=value`; without a value the label is cleared
        words: Vec<String>,
    },
}

impl Command {
    pub(crate) async fn run(self, connection: &Connection) -> Outcome {
        match self {
            Command::Create { words } => create(connection, &words).await,
            Command::List { quiet } => list(connection, quiet).await,
            Command::Remove { cgroup, names } => remove(connection, cgroup, names).await,
            Command::Label { words } => label(connection, &words).await,
        }
    }
}

async fn create(connection: &Connection, words: &[String]) -> Outcome {
    let (name, labels) = words.split_first().ok_or_else(|| plain("please specify a namespace"))?;
    let labels = format::parse_labels(labels);
    let client = connection.connect().await?;
    let namespace = Some(Namespace { name: name.clone(), labels });
    body(client.namespaces().create(CreateNamespaceRequest { namespace }).await)?;
    Ok(0)
}

async fn list(connection: &Connection, quiet: bool) -> Outcome {
    let client = connection.connect().await?;
    let request = ListNamespacesRequest::default();
    let namespaces = body(client.namespaces().list(request).await)?.namespaces;
    if quiet {
        for namespace in &namespaces {
            say!("{}", namespace.name);
        }
        return Ok(0);
    }
    let mut table = TabWriter::narrow();
    table.line("NAME\tLABELS\t");
    for namespace in &namespaces {
        table.line(&format!("{}\t{}\t", namespace.name, format::labels(&namespace.labels, "")));
    }
    table.print()?;
    Ok(0)
}

async fn remove(connection: &Connection, cgroup: bool, names: Vec<String>) -> Outcome {
    let client = connection.connect().await?;
    let mut first = FirstError::default();
    for name in names {
        let request = DeleteNamespaceRequest { name: name.clone() };
        match body(client.namespaces().delete(request).await) {
            Err(error) if !error.is_not_found() => {
                log::error(format!("unable to delete {name}"), &error);
                first.keep(error.context(format!("unable to delete {name}")));
                continue;
            }
            _ => {}
        }
        if cgroup {
            remove_cgroups(&name)?;
        }
        say!("{name}");
    }
    first.outcome()
}

/// Removes the empty control groups of a namespace, of both versions.
fn remove_cgroups(name: &str) -> std::io::Result<()> {
    let root = std::path::Path::new("/sys/fs/cgroup");
    let hierarchies = std::fs::read_dir(root)?.flatten().map(|entry| entry.path());
    for hierarchy in hierarchies.chain([root.to_owned()]) {
        match std::fs::remove_dir(hierarchy.join(name)) {
            Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

async fn label(connection: &Connection, words: &[String]) -> Outcome {
    let (name, labels) = words.split_first().ok_or_else(|| plain("please specify a namespace"))?;
    let client = connection.connect().await?;
    // One call for each, as containerd's ctr: each is an event of its own.
    for (key, value) in format::parse_labels(labels) {
        let labels = [(key, value)].into();
        let update_mask = Some(format::label_paths(&labels));
        let namespace = Some(Namespace { name: name.clone(), labels });
        let request = UpdateNamespaceRequest { namespace, update_mask };
        body(client.namespaces().update(request).await)?;
    }
    Ok(0)
}
