//! The project's one entry: demo, test, fuzz, bench, install.
#![expect(clippy::print_stdout, reason = "a command line")]

mod bench;
mod build;
mod closure;
mod command;
mod criu;
mod demo;
mod fuzz;
mod gzip;
mod host;
mod install;
mod peers;
mod proxies;
mod test;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Everything one does with this repository.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build, start the daemon on private folders, import an image, run a container, show it all, stop.
    Demo,
    /// Set up what the tests need and run all of them.
    Test(test::Options),
    /// Measure ours and Debian's containerd side by side; writes the table of the README.
    Bench(bench::Options),
    /// Run libFuzzer on the parsers, for a bounded time.
    Fuzz(fuzz::Options),
    /// Build for release and install the programs and the systemd unit.
    Install(install::Options),
    /// Fetch the programs of other makers that tests and benches run against.
    Peers,
    /// Run a command on a machine with version 2 of control groups and systemd.
    Vm(vm::Options),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().task {
        Task::Demo => demo::run(),
        Task::Test(options) => test::run(&options),
        Task::Bench(options) => bench::run(&options),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Install(options) => install::run(&options),
        Task::Peers => peers::fetch().map(|peers| println!("{}", peers.display())),
        Task::Vm(options) => match vm::run(&options) {
            Ok(status) => return ExitCode::from(status),
            Err(error) => Err(error),
        },
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
