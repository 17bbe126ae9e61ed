//! The shim's thin main: everything is in `runtime-shim`.

use std::process::ExitCode;

fn main() -> ExitCode {
    runtime_shim::main()
}
