//! Ours and Debian's containerd side by side: `cargo xtask bench`.
//!
//! The bench lives in this folder; each measure is one module.

fn main() {}
