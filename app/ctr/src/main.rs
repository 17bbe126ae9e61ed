//! The command line: containerd's ctr, column for column.
//!
//! One file per group of commands below [`command`]; [`mod@format`] holds the layouts that they share;
//! [`connection`] is what the global flags say; [`arguments`] reads flags as Go's flag package does.

mod arguments;
mod cli;
mod command;
mod connection;
mod container_flags;
mod format;
mod log;
mod streams;

use std::process::ExitCode;

use base_errors::Error;

/// What `--version` and the client part of `version` tell: what we are compatible with.
pub(crate) const VERSION: &str = "2.1.9+ironhull";

/// Our own version.
pub(crate) const REVISION: &str = concat!("ironhull-", env!("CARGO_PKG_VERSION"));

/// Writes a line to the standard output.
macro_rules! say {
    ($($argument:tt)*) => {
        crate::line(format_args!($($argument)*))?
    };
}
pub(crate) use say;

fn line(text: std::fmt::Arguments<'_>) -> std::io::Result<()> {
    use std::io::Write as _;
    let mut stdout = std::io::stdout().lock();
    stdout.write_fmt(text)?;
    stdout.write_all(b"\n")
}

/// How a command ends: an error, or the exit status of this program.
pub(crate) type Outcome = base_errors::Result<u8>;

fn main() -> ExitCode {
    let matches = match cli::parse(std::env::args_os()) {
        Ok(matches) => matches,
        Err(status) => return ExitCode::from(status),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.into()),
    };
    let outcome = runtime.block_on(matches.run());
    // Threads that read our input may wait for ever; nobody waits for them.
    runtime.shutdown_background();
    match outcome {
        Ok(status) => ExitCode::from(status),
        Err(error) if is_broken_pipe(&error) => ExitCode::from(1),
        Err(error) => failed(&error),
    }
}

fn is_broken_pipe(error: &Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

fn failed(error: &Error) -> ExitCode {
    use std::io::Write as _;
    let mut stderr = std::io::stderr();
    let _ = writeln!(stderr, "ctr: {}", format::error(error));
    if let Some(hint) = error.hint() {
        let _ = writeln!(stderr, "hint: {hint}");
    }
    ExitCode::from(1)
}
