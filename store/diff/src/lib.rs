//! tar to folder tree and back, decompression, digests in the same pass.

mod differ;

pub use differ::{ApplyOptions, CompareOptions, Differ};
