//! The mount manager: lists of mounts under a name, their records, and their end.
//!
//! * [`MountManager`]: activates a list, remembers it, deactivates it, and gives up what nothing
//!   needs any more.
//! * [`Activation`]: what was mounted, and what is left for the caller to mount.
//! * [`Owner`]: what an activation lives as long as: a lease, or an object that a label names.
//!
//! Errors: [`MountError`], which meets others as `base_errors::Error`.
//!
//! Laws: a record is there before the first of its mounts, so that a crash leaves none that nobody
//! knows; nothing is mounted or unmounted in a transaction; mounts without a record are garbage.

mod error;
mod manager;
mod owner;
mod records;

pub use error::MountError;
pub use kernel_mount::ActiveMount;
pub use manager::{ActivateOptions, MountManager};
pub use owner::{LABEL_REFERENCE, Owner};
pub use records::Activation;
