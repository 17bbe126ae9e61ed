//! The end of a container that has nothing left to end.
//!
//! `runc delete` kills what still runs, removes the control groups and the resource group, the
//! folder with its state, and runs the `poststop` hooks. Where no process and no hook is left, only
//! folders are, and runc's state lists them: then they are removed here. Anything unexpected is
//! left to runc, which does not mind that a part is gone already.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use serde::Deserialize;

/// What runc knows about a container, in its folder.
pub(crate) const STATE: &str = "state.json";

/// The largest state: the spec, and a little more.
pub(crate) const MAX_STATE: u64 = 32 << 20;

/// The part of the state that is of interest here.
#[derive(Deserialize)]
struct State {
    cgroup_paths: BTreeMap<String, PathBuf>,
    #[serde(default)]
    intel_rdt_path: String,
}

/// Removes what runc keeps in `folder` and in the control groups of a container whose processes
/// have all ended.
///
/// False if something is left, for `runc delete`.
pub(crate) fn discard(folder: &Path) -> bool {
    let Ok(text) = base_fs::read_file(folder.join(STATE), MAX_STATE) else { return false };
    let Ok(state) = serde_json::from_slice::<State>(&text) else { return false };
    if !state.intel_rdt_path.is_empty() || state.cgroup_paths.is_empty() {
        return false;
    }
    // Controllers that are mounted together share a folder.
    let groups: BTreeSet<PathBuf> = state.cgroup_paths.into_values().collect();
    let removed = |group: &PathBuf| {
        // No recursion and no second try: who has groups below, or is late to leave, is runc's.
        group.is_absolute() && matches!(rustix::fs::rmdir(group), Ok(()) | Err(Errno::NOENT))
    };
    groups.iter().all(removed) && fs::remove_dir_all(folder).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A container with the folders of its groups.
    fn container(extra: &str) -> (tempfile::TempDir, PathBuf, [PathBuf; 2]) {
        let root = tempfile::tempdir_in("/dev/shm").unwrap();
        let groups = [root.path().join("cpu/c1"), root.path().join("memory/c1")];
        for group in &groups {
            fs::create_dir_all(group).unwrap();
        }
        let [cpu, memory] = &groups;
        let folder = root.path().join("state/c1");
        fs::create_dir_all(&folder).unwrap();
        let state = format!(
            r#"{{"id":"c1","cgroup_paths":{{"cpu":{cpu:?},"cpuacct":{cpu:?},"memory":{memory:?},
                "pids":"/sys/fs/cgroup/no/such/group"}}{extra}}}"#
        );
        fs::write(folder.join(STATE), state).unwrap();
        (root, folder, groups)
    }

    #[test]
    fn groups_and_state_are_removed_and_nothing_above_them() {
        let (root, folder, groups) = container(r#","intel_rdt_path":"","config":{}"#);
        assert!(discard(&folder));
        assert!(!folder.exists());
        assert!(groups.iter().all(|group| !group.exists()));
        assert!(root.path().join("cpu").exists() && root.path().join("state").exists());
        assert!(!discard(&folder), "what is not there is runc's to explain");
    }

    #[test]
    fn anything_unexpected_is_left_to_runc() {
        let (_root, folder, [cpu, _]) = container(r#","intel_rdt_path":"/sys/fs/resctrl/c1""#);
        assert!(!discard(&folder));
        assert!(folder.exists() && cpu.exists());

        let (_root, folder, [_, memory]) = container("");
        fs::create_dir(memory.join("below")).unwrap();
        assert!(!discard(&folder));
        assert!(folder.join(STATE).exists() && memory.join("below").exists());

        let (_root, folder, _) = container("");
        for state in ["", "{}", r#"{"cgroup_paths":null}"#, r#"{"cgroup_paths":{}}"#] {
            fs::write(folder.join(STATE), state).unwrap();
            assert!(!discard(&folder), "{state}");
        }
        fs::write(folder.join(STATE), r#"{"cgroup_paths":{"cpu":"relative"}}"#).unwrap();
        assert!(!discard(&folder));
        assert!(folder.exists());
    }
}
