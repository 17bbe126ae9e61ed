//! The daemon: flags, configuration, the list of built-in plugins, listeners, signals.
//!
//! [`daemon::run`] tells the start in order: configuration, log, folders, plugins, sockets, shims. What
//! is built in stands in `builtins.rs`, and nowhere else.

mod builtins;
mod cli;
mod collector;
mod config;
mod daemon;
mod database;
mod hook;
mod http;
mod publish;
mod recovery;
mod sockets;
mod tls;
mod v0;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let outcome = match v0::words() {
        Some(words) => v0::run(words),
        None => cli::Arguments::parse().run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("containerd: {error:#}");
            ExitCode::FAILURE
        }
    }
}
