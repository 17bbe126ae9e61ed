//! `tasks`.

mod checkpoint;
mod exec;
mod metrics;
mod start;

use api_grpc::containers::Container;
use api_grpc::tasks::ListPidsRequest;
use api_shim::process::Status;
use api_shim::runc::ProcessDetails;
use api_shim::typeurl;
use base_errors::{Error, Result};
use clap::Subcommand;
use client::Client;
use client::task::Process;
use kernel_process::parse_signal;
use serde::Deserialize;

use super::containers::need_id;
use super::{FirstError, body, plain};
use crate::connection::Connection;
use crate::format::TabWriter;
use crate::streams::{accompany, exit_status, own_streams};
use crate::{Outcome, log, say};

/// Where an image's stop signal is noted.
const STOP_SIGNAL: &str = "io.containerd.image.config.stop-signal";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Attach to the IO of a running container
    Attach {
        /// Container
        id: Option<String>,
    },
    /// Checkpoint a container
    Checkpoint(checkpoint::Checkpoint),
    /// Delete one or more tasks
    #[command(visible_aliases = ["del", "remove", "rm"])]
    Delete {
        /// Force delete task process
        #[arg(long, short)]
        force: bool,
        /// Process ID to kill
        #[arg(long, value_name = "value")]
        exec_id: Option<String>,
        /// Containers
        ids: Vec<String>,
    },
    /// Execute additional processes in an existing container
    Exec(exec::Exec),
    /// List tasks
    #[command(visible_alias = "ls")]
    List {
        /// Print only the task id
        #[arg(long, short)]
        quiet: bool,
    },
    /// Signal a container (default: SIGTERM)
    Kill {
        /// Signal to send to the container
        #[arg(long, short, value_name = "value")]
        signal: Option<String>,
        /// Process ID to kill
        #[arg(long, value_name = "value")]
        exec_id: Option<String>,
        /// Send signal to all processes inside the container
        #[arg(long, short)]
        all: bool,
        /// Container
        id: Option<String>,
    },
    /// Get a single data point of metrics for a task with the built-in Linux runtime
    #[command(visible_alias = "metric")]
    Metrics {
        /// "table" or "json"
        #[arg(long, value_name = "value", default_value = "table")]
        format: String,
        /// Container
        id: Option<String>,
    },
    /// Pause an existing container
    Pause {
        /// Container
        id: Option<String>,
    },
    /// List processes for container
    Ps {
        /// Container
        id: Option<String>,
    },
    /// Resume a paused container
    Resume {
        /// Container
        id: Option<String>,
    },
    /// Start a container that has been created
    Start(start::Start),
}

impl Command {
    pub(crate) async fn run(self, connection: &Connection) -> Outcome {
        match self {
            Command::Attach { id } => attach(connection, id).await,
            Command::Checkpoint(checkpoint) => checkpoint.run(connection).await,
            Command::Delete { force, exec_id, ids } => {
                delete(connection, force, exec_id, ids).await
            }
            Command::Exec(exec) => exec.run(connection).await,
            Command::List { quiet } => list(connection, quiet).await,
            Command::Kill { signal, exec_id, all, id } => {
                kill(connection, signal, exec_id, all, id).await
            }
            Command::Metrics { format, id } => metrics::run(connection, &format, id).await,
            Command::Pause { id } => {
                let (client, id) = running(connection, id.as_deref()).await?;
                client.pause(&id).await.map(|()| 0)
            }
            Command::Ps { id } => ps(connection, id).await,
            Command::Resume { id } => {
                let (client, id) = running(connection, id.as_deref()).await?;
                client.resume(&id).await.map(|()| 0)
            }
            Command::Start(start) => start.run(connection).await,
        }
    }
}

/// Connects, and makes sure that the container and its task are there.
async fn running(connection: &Connection, id: Option<&str>) -> Result<(Client, String)> {
    let id = need_id(id)?.to_owned();
    let client = connection.connect().await?;
    client.container(&id).await?;
    client.process_state(&id, "").await.map_err(no_task)?;
    Ok((client, id))
}

fn no_task(error: Error) -> Error {
    if error.is_not_found() { error.context("no running task found") } else { error }
}

/// True if the container's spec asks for a terminal.
pub(crate) fn has_terminal(container: &Container) -> Result<bool> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Spec {
        process: Process,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Process {
        terminal: bool,
    }
    let Some(spec) = &container.spec else { return Ok(false) };
    let spec: Spec = serde_json::from_slice(&spec.value)
        .map_err(|error| Error::invalid_argument(format!("spec of {}: {error}", container.id)))?;
    Ok(spec.process.terminal)
}

