//! What a world has left behind, and its removal.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use rustix::process::Signal;

use super::World;
use crate::{process, wait};

/// How long the clean-up that a daemon does beside its answers may take.
const CLEANING: Duration = Duration::from_secs(20);

impl World {
    /// Fails unless all that belonged to tasks is gone: shims, processes, mounts, control groups,
    /// fifos, sockets, state of the runtime, bundles, temporary files.
    ///
    /// # Errors
    ///
    /// The text names what is left.
    pub fn assert_clean(&self) -> Result<()> {
        self.assert_clean_but(|_| false)
    }

    /// The same, but for what is `allowed`, as [`leftovers`](Self::leftovers) tells it.
    ///
    /// # Errors
    ///
    /// The text names what is left.
    pub fn assert_clean_but(&self, allowed: impl Fn(&str) -> bool) -> Result<()> {
        wait::until_within(CLEANING, "nothing to be left behind", || {
            let mut left = self.leftovers();
            left.retain(|left| !allowed(left));
            if left.is_empty() { Ok(()) } else { bail!("left: {}", left.join(", ")) }
        })
    }

    /// The shims of this world.
    #[must_use]
    pub fn shims(&self) -> Vec<i32> {
        let mine = |pid: i32| {
            let words = process::arguments(pid);
            words.first().is_some_and(|word| word.contains("containerd-shim"))
                && words.contains(&self.namespace)
        };
        process::all().into_iter().filter(|&pid| mine(pid)).collect()
    }

    /// The processes in control groups of this world.
    #[must_use]
    pub fn contained(&self) -> Vec<i32> {
        let group = format!("/{}/", self.namespace);
        process::all()
            .into_iter()
            .filter(|pid| {
                fs::read_to_string(format!("/proc/{pid}/cgroup"))
                    .is_ok_and(|groups| groups.contains(&group))
            })
            .collect()
    }

    /// All that is left, one text for each.
    #[must_use]
    pub fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        for pid in self.shims() {
            left.push(format!("shim {pid} ({})", process::arguments(pid).join(" ")));
        }
        for pid in self.contained() {
            left.push(format!("process {pid} ({})", process::arguments(pid).join(" ")));
        }
        for folder in process::cgroups(&self.namespace) {
            for group in process::inner_cgroups(&folder) {
                left.push(format!("control group {}", group.display()));
            }
        }
        let place = self.folder.path().display().to_string();
        for point in self.mounts.mount_points().unwrap_or_default() {
            if point.starts_with(&place) || point.starts_with("/run/containerd/") {
                left.push(format!("mount {point}"));
            }
        }
        for (what, folder) in self.folders() {
            for entry in entries(&folder) {
                left.push(format!("{what} {}", entry.display()));
            }
        }
        left
    }

    /// The folders that have to be empty when no task is there.
    fn folders(&self) -> Vec<(&'static str, PathBuf)> {
        let inside = |path: &str| self.inside(Path::new(path));
        let mut folders = vec![
            ("fifo", inside("/run/containerd/fifo")),
            ("socket", inside("/run/containerd/s")),
            ("fifo", inside("/run/containerd/io.containerd.grpc.v1.fifo")),
            ("runtime state", inside("/run/containerd/runc").join(&self.namespace)),
            ("runtime state", inside("/run/runc")),
            ("temporary file", self.path("tmp")),
        ];
        for runtime in ["io.containerd.runtime.v2.task", "io.containerd.runtime.v1.linux"] {
            folders.push(("bundle", self.state().join(runtime).join(&self.namespace)));
            folders.push(("work folder", self.root().join(runtime).join(&self.namespace)));
        }
        folders
    }

    /// Kills what may be left of tasks.
    pub(super) fn end_processes(&self) {
        let ended = wait::until_within(CLEANING, "processes to end", || {
            let mut pids = self.shims();
            pids.extend(self.contained());
            for &pid in &pids {
                let _ = process::signal(pid, Signal::KILL);
            }
            if pids.is_empty() { Ok(()) } else { bail!("{pids:?}") }
        });
        if let Err(error) = ended {
            eprintln!("warning: {error:#}");
        }
    }

    /// Removes the world's control groups.
    pub(super) fn remove_cgroups(&self) {
        let removed = wait::until_within(CLEANING, "control groups to go", || {
            for folder in process::cgroups(&self.namespace) {
                for group in process::inner_cgroups(&folder) {
                    let _ = fs::remove_dir(group);
                }
                let _ = fs::remove_dir(folder);
            }
            let left = process::cgroups(&self.namespace);
            if left.is_empty() { Ok(()) } else { bail!("{left:?}") }
        });
        if let Err(error) = removed {
            eprintln!("warning: {error:#}");
        }
    }
}

/// What is in `folder`, if it is there.
pub(super) fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default()
}
