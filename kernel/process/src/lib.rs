//! pidfds, subreaper, namespaces, rlimits, spawning without surprises.
