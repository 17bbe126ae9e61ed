//! Rooted (`openat2`), durable, path-naming file operations: atomic replace, sync policy, trash, usage.

mod error;

pub use error::{Error, errno_class, errno_text};
