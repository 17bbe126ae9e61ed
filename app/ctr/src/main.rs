//! The command line: containerd's ctr, column for column.

fn main() {}
