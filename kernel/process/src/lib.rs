//! pidfds, subreaper, namespaces, rlimits, spawning without surprises.
//!
//! [`PidFd`] is a process that cannot be mistaken for another one: it is signalled and waited for
//! by descriptor. [`stat`], [`start_time`], [`is_alive`] and the rest of the reading functions ask
//! `/proc`. [`parse_signal`] takes a signal as clients spell it. [`Fork`], [`map_descriptors`] and
//! [`die_with_parent`] are for what happens between fork and exec.
//!
//! Errors: [`Error`]. Children between fork and exec report `std::io::Error`, as
//! `std::process::Command` does.
//!
//! Laws: a process id alone is a hint; who acts on a process that is not a child opens a
//! [`PidFd`] and then checks [`start_time`]. Nothing here reaps a process that it was not asked to.

#![allow(unsafe_code)]

mod child;
mod environment;
mod error;
mod exit;
mod limits;
mod malloc;
mod memory;
mod pidfd;
mod procfs;
mod signal;

pub use child::{Fork, die_with_parent, fork_single_threaded, map_descriptors};
pub use environment::set_variable;
pub use error::Error;
pub use exit::Exit;
pub use limits::{is_subreaper, oom_score_adj, raise_nofile, set_oom_score_adj, set_subreaper};
pub use malloc::{trim, tune_malloc};
pub use memory::{Memory, memory};
pub use pidfd::PidFd;
pub use procfs::{
    Stat, arguments, boot_id, is_alive, is_same, pid_namespace, pids, start_time, stat, zombie_exit,
};
pub use signal::{MAX_SIGNAL, parse_signal, send_signal, signal_name};

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
