//! How this machine has its control groups mounted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use kernel_mount::mountinfo::{self, MountInfo};

use crate::parse::{Membership, membership};
use crate::{Error, Result};

/// Where everybody mounts them.
const USUAL: &str = "/sys/fs/cgroup";

/// The most that is read of `/proc/<pid>/cgroup`: some dozen hierarchies of long paths.
const MAX_BYTES: u64 = 256 << 10;

/// The controllers of version 1 that a container's group is made in.
const CONTROLLERS: &[&str] = &[
    "cpu",
    "cpuacct",
    "cpuset",
    "memory",
    "devices",
    "freezer",
    "blkio",
    "pids",
    "hugetlb",
    "net_cls",
    "net_prio",
    "perf_event",
    "rdma",
    "name=systemd",
];

/// Which versions of control groups the machine runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// None are mounted.
    Unavailable,
    /// Version 1 alone.
    Legacy,
    /// Version 1 with its controllers, and version 2 beside it without them.
    Hybrid,
    /// Version 2 alone.
    Unified,
}

/// The mode of this machine, by what is mounted at `/sys/fs/cgroup`, as containerd decides it.
/// Asked once; it does not change while the machine runs.
#[must_use]
pub fn mode() -> Mode {
    static MODE: OnceLock<Mode> = OnceLock::new();
    *MODE.get_or_init(|| mode_at(Path::new(USUAL)))
}

/// The mode by what is mounted at `root`.
fn mode_at(root: &Path) -> Mode {
    let is_unified = |path: &Path| {
        rustix::fs::statfs(path)
            .map(|stat| u64::try_from(stat.f_type).unwrap_or(0) == CGROUP2_MAGIC)
    };
    match is_unified(root) {
        Err(_) => Mode::Unavailable,
        Ok(true) => Mode::Unified,
        Ok(false) if is_unified(&root.join("unified")).unwrap_or(false) => Mode::Hybrid,
        Ok(false) if root.read_dir().is_ok_and(|mut entries| entries.next().is_some()) => {
            Mode::Legacy
        }
        Ok(false) => Mode::Unavailable,
    }
}

/// What `statfs` says of version 2.
const CGROUP2_MAGIC: u64 = 0x6367_7270;

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    /// Where it is mounted.
    pub(crate) mount_point: PathBuf,
    /// Which group is at the mount point; `/` but in containers.
    root: PathBuf,
}

impl Hierarchy {
    /// The one that is mounted at `folder` of the usual place.
    pub(crate) fn usual(folder: &str) -> Self {
        Hierarchy { mount_point: Path::new(USUAL).join(folder), root: PathBuf::from("/") }
    }

    /// The folder of a group as `/proc/<pid>/cgroup` names it. Nothing if it is not below what is
    /// mounted here.
    pub(crate) fn folder(&self, group: &str) -> Option<PathBuf> {
        let group = Path::new(group);
        if group.components().any(|part| part == std::path::Component::ParentDir) {
            return None;
        }
        let below = match group.strip_prefix(&self.root) {
            Ok(below) => below,
            // In a cgroup namespace names start at its own root.
            Err(_) => group.strip_prefix("/").ok()?,
        };
        Some(self.mount_point.join(below))
    }
}

/// The mounted hierarchies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchies {
    mode: Mode,
    pub(crate) unified: Option<Hierarchy>,
    /// By controller. Controllers that are mounted together have the same hierarchy.
    pub(crate) legacy: BTreeMap<String, Hierarchy>,
}

impl Hierarchies {
    /// Reads them from the mount table.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if there are none.
    pub fn load() -> Result<Self> {
        let mounts = mountinfo::mounts()
            .map_err(|error| Error::Unavailable { reason: error.to_string() })?;
        Self::from_mounts(mode(), &mounts)
    }

