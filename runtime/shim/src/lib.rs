//! The library of our shim: task service, stdio, reaping, exit records, bootstrap dialects.
//!
//! One process supervises the containers of one group (a pod, or a single container). The daemon
//! runs it as `containerd-shim-runc-v2 … start`; it binds its socket, forks once while it still
//! has one thread, tells its address in the dialect it was asked in, and serves. The binary is
//! [`main`] and nothing else.
//!
//! - [`bootstrap`]: the command line, the dialects of `start`, the socket.
//! - [`exit_record`]: how a container ended, in its bundle: the truth behind the exit event.
//! - the task service on ttrpc, under its names of version 2 and 3.
//!
//! Errors: [`base_errors::Error`] within, statuses on the wire; texts are those of containerd's own
//! shim, because clients match on them.
//!
//! Laws: one thread, and no blocking work that can take long (a second thread waits for a lock of the
//! kernel while a runtime starts, and does nothing else); an exit is recorded before it is
//! announced; a stalled reader of output stalls its own process and nothing else; the announcement
//! of an exec's exit comes before that of its container, and both after their start; output that
//! has a reader is delivered to its last byte; a runtime that hangs is killed; a shim that nobody
//! needs leaves by itself.
//!
//! Four variables of the environment are for operators: `IRONHULL_SHIM_IDLE`, the seconds after
//! which an unneeded shim leaves; `IRONHULL_RUNTIME_LIMIT`, the seconds that a command of the runtime
//! may take; `IRONHULL_CHECKPOINT_LIMIT`, those of a checkpoint or a restoration;
//! `IRONHULL_RUNTIME_EXEC`, with any value: every exec is left to the runtime, also those that the shim
//! can carry out by itself.

pub mod bootstrap;
mod cleanup;
mod container;
mod create;
mod events;
pub mod exit_record;
mod idle;
mod info;
mod log;
mod options;
mod process;
mod sandbox;
mod serve;
mod service;
mod spec;
mod stdio;
mod stragglers;
mod supervise;

use std::process::ExitCode;

pub use bootstrap::arguments::PROGRAM;

/// Runs the shim by the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    // Its own helper, in the middle of an exec: nothing else may happen before.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == kernel_enter::ARGUMENT) {
        return kernel_enter::carry_out();
    }
    bootstrap::run()
}

/// Locks, also after a panic elsewhere: the data of this crate is consistent between statements.
pub(crate) fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
