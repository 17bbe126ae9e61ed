//! Threads that differ from the process in their working directory or mount namespace.
#![allow(unsafe_code)]

use rustix::io::Errno;
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::error::Failure;

/// Runs `act` on a thread of its own, parted from the process as `flags` say, and waits for it.
/// The thread ends with `act`, so nobody else ever runs on it.
pub(crate) fn apart<T: Send>(
    flags: UnshareFlags,
    act: impl FnOnce() -> Result<T, Failure> + Send,
) -> Result<T, Failure> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("mount".to_owned())
            .spawn_scoped(scope, || {
                // SAFETY: parting from the working directory or the mount namespace touches no
                // memory and no descriptor table; the thread's own descriptors stay shared.
                unsafe { unshare_unsafe(flags) }.map_err(Failure::at("unshare"))?;
                act()
            })
            .map_err(|_| Failure::System { step: "start a thread", errno: Errno::AGAIN })?;
        thread.join().unwrap_or_else(|_| Err(Failure::Invalid("the mount thread died".to_owned())))
    })
}
