//! Whether the last run ended cleanly.
//!
//! `last-start` in the root folder holds the boot id of the machine and one word:
//!
//! ```text
//! checking   a start that has to check everything has not finished doing so
//! running    a daemon runs, or was killed
//! clean      the daemon stopped after it had flushed the file system
//! incomplete records are missing which a start has not made anew yet, or could not
//! ```
//!
//! A daemon that was killed loses nothing: the kernel has its data. So a start is unclean if the
//! machine has booted since, without a clean stop before it. This costs one small file at the
//! first start after a boot, and at each stop.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

const NAME: &str = "last-start";

/// The state of [`Marker::is_incomplete`].
const INCOMPLETE: &str = "incomplete";

/// The most bytes of the file that are read.
const MAX_SIZE: u64 = 4096;

/// The file.
#[derive(Debug)]
pub struct Marker {
    path: PathBuf,
    boot: String,
    unclean: bool,
    incomplete: bool,
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
        let incomplete = found.as_ref().is_some_and(|text| state(text) == Some(INCOMPLETE));
        let marker = Marker { path, boot, unclean, incomplete };
        let state = match (incomplete, unclean) {
            (true, _) => INCOMPLETE,
            (false, true) => "checking",
            (false, false) => "running",
        };
        if found.as_deref() != Some(&marker.text(state)) {
            marker.write(state);
        }
        marker
    }

    /// True if files may be missing or torn.
    pub fn is_unclean(&self) -> bool {
        self.unclean
    }

    /// True if records may be missing that can be made anew.
    pub fn is_incomplete(&self) -> bool {
        self.incomplete
    }

    /// A database is going to be replaced, or falls back: records will be missing.
    pub fn begin_mending(&mut self) {
        if !self.incomplete {
            self.incomplete = true;
            self.write(INCOMPLETE);
        }
    }

    /// Everything has been checked; `complete`: and all that was missing is there again.
    pub fn checked(&mut self, complete: bool) {
        if complete && (self.unclean || self.incomplete) {
            self.incomplete = false;
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
        if !self.incomplete {
            self.write("clean");
        }
    }

    fn text(&self, state: &str) -> String {
        format!("{} {state}\n", self.boot)
    }

    fn write(&self, state: &str) {
        let text = self.text(state);
        // DURABILITY: what the next start believes (fs.atomic.sync, fs.atomic.sync-name).
        let written = base_fs::write_atomic(&self.path, text.as_bytes(), 0o600, true);
        if let Err(error) = written.or_else(|error| self.write_in_place(&text).map_err(|_| error)) {
            tracing::warn!(%error, "cannot note the state of the daemon");
        }
    }

    /// A full disk still has the block of the file that is there.
    fn write_in_place(&self, text: &str) -> std::io::Result<()> {
        let mut file = fs::File::options().write(true).open(&self.path)?;
        file.write_all(text.as_bytes())?;
        file.set_len(text.len() as u64)?;
        file.sync_all()
    }
}

fn state(text: &str) -> Option<&str> {
    Some(text.trim_end().split_once(' ')?.1)
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
        let mut second = Marker::begin(root.path());
        assert!(second.is_unclean(), "the check has not finished");
        second.checked(true);
        let third = Marker::begin(root.path());
        assert!(!third.is_unclean(), "killed, and the machine runs on");
        third.stop();
        assert!(!Marker::begin(root.path()).is_unclean());
    }

    #[test]
    fn what_could_not_be_completed_stays_so_until_it_is() {
        let root = tempfile::tempdir().expect("a folder");
        let mut first = Marker::begin(root.path());
        assert!(!first.is_incomplete());
        first.begin_mending();
        first.checked(false);
        first.stop();
        let mut second = Marker::begin(root.path());
        assert!(second.is_incomplete() && second.is_unclean(), "a clean stop says nothing of it");
        assert!(Marker::begin(root.path()).is_incomplete(), "killed before it could try");
        second.checked(true);
        assert!(!Marker::begin(root.path()).is_incomplete());
    }
}
