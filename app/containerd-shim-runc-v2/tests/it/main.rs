//! The built shim, driven over ttrpc as a daemon drives it, with a real runc and busybox.
//!
//! Every test has a world of its own on tmpfs and checks at its end that no process, mount, socket
//! or state of the runtime is left.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod bad_input;
mod bootstrap;
mod enter;
mod execs;
mod exits;
mod failures;
mod life;
mod sandbox;
mod streams;
mod unified;
mod world;
