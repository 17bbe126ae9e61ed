//! The environment of this process, which its children inherit.

use std::fs;

use rustix::io::Errno;

use crate::{Error, Result};

/// Where the threads of this process are.
const THREADS: &str = "/proc/self/task";

/// Sets a variable of the environment, for this process and the programs that it starts. To be
/// called before threads start: others might be reading the environment at this moment.
///
/// # Errors
/// [`Error::System`] with `EBUSY` if there are threads already; [`Error::Proc`] if nobody knows.
pub fn set_variable(name: &str, value: &str) -> Result<()> {
    let threads = fs::read_dir(THREADS).map_err(|error| Error::Proc {
        path: THREADS.into(),
        errno: Errno::from_io_error(&error).unwrap_or(Errno::IO),
    })?;
    if threads.count() != 1 {
        return Err(Error::System { operation: "setenv", pid: 0, errno: Errno::BUSY });
    }
    // SAFETY: this is the only thread, so nobody reads or changes the environment meanwhile.
    unsafe { std::env::set_var(name, value) };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_threads_keeps_its_environment() {
        // The test runner has threads of its own.
        let refused = std::thread::spawn(|| set_variable("IRONHULL_TEST", "x")).join().unwrap();
        assert!(matches!(refused, Err(Error::System { errno: Errno::BUSY, .. })), "{refused:?}");
        assert!(std::env::var_os("IRONHULL_TEST").is_none());
    }
}
