//! The tar applier and the tree comparer against GNU tar, hostile archives, overlayfs and
//! containerd.

#![allow(clippy::unwrap_used, reason = "tests stop at the first failure")]
#![allow(clippy::print_stdout, reason = "skipped tests say why")]

mod archive;
mod containerd;
mod damage;
mod diff;
mod escape;
mod gnu_tar;
mod namespace;
mod overlay;
mod tree;
mod whiteout;
