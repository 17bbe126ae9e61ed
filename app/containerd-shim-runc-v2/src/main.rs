//! The shim's thin main.

fn main() {}
