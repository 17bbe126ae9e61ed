//! What the real 0.2 has left: containers below its own shim.
//!
//! Those that run are looked after as 0.2 did ([`live`]). What is left without a shim is ended, as
//! 0.2 did as well, and reported.

pub(crate) mod live;

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use kernel_process::PidFd;
use tokio::process::Command;
use tokio::time::timeout;

use crate::exit::UNKNOWN_STATUS;
use crate::state::{self, StoredContainer};

/// The status of a process that had to be killed; as in 0.2.
const KILLED: u32 = 128 + 9;
/// How long the runtime may take to remove a container.
const DELETE_LIMIT: Duration = Duration::from_secs(10);
/// How long a killed process may take to end.
const KILL_LIMIT: Duration = Duration::from_secs(2);

/// How the process recorded in `folder` ended. One that still runs, as its recorded start proves,
/// is killed. Blocks.
pub(crate) fn end_process(folder: &Path) -> u32 {
    if let Some((status, _)) = state::read_exit(folder) {
        return status;
    }
    let (Some(pid), Some(start)) = (state::read_pid(folder), state::read_start_time(folder)) else {
        return UNKNOWN_STATUS;
    };
    let Ok(process) = PidFd::open(pid) else { return UNKNOWN_STATUS };
    if !kernel_process::is_same(pid, start) || process.kill().is_err() {
        return UNKNOWN_STATUS;
    }
    tracing::warn!(pid, folder = %folder.display(), "killed a process of an old shim");
    if !process.wait_gone(Some(KILL_LIMIT)).unwrap_or(false) {
        tracing::warn!(pid, "it does not end");
    }
    KILLED
}

/// Lets the runtime remove what it knows of a container.
pub(crate) async fn delete(id: &str, stored: &StoredContainer) {
    if stored.runtime.is_empty() {
        return;
    }
    let mut command = Command::new(&stored.runtime);
    command.args(stored.runtime_args.iter().flatten()).args(["delete", "--force", id]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    match timeout(DELETE_LIMIT, command.status()).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::warn!(id, %error, "removing a container of an old shim"),
        Err(_) => tracing::warn!(id, "the runtime does not remove a container of an old shim"),
    }
}
