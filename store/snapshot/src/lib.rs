//! The snapshotter trait, its test suite, shared tree records, one module per snapshotter, the proxy.

mod snapshotter;

pub use snapshotter::{Info, Kind, Snapshotter, UpdateField, Usage};
