//! The C library's allocator: fewer arenas, and memory given back.

/// Limits the allocator to `arenas` arenas. Each arena keeps freed memory of its own; two are
/// enough for a daemon whose threads mostly wait. To be called before threads start.
///
/// False where the C library has no such setting.
pub fn tune_malloc(arenas: i32) -> bool {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: sets a number in the allocator; it takes its own lock.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, arenas) == 1 }
    }
    #[cfg(not(target_env = "gnu"))]
    {
        let _ = arenas;
        false
    }
}

/// Gives freed memory back to the system, after a burst of work. Takes a millisecond or so for
/// each hundred megabytes that were in use. True if something was given back.
pub fn trim() -> bool {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: works on free memory of the allocator alone; it takes its own locks.
        unsafe { libc::malloc_trim(0) == 1 }
    }
    #[cfg(not(target_env = "gnu"))]
    {
        false
    }
}

#[cfg(test)]
mod tests {
    #[test]
    #[cfg(target_env = "gnu")]
    fn the_allocator_takes_the_limit() {
        assert!(super::tune_malloc(2));
        let _ = super::trim();
    }
}
