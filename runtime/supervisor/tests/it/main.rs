//! The supervisor against real shims and against shims that misbehave.
//!
//! Real shims: those of containerd below `$IRONHULL_PEERS` (`bookworm`, `forky`), and our own beside
//! the test program. What is not there is skipped, and said so.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod fake;
mod harness;
mod hostile;
mod real;