    fn from_mounts(mode: Mode, mounts: &[MountInfo]) -> Result<Self> {
        let mut hierarchies = Hierarchies { mode, unified: None, legacy: BTreeMap::new() };
        for mount in mounts {
            let hierarchy =
                || Hierarchy { mount_point: mount.mount_point.clone(), root: mount.root.clone() };
            // Containers have theirs mounted as well; ours are the usual ones.
            let usual = mount.mount_point.starts_with(USUAL);
            match mount.kind.as_str() {
                "cgroup2" if usual || hierarchies.unified.is_none() => {
                    hierarchies.unified = Some(hierarchy());
                }
                "cgroup" => {
                    for option in mount.super_options.split(',') {
                        if CONTROLLERS.contains(&option)
                            && (usual || !hierarchies.legacy.contains_key(option))
                        {
                            hierarchies.legacy.insert(option.to_owned(), hierarchy());
                        }
                    }
                }
                _ => {}
            }
        }
        match mode {
            Mode::Unified if hierarchies.unified.is_some() => Ok(hierarchies),
            Mode::Legacy | Mode::Hybrid if !hierarchies.legacy.is_empty() => Ok(hierarchies),
            _ => {
                let reason = format!("nothing usable below {USUAL}");
                Err(Error::Unavailable { reason })
            }
        }
    }

    /// The mode.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The controllers of version 1 that are mounted, or those that version 2 has at its top.
    #[must_use]
    pub fn controllers(&self) -> Vec<String> {
        match (self.mode, &self.unified) {
            (Mode::Unified, Some(unified)) => {
                std::fs::read_to_string(unified.mount_point.join("cgroup.controllers"))
                    .unwrap_or_default()
                    .split_ascii_whitespace()
                    .map(str::to_owned)
                    .collect()
            }
            _ => self.legacy.keys().cloned().collect(),
        }
    }
}

/// Where a process is in each hierarchy.
pub(crate) fn membership_of(pid: i32) -> Result<Membership> {
    use std::io::Read as _;
    let path = PathBuf::from(format!("/proc/{pid}/cgroup"));
    let mut text = Vec::new();
    std::fs::File::open(&path)
        .and_then(|file| file.take(MAX_BYTES).read_to_end(&mut text))
        .map_err(|error| match error.raw_os_error() {
            // ESRCH: it ended between opening and reading.
            Some(3) => Error::NotFound { path: path.clone() },
            _ => Error::io("read", &path, &error),
        })?;
    Ok(membership(&String::from_utf8_lossy(&text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_found_by_their_controllers() {
        let table = b"30 1 0:26 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
            31 1 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
            32 1 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
            33 1 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
            34 1 0:27 /x /run/c/rootfs/sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let mounts = mountinfo::parse(table);
        let found = Hierarchies::from_mounts(Mode::Hybrid, &mounts).expect("hierarchies");
        assert_eq!(found.controllers(), ["cpu", "cpuacct", "memory", "name=systemd"]);
        assert_eq!(
            found.legacy["memory"].folder("/a/b").as_deref(),
            Some(Path::new("/sys/fs/cgroup/memory/a/b"))
        );
        assert_eq!(found.legacy["memory"].folder("/../b"), None);
        assert!(matches!(
            Hierarchies::from_mounts(Mode::Unified, &mounts[..2]),
            Err(Error::Unavailable { .. })
        ));
    }

    #[test]
    fn inside_a_container_a_group_is_below_the_mounted_one() {
        let hierarchy =
            Hierarchy { mount_point: "/sys/fs/cgroup/memory".into(), root: "/docker/1".into() };
        let folder = |group: &str| hierarchy.folder(group);
        assert_eq!(folder("/docker/1/x"), Some("/sys/fs/cgroup/memory/x".into()));
        assert_eq!(folder("/docker/1"), Some("/sys/fs/cgroup/memory/".into()));
        assert_eq!(folder("/x"), Some("/sys/fs/cgroup/memory/x".into()));
    }

    #[test]
    fn this_machine_has_a_mode() {
        let hierarchies = Hierarchies::load().expect("control groups");
        assert_ne!(hierarchies.mode(), Mode::Unavailable);
        assert!(!hierarchies.controllers().is_empty());
    }
}
