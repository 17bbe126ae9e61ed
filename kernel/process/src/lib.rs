//! pidfds, subreaper, namespaces, rlimits, spawning without surprises.

#![allow(unsafe_code)]

mod child;

pub use child::{Fork, die_with_parent, fork_single_threaded, map_descriptors};
