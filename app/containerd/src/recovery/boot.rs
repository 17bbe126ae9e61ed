//! Whether the last run ended cleanly.
//!
//! `last-start` in the root folder holds the boot id of the machine and one word:
//!
//! ```text
//! checking   a start that has to check everything has not finished doing so
//! running    a daemon runs, or was killed
//! clean      the daemon stopped after it had flushed the file system
//! ```
//!
//! A daemon that was killed loses nothing: the kernel has its data. So a start is unclean if the
//! machine has booted since, without a clean stop before it. This costs one small file at the
//! first start after a boot, and at each stop.

use std::path::{Path, PathBuf};

const NAME: &str = "last-start";

/// The most bytes of the file that are read.
const MAX_SIZE: u64 = 4096;

/// The file.
#[derive(Debug)]
pub struct Marker {
    path: PathBuf,
    boot: String,
    unclean: bool,
}

impl Marker {
    /// Reads what the last run left in `root`, and says that a daemon runs.
    pub fn begin(root: &Path) -> Marker {
        let boot = kernel_process::boot_id().unwrap_or_else(|error| {
            tracing::warn!(%error, "the machine does not tell its boot id");
            "unknown".to_owned()
        });
        let path = root.join(NAME);
        let found = base_fs::read_file(&path, MAX_SIZE).ok();
        let found = found.and_then(|bytes| String::from_utf8(bytes).ok());
        // A root that another daemon has used has no such file, and nobody flushed anything.
        let used = root.join("io.containerd.metadata.v1.bolt").exists();
        let unclean = match &found {
            Some(text) => unclean(text, &boot),
            None => used,
        };
        let marker = Marker { path, boot, unclean };
        let state = if unclean { "checking" } else { "running" };
        if found.as_deref() != Some(&marker.text(state)) {
            marker.write(state);
        }
        marker
    }

    /// True if files may be missing or torn.
    pub fn is_unclean(&self) -> bool {
        self.unclean
    }

    /// Everything has been checked.
    pub fn checked(&self) {
        if self.unclean {
            self.write("running");
        }
    }

    /// The daemon stops: flushes all that it has written. Blocks.
    pub fn stop(&self) {
        if let Some(root) = self.path.parent()
            && let Err(error) = base_fs::sync_file_system(root)
        {
            tracing::warn!(%error, "cannot flush the root folder: the next start checks everything");
            return;
        }
        self.write("clean");
    }

    fn text(&self, state: &str) -> String {
        format!("{} {state}\n", self.boot)
    }

    fn write(&self, state: &str) {
        // DURABILITY: what the next start believes (fs.atomic.sync, fs.atomic.sync-name).
        if let Err(error) =
            base_fs::write_atomic(&self.path, self.text(state).as_bytes(), 0o600, true)
        {
            tracing::warn!(%error, "cannot note the state of the daemon");
        }
    }
}

fn unclean(text: &str, boot: &str) -> bool {
    match text.trim_end().split_once(' ') {
        Some((_, "clean")) => false,
        Some((before, "running")) => before != boot,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_without_a_clean_stop_before_it_is_unclean() {
        assert!(!unclean("a clean\n", "b"));
        assert!(!unclean("a running\n", "a"));
        assert!(unclean("a running\n", "b"));
        assert!(unclean("a checking\n", "a"));
        assert!(unclean("", "a"));
    }

    #[test]
    fn a_stop_makes_the_next_start_clean_and_a_check_is_finished_first() {
        let root = tempfile::tempdir().expect("a folder");
        assert!(!Marker::begin(root.path()).is_unclean(), "a new root");
        std::fs::write(root.path().join(NAME), "another running\n").expect("write");
        assert!(Marker::begin(root.path()).is_unclean());
        let second = Marker::begin(root.path());
        assert!(second.is_unclean(), "the check has not finished");
        second.checked();
        let third = Marker::begin(root.path());
        assert!(!third.is_unclean(), "killed, and the machine runs on");
        third.stop();
        assert!(!Marker::begin(root.path()).is_unclean());
    }
}
