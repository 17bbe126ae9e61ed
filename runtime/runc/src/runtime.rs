//! The seam: what a shim asks of an OCI runtime.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use kernel_process::PidFd;
use serde::Deserialize;

use crate::Result;

/// The standard streams of a process that a runtime makes.
#[derive(Debug)]
pub enum Io {
    /// These descriptors; a missing one is `/dev/null`.
    Streams {
        /// Read by the process.
        stdin: Option<OwnedFd>,
        /// Written by the process.
        stdout: Option<OwnedFd>,
        /// Written by the process.
        stderr: Option<OwnedFd>,
    },
    /// A terminal, whose controlling end the runtime sends to this socket.
    Console(PathBuf),
}

impl Io {
    /// Three times `/dev/null`.
    #[must_use]
    pub fn null() -> Self {
        Io::Streams { stdin: None, stdout: None, stderr: None }
    }
}

/// Options of [`OciRuntime::create`].
#[derive(Debug)]
pub struct CreateOptions<'a> {
    /// Where the runtime writes the pid of the init process.
    pub pid_file: &'a Path,
    /// Use `MS_MOVE` instead of `pivot_root`.
    pub no_pivot: bool,
    /// Keep the session keyring of the caller.
    pub no_new_keyring: bool,
}

/// Options of [`OciRuntime::exec`].
#[derive(Debug)]
pub struct ExecOptions<'a> {
    /// Where the runtime writes the pid of the process.
    pub pid_file: &'a Path,
    /// Where the description of the process may be written for the time of the call.
    pub process_file: &'a Path,
}

/// What CRIU shall put up with (runc's flags of the same names).
#[derive(Debug, Default, Clone)]
pub struct CheckpointOptions {
    /// Folder of the image.
    pub image_path: PathBuf,
    /// Folder of CRIU's log; empty: the runtime's choice.
    pub work_path: PathBuf,
    /// An earlier image that this one builds upon; empty: none.
    pub parent_path: PathBuf,
    /// Allow established TCP connections.
    pub open_tcp: bool,
    /// Allow unix sockets with a peer outside.
    pub external_unix_sockets: bool,
    /// Allow a terminal from outside.
    pub terminal: bool,
    /// Allow file locks.
    pub file_locks: bool,
    /// Namespaces to be made empty.
    pub empty_namespaces: Vec<String>,
    /// `soft`, `full`, `strict` or empty.
    pub cgroups_mode: String,
    /// Leave the container running (checkpoint alone).
    pub leave_running: bool,
}

/// Options of [`OciRuntime::restore`].
#[derive(Debug)]
pub struct RestoreOptions<'a> {
    /// The image and what goes with it.
    pub checkpoint: CheckpointOptions,
    /// Where the runtime writes the pid of the init process.
    pub pid_file: &'a Path,
    /// Use `MS_MOVE` instead of `pivot_root`.
    pub no_pivot: bool,
}

/// What a runtime says about a container (OCI runtime spec, state).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ContainerState {
    /// Its id.
    pub id: String,
    /// `creating`, `created`, `running`, `paused` or `stopped`.
    pub status: String,
    /// Pid of the init process; 0 if there is none.
    #[serde(default)]
    pub pid: i32,
    /// The bundle that it was made from; empty if the runtime does not say.
    #[serde(default)]
    pub bundle: PathBuf,
}

/// A maker of containers.
///
/// None of the calls is cancel-safe: a dropped future kills its program in the middle of its work,
/// and what that was is the caller's to clean up. `create`, `exec` and `restore` leave a process behind that is a child
/// of this process: hold the [`crate::Reaper`] from before the call until that process is adopted.
#[async_trait]
pub trait OciRuntime: Send + Sync {
    /// Makes a container out of `bundle`; its init process waits for [`OciRuntime::start`].
    async fn create(
        &self,
        id: &str,
        bundle: &Path,
        options: CreateOptions<'_>,
        io: Io,
    ) -> Result<()>;

    /// Lets the init process run the user's program. `init` is that process, where nothing else
    /// is to be done at the start (no `poststart` hook): then the runtime need not be run.
    async fn start(&self, id: &str, init: Option<Arc<PidFd>>) -> Result<()>;

    /// Runs another process in the container and returns once it runs. `process` is the JSON of an
    /// OCI process.
    async fn exec(&self, id: &str, process: &[u8], options: ExecOptions<'_>, io: Io) -> Result<()>;

    /// Sends `signal` to the init process, or to all processes of the container.
    async fn kill(&self, id: &str, signal: u32, all: bool) -> Result<()>;

    /// Removes a stopped container; with `force` kills it first. An unknown container is no error.
    async fn delete(&self, id: &str, force: bool) -> Result<()>;

    /// Removes a container whose processes have all ended and that has no `poststop` hook, without
    /// running the runtime; false if that has to be run for it.
    fn discard(&self, id: &str) -> bool;

    /// Freezes all processes.
    async fn pause(&self, id: &str) -> Result<()>;

    /// Thaws all processes.
    async fn resume(&self, id: &str) -> Result<()>;

    /// Changes limits. `resources` is the JSON of OCI Linux resources.
    async fn update(&self, id: &str, resources: &[u8]) -> Result<()>;

    /// The pids of all processes of the container, as seen from outside.
    async fn pids(&self, id: &str) -> Result<Vec<u32>>;

    /// What the runtime knows about the container.
    async fn state(&self, id: &str) -> Result<ContainerState>;

    /// Writes an image of the container with CRIU.
    async fn checkpoint(&self, id: &str, options: &CheckpointOptions) -> Result<()>;

    /// Makes a running container from an image.
    async fn restore(
        &self,
        id: &str,
        bundle: &Path,
        options: RestoreOptions<'_>,
        io: Io,
    ) -> Result<()>;

    /// The runtime's features document (OCI runtime spec, features), as it wrote it.
    async fn features(&self) -> Result<String>;

    /// The first line of the runtime's version text.
    async fn version(&self) -> Result<String>;

    /// True if the runtime certainly keeps nothing of this container, so that a clean-up need not
    /// run it.
    fn is_gone(&self, id: &str) -> bool;

    /// True if a signal for the init process may be sent without the runtime: it does no more
    /// than `kill(2)` itself.
    fn signals_directly(&self) -> bool;
}
