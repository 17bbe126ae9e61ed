//! Folders, addresses and time limits.

use std::path::PathBuf;
use std::time::Duration;

/// The folder of the task plugin below root and state.
pub const RUNTIME_PLUGIN: &str = "io.containerd.runtime.v2.task";

/// How many tasks are created at once; as in containerd 0.2.
const MAX_CONCURRENT_STARTS: usize = 10;

/// What the supervisor has to know about the daemon.
#[derive(Clone, Debug)]
pub struct Config {
    /// The daemon's root: work folders are below it.
    pub root: PathBuf,
    /// The daemon's state folder, on tmpfs: bundles are below it.
    pub state: PathBuf,
    /// Path of the gRPC socket; given to shims, and part of their socket's name.
    pub grpc_address: String,
    /// Path of the ttrpc socket, where shims send their events.
    pub ttrpc_address: String,
    /// The daemon's own program; given to shims as the one that publishes events.
    pub containerd_binary: PathBuf,
    /// The daemon's version; given to shims that ask.
    pub containerd_version: String,
    /// Where shims put their sockets; empty means their own default.
    pub socket_dir: String,
    /// Whether shims shall log debug messages.
    pub debug: bool,
    /// More variables for the environment of shims.
    pub shim_env: Vec<(String, String)>,
    /// How many tasks are created at once; the others wait in their order.
    pub max_concurrent_starts: usize,
    /// Time limits.
    pub timeouts: Timeouts,
}

/// Time limits; the names in the comments are keys of the `timeouts` table of the daemon's
/// configuration.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Connecting to a shim that is adopted: `io.containerd.timeout.shim.load`.
    pub shim_load: Duration,
    /// The `delete` command of a shim: `io.containerd.timeout.shim.cleanup`.
    pub shim_cleanup: Duration,
    /// The answer to Shutdown: `io.containerd.timeout.shim.shutdown`.
    pub shim_shutdown: Duration,
    /// The answer to State: `io.containerd.timeout.task.state`.
    pub task_state: Duration,
    /// The answer to Stats: `io.containerd.timeout.metrics.shimstats`.
    pub shim_stats: Duration,
    /// The `start` command of a shim. Starting a process takes milliseconds; a node that is out of
    /// memory or swapping may need many seconds.
    pub shim_start: Duration,
    /// Calls that create or checkpoint, which may copy much data or wait for hooks.
    pub long_call: Duration,
    /// All other calls.
    pub call: Duration,
    /// How long a shim's event may come after the state that it announces. Then the supervisor
    /// announces it in the shim's place.
    pub event_grace: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            shim_load: Duration::from_secs(5),
            shim_cleanup: Duration::from_secs(5),
            shim_shutdown: Duration::from_secs(3),
            task_state: Duration::from_secs(2),
            shim_stats: Duration::from_secs(2),
            shim_start: Duration::from_secs(60),
            long_call: Duration::from_secs(15 * 60),
            call: Duration::from_secs(2 * 60),
            event_grace: Duration::from_secs(2),
        }
    }
}

impl Config {
    /// A configuration with the usual limits.
    #[must_use]
    pub fn new(
        root: impl Into<PathBuf>,
        state: impl Into<PathBuf>,
        grpc_address: impl Into<String>,
        ttrpc_address: impl Into<String>,
    ) -> Self {
        Config {
            root: root.into(),
            state: state.into(),
            grpc_address: grpc_address.into(),
            ttrpc_address: ttrpc_address.into(),
            containerd_binary: std::env::current_exe().unwrap_or_else(|_| "containerd".into()),
            containerd_version: env!("CARGO_PKG_VERSION").to_owned(),
            socket_dir: String::new(),
            debug: false,
            shim_env: Vec::new(),
            max_concurrent_starts: MAX_CONCURRENT_STARTS,
            timeouts: Timeouts::default(),
        }
    }

    /// Where the bundles are: `<state>/io.containerd.runtime.v2.task`.
    #[must_use]
    pub fn bundles(&self) -> PathBuf {
        self.state.join(RUNTIME_PLUGIN)
    }

    /// Where the work folders are: `<root>/io.containerd.runtime.v2.task`.
    #[must_use]
    pub fn work(&self) -> PathBuf {
        self.root.join(RUNTIME_PLUGIN)
    }
}
