//! What a process's memory costs the machine.

use crate::{Error, Result, procfs};

/// Figures of `/proc/<pid>/smaps_rollup`, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Resident, shared pages counted in full.
    pub resident: u64,
    /// Resident, shared pages divided among who shares them.
    pub proportional: u64,
    /// Resident pages that are this process's alone and were written: what it truly costs.
    pub private_dirty: u64,
    /// Resident pages that are this process's alone and were not written.
    pub private_clean: u64,
    /// Pages without a file behind them.
    pub anonymous: u64,
    /// Swapped out.
    pub swap: u64,
}

/// Reads what a process's memory costs; 0 as process id means this process. The kernel walks all
/// of the process's mappings for it: some tens of microseconds, more for large processes.
///
/// # Errors
/// [`Error::NotFound`] if there is no such process.
pub fn memory(pid: i32) -> Result<Memory> {
    let path = procfs::path(pid, "smaps_rollup");
    let text = procfs::read(pid, &path)?;
    let memory = parse(&text);
    // Kernel threads have no memory and an empty file; a live program always has some.
    if memory.resident == 0 && !text.contains("Rss:") {
        return Err(Error::Format { path });
    }
    Ok(memory)
}

fn parse(text: &str) -> Memory {
    let mut memory = Memory::default();
    for line in text.lines() {
        let Some((name, value)) = line.split_once(':') else { continue };
        let field = match name {
            "Rss" => &mut memory.resident,
            "Pss" => &mut memory.proportional,
            "Private_Dirty" => &mut memory.private_dirty,
            "Private_Clean" => &mut memory.private_clean,
            "Anonymous" => &mut memory.anonymous,
            "Swap" => &mut memory.swap,
            _ => continue,
        };
        let kibibytes =
            value.trim().strip_suffix(" kB").and_then(|value| value.parse::<u64>().ok());
        *field = kibibytes.unwrap_or(0).saturating_mul(1024);
    }
    memory
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_bytes() {
        let text = "00400000-7fff r-xp 0 00:00 0 [rollup]\nRss:  12 kB\nPrivate_Dirty: 3 kB\n";
        let memory = parse(text);
        assert_eq!((memory.resident, memory.private_dirty), (12 << 10, 3 << 10));
    }

    #[test]
    fn this_process_has_written_memory() {
        let memory = memory(0).expect("memory");
        assert!(memory.private_dirty > 0 && memory.resident >= memory.private_dirty);
    }
}
