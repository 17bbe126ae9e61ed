//! The harness of the tests and benches that run whole programs.
//!
//! A [`World`] is one daemon with its own folder, socket, mount namespace, `/run/containerd` and
//! containerd namespace. Daemon, shim and `ctr` are chosen one by one from four [`Maker`]s: ours,
//! and Debian's containerd 1.6, 1.7 and 2.1. Each test with a real client has to pass with Debian's
//! daemon as well: `IRONHULL_E2E_DAEMON=bookworm` (or `trixie`, `forky`) runs the suites that way,
//! and so proves the tests themselves.
//!
//! Laws: a world kills only what it started; it fails when something is left; nothing waits for a
//! fixed time, every wait asks again until [`wait::PATIENCE`] is over.

pub mod churn;
pub mod client;
pub mod docker;
pub mod image;
pub mod memory;
pub mod process;
pub mod programs;
pub mod running;
pub mod table;
pub mod terminal;
pub mod v0;
pub mod wait;
pub mod words;
pub mod world;

pub use programs::Maker;
pub use running::{Output, Running};
pub use table::Table;
pub use world::World;
