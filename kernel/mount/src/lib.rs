//! Mount lists to kernel state and back; idmaps; detaching without stalling callers.
//!
//! A [`Mount`] is what a snapshotter answers: kind, source, options. [`mount_all`] applies a list
//! in its order and takes back what it did when one fails. [`unmount_all`] takes away all that is
//! stacked on a path; a path that is not mounted is no error. [`TempMount`] is a list mounted in a
//! folder of its own for as long as it is needed. [`read_only_copy`] is a mount that nobody else sees.
//! [`mountinfo`] reads the kernel's table.
//! [`transform`] does what described mounts (`format/`, `mkdir/`, `mkfs/`) ask for before they are
//! mounted. Subvolumes of btrfs, the flag that forbids changes, and quotas of projects are here too.
//!
//! Errors: [`Error`], which names kind, source, target and options of the mount.
//!
//! Laws: every function here may block in the kernel, so async callers use a blocking thread. The
//! working directory and the namespaces of the process are never changed: what needs another one
//! runs on a short-lived thread of its own.

mod activate;
mod attributes;
mod btrfs;
mod error;
mod fuse;
mod idmap;
mod loop_device;
mod mount;
pub mod mountinfo;
mod options;
mod overlay;
mod temp;
mod thread;
mod transform;
mod tree;
mod unmount;

pub use activate::{activate_one, needs_activation};
pub use attributes::{limit_project, set_immutable, set_project};
pub use btrfs::{create_subvolume, delete_subvolume, is_btrfs, snapshot_subvolume, subvolume_id};
pub use error::Error;
pub use mount::{Mount, mount_all, read_only, without_volatile};
pub use rustix::mount::UnmountFlags;
pub use temp::{TEMP_PREFIX, TempMount, clean_temp_mounts};
pub use transform::{ActiveMount, Step, steps, transform};
pub use tree::read_only_copy;
pub use unmount::{detach, unmount, unmount_all, unmount_recursive};

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
