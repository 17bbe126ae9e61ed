//! `info`.

use serde::Serialize;

use super::body;
use crate::connection::Connection;
use crate::{Outcome, format};

#[derive(Serialize)]
struct Info {
    server: Server,
}

#[derive(Serialize)]
struct Server {
    uuid: String,
    pid: u64,
    pidns: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    deprecations: Vec<Deprecation>,
}

#[derive(Serialize)]
struct Deprecation {
    id: String,
    message: String,
}

/// Tells which daemon this is.
pub(crate) async fn run(connection: &Connection) -> Outcome {
    let client = connection.connect().await?;
    let server = body(client.introspection().server(()).await)?;
    let deprecations = server
        .deprecations
        .into_iter()
        .map(|warning| Deprecation { id: warning.id, message: warning.message })
        .collect();
    let server = Server { uuid: server.uuid, pid: server.pid, pidns: server.pidns, deprecations };
    format::print_indented(&Info { server })?;
    Ok(0)
}
