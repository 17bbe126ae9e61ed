//! Rooted (`openat2`), durable, path-naming file operations: atomic replace, sync policy, trash, usage.
//!
//! [`Root`] resolves paths that nobody vouches for: links lead inside the root, whatever they say.
//! [`DirFd`] is a folder held open; its operations take one name, never a path. [`ParentCache`]
//! keeps the folders that a tar applier works in. [`write_atomic`] replaces a file so that a
//! reader, or a crash, meets the old or the new one. [`Trash`] takes trees out of sight at once and
//! removes them later. [`failpoint`] names points for tests of crashes. [`remove_all`], [`disk_usage`] and [`copy_tree`] walk trees of any depth
//! with few descriptors and never follow a link.
//!
//! Errors: [`Error`], which names the operation and the path.
//!
//! Laws: a name from outside never reaches the kernel as a path unless a root bounds it; no walk
//! needs more descriptors the deeper a foreign tree is.

mod atomic;
mod copy;
mod dir;
mod error;
pub mod failpoint;
mod levels;
mod parents;
mod remove;
mod root;
mod trash;
mod usage;

pub use atomic::{fsync_dir, read_file, sync_file_system, write_atomic};
pub use copy::copy_tree;
pub use dir::DirFd;
pub use error::{Error, errno_class, errno_text};
pub use parents::ParentCache;
pub use remove::remove_all;
pub use root::{Root, clean_path};
pub use trash::{Discarded, Trash};
pub use usage::{Usage, disk_usage};

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
