//! Descriptors of any kind under the runtime's poller.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers `inner`, which must not block, for `interest`.
///
/// # Errors
/// The system's error if it cannot be polled, as a regular file cannot.
pub fn watch<T: AsFd + AsRawFd>(inner: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    #[expect(deprecated, reason = "its successor is unsafe; `AsFd` holds what that one asks for")]
    AsyncFd::with_interest(inner, interest)
}
