//! containerd's error classes, the [`Coded`] trait, chains and hints; no transport in it.
//!
//! Every family of operations has its own `thiserror` enum; each variant belongs to a [`Class`]
//! through [`Coded`]. Where families meet (a store behind `dyn`, a service), they become an
//! [`Error`]: the class, the text and the hint stay, the enum is kept as the source.
//!
//! Text rule, which clients match on: lower case, outer context first, the class text last and
//! exactly once: `image "x": not found`.

mod class;
mod coded;
mod error;
mod system;

pub use class::Class;
pub use coded::Coded;
pub use error::{Error, Result, ResultExt};
pub use system::errno_text;
