//! What is asked for.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A process that shall run in a container.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub struct Order {
    /// The container's init process.
    pub init: i32,
    /// When it was started, in clock ticks since the machine's start: a pid alone may be another's.
    pub init_start: u64,
    /// The namespaces to join, as flags of `setns(2)`.
    pub namespaces: u32,
    /// The folders of its control groups of version 1.
    pub groups: Vec<PathBuf>,
    /// The folder of its control group of version 2.
    pub unified: Option<PathBuf>,
    /// The session keyring to join, by name.
    pub keyring: Option<String>,
    /// The badness for the OOM killer, if it is not the caller's.
    pub oom_score_adj: Option<i32>,
    /// Whether `execve` may not give privileges any more.
    pub no_new_privileges: bool,
    /// The capability sets of the process.
    pub capabilities: Capabilities,
    /// Limits of resources, in the order in which they are set.
    pub limits: Vec<Limit>,
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The supplementary groups.
    pub additional_gids: Vec<u32>,
    /// The program and its arguments. A name without a slash is searched in `PATH` of `env`.
    pub args: Vec<String>,
    /// The environment, `NAME=value`. Of two of a name the later one counts; `HOME` is added.
    pub env: Vec<String>,
    /// The working folder, absolute in the container.
    pub cwd: String,
    /// Where the pid of the process is written, as this machine numbers it.
    pub pid_file: PathBuf,
}

/// Capability sets, a bit each.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub struct Capabilities {
    /// What can ever be had.
    pub bounding: u64,
    /// What is used.
    pub effective: u64,
    /// What goes over to programs that take it.
    pub inheritable: u64,
    /// What may be used.
    pub permitted: u64,
    /// What goes over to every program.
    pub ambient: u64,
}

/// One limit of `setrlimit(2)`.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub struct Limit {
    /// Which one, by the kernel's number.
    pub resource: u32,
    /// What is enforced; the largest number is infinity.
    pub soft: u64,
    /// How far it may be raised; the largest number is infinity.
    pub hard: u64,
}
