//! `operations`: what the daemon is doing just now. Ours alone; containerd has nothing like it.

use std::time::Duration;

use api_grpc::operations::operations_client::OperationsClient;
use api_grpc::operations::{ListOperationsRequest, ListOperationsResponse, Operation};
use base_errors::Class;

use super::body;
use crate::connection::Connection;
use crate::format::{self, TabWriter};
use crate::{Outcome, say};

#[derive(Debug, clap::Args)]
pub(crate) struct Operations {
    /// Output format: default (table) or json
    #[arg(long, value_name = "value", default_value = "default")]
    format: String,
    /// Print only the operations that run for at least this long
    #[arg(long, value_name = "value", default_value = "0s", value_parser = format::parse_duration)]
    older: Duration,
}

fn duration(message: Option<prost_types::Duration>) -> Option<Duration> {
    message.and_then(|message| Duration::try_from(message).ok())
}

fn seconds(duration: Duration) -> String {
    format!("{:.1}s", duration.as_secs_f64())
}

impl Operations {
    pub(crate) async fn run(self, connection: &Connection) -> Outcome {
        let client = connection.connect().await?;
        let mut service = OperationsClient::new(client.service());
        let mut answer = body(service.list(ListOperationsRequest {}).await).map_err(|error| {
            match error.class() {
                Class::NotImplemented => error.with_hint("only ironhull's daemon tells this"),
                _ => error,
            }
        })?;
        answer
            .operations
            .retain(|operation| duration(operation.age).unwrap_or_default() >= self.older);
        if self.format == "json" {
            let list: Vec<_> = answer.operations.iter().map(json).collect();
            format::print_indented(&list)?;
            return Ok(0);
        }
        table(&answer)
    }
}

fn json(operation: &Operation) -> serde_json::Value {
    serde_json::json!({
        "id": operation.id,
        "kind": operation.kind,
        "namespace": operation.namespace,
        "object": operation.object,
        "phase": operation.phase,
        "started": format::rfc3339(operation.started.as_ref()),
        "age": duration(operation.age).map(|age| age.as_secs_f64()),
        "deadline": duration(operation.deadline).map(|deadline| deadline.as_secs_f64()),
    })
}

fn table(answer: &ListOperationsResponse) -> Outcome {
    let ListOperationsResponse { operations, start_places, starts_running, starts_waiting } =
        answer;
    say!("starts: {starts_running} of {start_places} running, {starts_waiting} waiting");
    let mut table = TabWriter::narrow();
    table.line("ID\tKIND\tNAMESPACE\tOBJECT\tAGE\tDEADLINE\tPHASE\t");
    for operation in operations {
        let Operation { id, kind, namespace, object, phase, .. } = operation;
        let age = seconds(duration(operation.age).unwrap_or_default());
        let deadline = duration(operation.deadline).map_or_else(|| "-".to_owned(), seconds);
        let phase = if phase.is_empty() { "-" } else { phase };
        table.line(&format!("{id}\t{kind}\t{namespace}\t{object}\t{age}\t{deadline}\t{phase}\t"));
    }
    table.print()?;
    Ok(0)
}
