//! Looking at processes through `/proc`.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal};

/// The arguments of `pid`; empty if it is gone or a zombie.
#[must_use]
pub fn arguments(pid: i32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    bytes
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty())
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect()
}

/// All process ids.
#[must_use]
pub fn all() -> Vec<i32> {
    let Ok(folder) = fs::read_dir("/proc") else { return Vec::new() };
    folder.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// Processes with an argument for which `wanted` is true.
pub fn with_argument(wanted: impl Fn(&str) -> bool) -> Vec<i32> {
    all().into_iter().filter(|&pid| arguments(pid).iter().any(|word| wanted(word))).collect()
}

/// True while `pid` runs (a zombie does not).
#[must_use]
pub fn runs(pid: i32) -> bool {
    state(pid).is_some_and(|state| state != 'Z' && state != 'X')
}

/// The letter of the state in `/proc/PID/stat`.
#[must_use]
pub fn state(pid: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// The parent of `pid`: of a container's first process, its shim.
#[must_use]
pub fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

/// Sends a signal.
///
/// # Errors
///
/// There is no such process.
pub fn signal(pid: i32, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(pid).context("process id 0")?;
    rustix::process::kill_process(pid, signal)
        .with_context(|| format!("signal {signal:?} to {}", pid.as_raw_nonzero()))
}

/// The folders that the control groups `/NAME` have in the hierarchies of this machine.
#[must_use]
pub fn cgroups(name: &str) -> Vec<PathBuf> {
    let root = PathBuf::from("/sys/fs/cgroup");
    let mut folders = vec![root.join(name)];
    if let Ok(entries) = fs::read_dir(&root) {
        folders.extend(entries.flatten().map(|entry| entry.path().join(name)));
    }
    folders.retain(|folder| folder.is_dir());
    folders
}

/// The control groups inside `folder`, inner ones first; not `folder` itself.
#[must_use]
pub fn inner_cgroups(folder: &std::path::Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    if let Ok(entries) = fs::read_dir(folder) {
        for path in entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()) {
            found.extend(inner_cgroups(&path));
            found.push(path);
        }
    }
    found
}

/// True if control groups of this machine can limit memory.
#[must_use]
pub fn has_memory_controller() -> bool {
    std::path::Path::new("/sys/fs/cgroup/memory").is_dir()
        || fs::read_to_string("/sys/fs/cgroup/cgroup.controllers")
            .is_ok_and(|names| names.split_whitespace().any(|name| name == "memory"))
}
