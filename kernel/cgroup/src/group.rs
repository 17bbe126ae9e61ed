//! One control group: made, joined, listed, removed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;

use crate::folder::Folder;
use crate::hierarchy::{Hierarchies, Mode, membership_of};
use crate::{Error, Metrics, Result, v1, v2};

/// Tries to remove a group whose last process has just ended, and the first pause between them;
/// it doubles. A third of a second in all.
const REMOVE_TRIES: u32 = 7;
const REMOVE_PAUSE: Duration = Duration::from_millis(5);

/// How deep groups are walked. Nobody nests groups by hand, and the kernel can be told a limit.
const MAX_DEPTH: usize = 64;

/// A control group.
///
/// In version 1 it is a folder in each hierarchy that has it; in version 2 it is one folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Group {
    /// Version 1, also on machines that run both: the folder by controller.
    V1(BTreeMap<String, PathBuf>),
    /// Version 2.
    V2(PathBuf),
}

impl Group {
    /// The group that a process is in.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such process or its group is gone.
    pub fn of_pid(hierarchies: &Hierarchies, pid: i32) -> Result<Self> {
        let membership = membership_of(pid)?;
        let missing = || Error::NotFound { path: PathBuf::from(format!("/proc/{pid}/cgroup")) };
        if hierarchies.mode() == Mode::Unified {
            let group = membership.unified.ok_or_else(missing)?;
            let folder = hierarchies.unified.as_ref().and_then(|unified| unified.folder(&group));
            return folder.filter(|folder| folder.is_dir()).map(Group::V2).ok_or_else(missing);
        }
        let mut folders = BTreeMap::new();
        for (controller, hierarchy) in &hierarchies.legacy {
            let group = membership.legacy.get(controller);
            if let Some(folder) = group.and_then(|group| hierarchy.folder(group))
                && folder.is_dir()
            {
                folders.insert(controller.clone(), folder);
            }
        }
        if folders.is_empty() { Err(missing()) } else { Ok(Group::V1(folders)) }
    }

    /// An existing group by its name from the top: `/default/web`.
    ///
    /// # Errors
    /// [`Error::NotFound`] if no hierarchy has it.
    pub fn open(hierarchies: &Hierarchies, name: &str) -> Result<Self> {
        let below = checked(name)?;
        let group = Self::named(hierarchies, &below, |_, folder| Ok(folder.is_dir()))?;
        match &group {
            Group::V1(folders) if !folders.is_empty() => Ok(group),
            Group::V2(folder) if folder.is_dir() => Ok(group),
            _ => Err(Error::NotFound { path: PathBuf::from(name) }),
        }
    }

    /// A group by its name from the top, made where it does not exist.
    ///
    /// In version 1 it is made in every mounted hierarchy. In version 2 the controllers that the
    /// machine has are handed down to it where the kernel allows.
    ///
    /// # Errors
    /// [`Error::InvalidPath`], or the system's. Folders made before a failure stay.
    pub fn create(hierarchies: &Hierarchies, name: &str) -> Result<Self> {
        let below = checked(name)?;
        let group = Self::named(hierarchies, &below, |controller, folder| {
            std::fs::create_dir_all(folder).map_err(|error| Error::io("mkdir", folder, &error))?;
            if controller == "cpuset" {
                inherit_cpuset(folder, below.components().count())?;
            }
            Ok(true)
        })?;
        if let (Group::V2(_), Some(unified)) = (&group, &hierarchies.unified) {
            hand_down(&unified.mount_point, &below);
        }
        Ok(group)
    }

    /// The folders of a name, of those that `keep` says yes to.
    fn named(
        hierarchies: &Hierarchies,
        below: &Path,
        mut keep: impl FnMut(&str, &Path) -> Result<bool>,
    ) -> Result<Self> {
        if let (Mode::Unified, Some(unified)) = (hierarchies.mode(), &hierarchies.unified) {
            let folder = unified.mount_point.join(below);
            keep("", &folder)?;
            return Ok(Group::V2(folder));
        }
        let mut folders = BTreeMap::new();
        for (controller, hierarchy) in &hierarchies.legacy {
            let folder = hierarchy.mount_point.join(below);
            if keep(controller, &folder)? {
                folders.insert(controller.clone(), folder);
            }
        }
        Ok(Group::V1(folders))
    }

    /// Puts a process into the group, in all its hierarchies.
    ///
    /// # Errors
    /// The system's; `ESRCH` if there is no such process.
    pub fn add(&self, pid: i32) -> Result<()> {
        for folder in self.folders() {
            let file = folder.join("cgroup.procs");
            std::fs::write(&file, pid.to_string())
                .map_err(|error| Error::io("write", &file, &error))?;
        }
        Ok(())
    }

    /// The processes in the group, in order; with `recursive` also those in the groups below.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the group is gone.
    pub fn pids(&self, recursive: bool) -> Result<Vec<i32>> {
        let folder = match self {
            // COMPAT: the devices hierarchy, as containerd asks; any will do where it is missing.
            Group::V1(folders) => folders.get("devices").or_else(|| folders.values().next()),
            Group::V2(folder) => Some(folder),
        };
        let folder = folder.ok_or_else(|| Error::NotFound { path: PathBuf::new() })?;
        let mut found = BTreeSet::new();
        collect_pids(folder, recursive, 0, &mut found)?;
        Ok(found.into_iter().collect())
    }

    /// The group above; nothing above a hierarchy's top.
    #[must_use]
    pub fn parent(&self) -> Option<Group> {
        let above = |folder: &PathBuf| {
            let parent = folder.parent()?;
            // The folder above a mounted hierarchy is no group.
            parent.join("cgroup.procs").exists().then(|| parent.to_owned())
        };
        match self {
            Group::V1(folders) => folders
                .iter()
                .map(|(name, folder)| Some((name.clone(), above(folder)?)))
                .collect::<Option<_>>()
                .map(Group::V1),
            Group::V2(folder) => above(folder).map(Group::V2),
        }
    }

