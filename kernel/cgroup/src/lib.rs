//! Control groups v1 and v2: read metrics in one sweep, watch OOM and emptiness.
//!
//! [`Hierarchies`] is how this machine has its groups mounted ([`Mode`]). [`Group`] is one group in
//! it: made, joined, listed, measured ([`Group::metrics`]) and removed. [`Remains`] is what a dead
//! maker has left of one. [`OomWatch`] is a descriptor for an event loop that tells when the kernel
//! killed for lack of memory, when a group has lost its last process and when it is gone.
//! [`expect_moves`] gives a head start to whoever moves processes.
//!
//! Errors: [`Error`].
//!
//! Laws: a group's metrics are read through one open folder, so that they are all of one group
//! even when another one gets its name meanwhile. A file that this kernel does not have leaves
//! its fields at zero; a group that is gone is an error.

mod error;
mod folder;
mod group;
mod hierarchy;
mod host;
mod lead;
mod metrics;
mod oom;
mod parse;
mod remains;
mod v1;
mod v2;

pub use error::Error;
pub use group::Group;
pub use hierarchy::{Hierarchies, Mode, mode};
pub use host::system_cpu_nanoseconds;
pub use lead::{Lead, expect_moves};
pub use metrics::Metrics;
pub use oom::{OomReport, OomWatch};
pub use remains::Remains;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