async fn list(connection: &Connection, quiet: bool) -> Outcome {
    let client = connection.connect().await?;
    let tasks = client.task_list().await?;
    if quiet {
        for task in &tasks {
            say!("{}", task.id);
        }
        return Ok(0);
    }
    let mut table = TabWriter::wide();
    table.line("TASK\tPID\tSTATUS\t");
    for task in &tasks {
        table.line(&format!("{}\t{}\t{}", task.id, task.pid, task.status().as_str_name()));
    }
    table.print()?;
    Ok(0)
}

async fn ps(connection: &Connection, id: Option<String>) -> Outcome {
    let (client, id) = running(connection, id.as_deref()).await?;
    let request = ListPidsRequest { container_id: id };
    let processes = body(client.tasks().list_pids(request).await)?.processes;
    let mut table = TabWriter::new(1, 8, 4, ' ');
    table.line("PID\tINFO");
    for process in &processes {
        let info = match &process.info {
            None => "-".to_owned(),
            Some(info) => match typeurl::decode::<ProcessDetails>(info) {
                Ok(details) => format!("exec_id:{:?}", details.exec_id),
                Err(_) => info.type_url.clone(),
            },
        };
        table.line(&format!("{}\t{info}", process.pid));
    }
    table.print()?;
    Ok(0)
}

async fn kill(
    connection: &Connection,
    signal: Option<String>,
    exec_id: Option<String>,
    all: bool,
    id: Option<String>,
) -> Outcome {
    let id = need_id(id.as_deref())?;
    let exec_id = exec_id.unwrap_or_default();
    if all && !exec_id.is_empty() {
        return Err(plain("specify an exec-id or all; not both"));
    }
    let client = connection.connect().await?;
    let container = client.container(id).await?;
    let signal = signal
        .as_deref()
        .filter(|signal| !signal.is_empty())
        .or_else(|| container.labels.get(STOP_SIGNAL).map(String::as_str))
        .unwrap_or("SIGTERM");
    let number = parse_signal(signal)?;
    client.process_state(id, "").await.map_err(no_task)?;
    let process = client.load_process(id, &exec_id).await?;
    let number = u32::try_from(number).map_err(|_| plain(format!("invalid signal {signal:?}")))?;
    process.kill(number, all).await?;
    Ok(0)
}

async fn delete(
    connection: &Connection,
    force: bool,
    exec_id: Option<String>,
    ids: Vec<String>,
) -> Outcome {
    let client = connection.connect().await?;
    if let Some(exec_id) = exec_id {
        let id = need_id(ids.first().map(String::as_str))?;
        client.container(id).await?;
        client.process_state(id, "").await.map_err(no_task)?;
        let exit = remove(client.load_process(id, &exec_id).await?, force).await?;
        return Ok(exit_status(exit));
    }
    let mut first = FirstError::default();
    for id in ids {
        let loaded = async {
            client.container(&id).await?;
            client.load_process(&id, "").await.map_err(no_task)
        };
        let process = match loaded.await {
            Ok(process) => process,
            Err(error) => {
                log::error(format!("failed to load task from {id}"), &error);
                first.keep(error);
                continue;
            }
        };
        match remove(process, force).await {
            Ok(0) => {}
            Ok(status) => log::warn(format!("task {id} exit with non-zero exit code {status}")),
            Err(error) => {
                log::error(format!("unable to delete {id}"), &error);
                first.keep(error);
            }
        }
    }
    first.outcome()
}

/// Removes a process; one that runs is killed before, if that is wanted.
async fn remove(process: Process, force: bool) -> Result<u32> {
    if force && process.status().await? != Status::Stopped {
        let signal = u32::try_from(libc::SIGKILL).unwrap_or_default();
        match process.kill(signal, true).await {
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        }
        process.wait().await?;
    }
    Ok(process.delete().await?.status)
}

async fn attach(connection: &Connection, id: Option<String>) -> Outcome {
    let (client, id) = running(connection, id.as_deref()).await?;
    let container = client.container(&id).await?;
    let (streams, terminal) = own_streams(has_terminal(&container)?)?;
    let process = client.attach(&id, "", streams).await?;
    let exit = accompany(&process, terminal.as_deref()).await;
    drop(terminal);
    let exit = exit?;
    process.delete().await?;
    Ok(exit_status(exit.status))
}
