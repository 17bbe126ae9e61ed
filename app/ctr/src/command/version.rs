//! `version`.

use std::io::Write as _;

use super::body;
use crate::connection::Connection;
use crate::{Outcome, REVISION, VERSION, say};

/// Tells our version, then the daemon's.
pub(crate) async fn run(connection: &Connection) -> Outcome {
    say!("Client:");
    say!("  Version:  {VERSION}");
    say!("  Revision: {}", REVISION);
    say!("");
    let client = connection.connect().await?;
    let version = body(client.version().version(()).await)?;
    say!("Server:");
    say!("  Version:  {}", version.version);
    say!("  Revision: {}", version.revision);
    let server = body(client.introspection().server(()).await)?;
    say!("  UUID: {}", server.uuid);
    if version.version != VERSION {
        writeln!(std::io::stderr(), "WARNING: version mismatch")?;
    }
    if version.revision != REVISION {
        writeln!(std::io::stderr(), "WARNING: revision mismatch")?;
    }
    Ok(0)
}
