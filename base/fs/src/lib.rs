//! Rooted (`openat2`), durable, path-naming file operations: atomic replace, sync policy, trash, usage.
