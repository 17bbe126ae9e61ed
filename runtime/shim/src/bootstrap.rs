//! How a shim begins: its command line, `start`, and the split into the one who tells the address
//! and the one who serves.

pub mod arguments;
pub mod dialect;
pub mod socket;
mod start;

use std::io::{Read, Write};
use std::process::ExitCode;

use base_errors::Result;

use self::arguments::{Action, Arguments, PROGRAM};
use crate::{cleanup, info, serve};

/// The most that is read from standard input: options and bootstrap parameters are far smaller.
const MAX_INPUT: u64 = 4 << 20;

/// Runs the shim by the command line of this process.
pub(crate) fn run() -> ExitCode {
    let arguments = match Arguments::parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("{PROGRAM}: {error}");
            return ExitCode::from(2);
        }
    };
    match dispatch(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{PROGRAM}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(arguments: &Arguments) -> Result<()> {
    if arguments.version {
        return info::print_version();
    }
    if arguments.info {
        return info::print_info(&input()?);
    }
    if arguments.namespace.is_empty() {
        return Err(base_errors::Error::unknown("shim namespace cannot be empty"));
    }
    match arguments.action {
        Action::Start => start::start(arguments),
        Action::Delete => cleanup::delete(arguments),
        Action::Serve => serve::serve_socket(arguments),
    }
}

/// Everything on standard input, up to [`MAX_INPUT`] bytes.
fn input() -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::io::stdin().lock().take(MAX_INPUT).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Writes the answer to standard output, whole.
pub(crate) fn answer(bytes: &[u8]) -> Result<()> {
    let mut output = std::io::stdout().lock();
    output.write_all(bytes)?;
    output.flush()?;
    Ok(())
}