    /// Removes the group and the groups below it. A group that is gone is removed already.
    ///
    /// # Errors
    /// `EBUSY` if processes are left in it, after a third of a second of trying.
    pub fn remove(&self) -> Result<()> {
        let mut first_error = None;
        for folder in self.folders() {
            if let Err(error) = remove_tree(folder) {
                first_error.get_or_insert(error);
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    /// Reads all metrics of the group in one sweep.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the group is gone.
    pub fn metrics(&self) -> Result<Metrics> {
        match self {
            Group::V1(folders) => {
                v1::metrics(folders).map(|metrics| Metrics::V1(Box::new(metrics)))
            }
            Group::V2(folder) => v2::metrics(folder).map(|metrics| Metrics::V2(Box::new(metrics))),
        }
    }

    /// The group's folders, each once: controllers that are mounted together share one.
    fn folders(&self) -> BTreeSet<&PathBuf> {
        match self {
            Group::V1(folders) => folders.values().collect(),
            Group::V2(folder) => BTreeSet::from([folder]),
        }
    }
}

/// A name from the top as a path that cannot leave it.
pub(crate) fn checked(name: &str) -> Result<PathBuf> {
    let invalid = |reason| Error::InvalidPath { path: name.to_owned(), reason };
    let mut below = PathBuf::new();
    for part in Path::new(name).components() {
        match part {
            Component::Normal(part) => below.push(part),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return Err(invalid("leads upwards")),
        }
    }
    if below.as_os_str().is_empty() {
        return Err(invalid("is the top group"));
    }
    if name.contains('\0') {
        return Err(invalid("has a NUL byte"));
    }
    Ok(below)
}

/// A new group of the cpuset hierarchy has no processors and no memory, and nobody can join it
/// until it has: it takes its parent's, from the top down.
fn inherit_cpuset(folder: &Path, depth: usize) -> Result<()> {
    let mut levels: Vec<&Path> = folder.ancestors().take(depth).collect();
    levels.reverse();
    for level in levels {
        let Some(parent) = level.parent() else { continue };
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let own = level.join(file);
            let text =
                std::fs::read_to_string(&own).map_err(|error| Error::io("read", &own, &error))?;
            if !text.trim().is_empty() {
                continue;
            }
            let inherited = parent.join(file);
            let text = std::fs::read_to_string(&inherited)
                .map_err(|error| Error::io("read", &inherited, &error))?;
            std::fs::write(&own, text.trim()).map_err(|error| Error::io("write", &own, &error))?;
        }
    }
    Ok(())
}

/// Hands the controllers of version 2 down to the groups above `below`'s last name. A controller
/// that the kernel does not hand down (processes in the group above) is left out with a note.
fn hand_down(top: &Path, below: &Path) {
    let mut group = top.to_owned();
    for part in below.components() {
        let available =
            std::fs::read_to_string(group.join("cgroup.controllers")).unwrap_or_default();
        for controller in available.split_ascii_whitespace() {
            let file = group.join("cgroup.subtree_control");
            if let Err(error) = std::fs::write(&file, format!("+{controller}")) {
                tracing::debug!(path = %file.display(), controller, %error, "not handed down");
            }
        }
        group.push(part);
    }
}

pub(crate) fn collect_pids(
    folder: &Path,
    recursive: bool,
    depth: usize,
    found: &mut BTreeSet<i32>,
) -> Result<()> {
    let mut opened = Folder::open(folder)?;
    // In a threaded group version 2 tells threads alone; its processes are listed above it.
    let text = opened.read("cgroup.procs")?.unwrap_or_default();
    found.extend(text.lines().filter_map(|line| line.trim().parse::<i32>().ok()));
    if !recursive || depth >= MAX_DEPTH {
        return Ok(());
    }
    for child in children(folder)? {
        match collect_pids(&child, recursive, depth + 1, found) {
            // It went away meanwhile, with all that was in it.
            Ok(()) | Err(Error::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The groups directly below one.
fn children(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        std::fs::read_dir(folder).map_err(|error| Error::io("readdir", folder, &error))?;
    Ok(entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect())
}

pub(crate) fn remove_tree(folder: &Path) -> Result<()> {
    let mut pause = REMOVE_PAUSE;
    for attempt in 1.. {
        match rustix::fs::rmdir(folder) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::BUSY | Errno::NOTEMPTY) if attempt < REMOVE_TRIES => {}
            Err(errno) => return Err(Error::new("rmdir", folder, errno)),
        }
        remove_below(folder, 0);
        if rustix::fs::rmdir(folder).is_ok() {
            return Ok(());
        }
        std::thread::sleep(pause);
        pause *= 2;
    }
    Ok(())
}

/// Removes what can be removed below a group, the deepest first.
fn remove_below(folder: &Path, depth: usize) {
    if depth >= MAX_DEPTH {
        return;
    }
    for child in children(folder).unwrap_or_default() {
        remove_below(&child, depth + 1);
        // What stays makes the group above stay, and that is told.
        let _ = rustix::fs::rmdir(&child);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_the_hierarchy() {
        assert_eq!(checked("/a/./b//c").ok(), Some(PathBuf::from("a/b/c")));
        assert_eq!(checked("a").ok(), Some(PathBuf::from("a")));
        for name in ["", "/", ".", "/a/../../b", ".."] {
            assert!(matches!(checked(name), Err(Error::InvalidPath { .. })), "{name:?}");
        }
    }
}
