//! The daemon: flags, configuration, the list of built-in plugins, listeners, signals.

fn main() {}
