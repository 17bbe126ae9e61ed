//! The project's one entry: demo, test, bench, install.

fn main() {}
