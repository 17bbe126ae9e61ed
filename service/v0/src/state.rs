//! The state folder, in 0.2's layout.
//!
//! ```text
//! <state_dir>/                        0711
//!   events.log                        see `event_log`
//!   <id>/                             0755
//!     state.json                      bundle, labels, streams, runtime and its arguments
//!     <process>/                      0755; `init`, or the name of an exec
//!       process.json                  the OCI process and its streams
//!       pid                           its pid on the host, once its start was told
//!       exitStatus                    how it ended, once that is known
//!   .new-<id>/  .gone-<id>/           on its way in or out: a name that no container has
//! ```
//!
//! It is state of a running machine: nothing is synced. A folder appears and goes by a rename.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use base_ident::validate_identifier;
use rustix::io::Errno;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::ApiError;
use crate::process::StoredProcess;

/// Mode of folders; others may pass, as in 0.2.
const MODE: u32 = 0o755;
/// Mode of the state folder itself.
const STATE_MODE: u32 = 0o711;
/// The largest file that is read back: a process has its environment in it.
const MAX_FILE: u64 = 16 << 20;
/// Prefix of a folder that is being made.
const NEW: &str = ".new-";
/// Prefix of a folder that is being removed.
const GONE: &str = ".gone-";

const STATE_FILE: &str = "state.json";
const PROCESS_FILE: &str = "process.json";
const EXIT_FILE: &str = "exitStatus";
const PID_FILE: &str = "pid";
const START_TIME_FILE: &str = "starttime";

/// The name of a container's first process.
pub(crate) const INIT: &str = "init";

/// `state.json` of 0.2.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct StoredContainer {
    pub(crate) bundle: String,
    pub(crate) labels: Option<Vec<String>>,
    pub(crate) stdin: String,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) runtime: String,
    pub(crate) runtime_args: Option<Vec<String>>,
    /// 0.2's shim program; ours has none to name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) shim: String,
    pub(crate) no_pivot_root: bool,
}

/// What lies in a state folder.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Containers, by id.
    pub(crate) containers: Vec<String>,
    /// Folders that were on their way out, with the ids that they had.
    pub(crate) gone: Vec<(PathBuf, String)>,
    /// Folders that were on their way in.
    pub(crate) new: Vec<PathBuf>,
}

/// The state folder.
#[derive(Clone, Debug)]
pub(crate) struct StateDir(PathBuf);

impl StateDir {
    pub(crate) fn new(path: PathBuf) -> Self {
        StateDir(path)
    }

    pub(crate) fn container(&self, id: &str) -> PathBuf {
        self.0.join(id)
    }

    pub(crate) fn process(&self, id: &str, name: &str) -> PathBuf {
        self.0.join(id).join(name)
    }

    /// Makes the folder of a container: the claim on its id.
    ///
    /// # Errors
    /// [`ApiError::File`] `mkdir ...: file exists` if there is one.
    pub(crate) fn make_container(
        &self,
        id: &str,
        stored: &StoredContainer,
    ) -> Result<(), ApiError> {
        let place = self.container(id);
        name_in(&self.0, "container id", id)?;
        let mut parents = DirBuilder::new();
        parents.recursive(true).mode(STATE_MODE);
        parents.create(&self.0).map_err(|error| ApiError::file("mkdir", &self.0, error))?;
        let new = self.0.join(format!("{NEW}{id}"));
        self.make(&new, &place, STATE_FILE, stored)
    }

    /// Makes the folder of a process: the claim on its name.
    ///
    /// # Errors
    /// As [`make_container`](Self::make_container).
    pub(crate) fn make_process(
        &self,
        id: &str,
        name: &str,
        stored: &StoredProcess,
    ) -> Result<(), ApiError> {
        let folder = self.container(id);
        name_in(&folder, "process id", name)?;
        let new = folder.join(format!("{NEW}{name}"));
        self.make(&new, &folder.join(name), PROCESS_FILE, stored)
    }

    fn make(
        &self,
        new: &Path,
        place: &Path,
        file: &str,
        stored: &impl Serialize,
    ) -> Result<(), ApiError> {
        // Left by a daemon that died in the middle of this.
        let _ = fs::remove_dir_all(new);
        let make = || -> io::Result<()> {
            DirBuilder::new().mode(MODE).create(new)?;
            fs::write(new.join(file), serde_json::to_vec(stored)?)?;
            fs::rename(new, place)
        };
        make().map_err(|error| {
            let _ = fs::remove_dir_all(new);
            match Errno::from_io_error(&error) {
                Some(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {
                    ApiError::file("mkdir", place, Errno::EXIST)
                }
                _ => ApiError::file("mkdir", place, error),
            }
        })
    }

    /// Gives the folder of a container, or of a process if one is named, a name that none can have;
    /// its removal is left to the caller. `None` if it is not there.
    pub(crate) fn retire(&self, id: &str, process: Option<&str>) -> Option<PathBuf> {
        let (place, gone) = match process {
            None => (self.container(id), self.0.join(format!("{GONE}{id}"))),
            Some(name) => {
                let folder = self.container(id);
                (folder.join(name), folder.join(format!("{GONE}{name}")))
            }
        };
        let _ = fs::remove_dir_all(&gone);
        match fs::rename(&place, &gone) {
            Ok(()) => Some(gone),
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(path = %place.display(), %error, "retiring a state folder");
                }
                None
            }
        }
    }

    /// When the name of a container, or of a process if one is named, was claimed.
    pub(crate) fn claimed(&self, id: &str, process: Option<&str>) -> Option<SystemTime> {
        let path = match process {
            None => self.container(id).join(STATE_FILE),
            Some(name) => self.process(id, name).join(PROCESS_FILE),
        };
        fs::metadata(path).and_then(|file| file.modified()).ok()
    }

    /// Records the pid of a process that runs, and that its start was told.
    pub(crate) fn write_pid(&self, id: &str, name: &str, pid: u32) {
        let path = self.process(id, name).join(PID_FILE);
        if let Err(error) = fs::write(&path, pid.to_string()) {
            tracing::warn!(path = %path.display(), %error, "recording a pid");
        }
    }

    /// Records how a process ended.
    pub(crate) fn write_exit(&self, id: &str, name: &str, status: u32) {
        let folder = self.process(id, name);
        let (new, path) = (folder.join(".exitStatus"), folder.join(EXIT_FILE));
        // DURABILITY: from here on the end will be told, whoever dies.
        let written = fs::write(&new, status.to_string()).and_then(|()| fs::rename(&new, &path));
        if let Err(error) = written {
            tracing::warn!(path = %path.display(), %error, "recording an exit");
        }
    }

    /// What lies in the folder. Entries that are not of this API are left out.
    pub(crate) fn scan(&self) -> Found {
        let mut found = Found::default();
        for name in entries(&self.0) {
            let path = self.0.join(&name);
            if let Some(id) = name.strip_prefix(GONE) {
                found.gone.push((path, id.to_owned()));
            } else if name.starts_with(NEW) {
                found.new.push(path);
            } else if validate_identifier(&name).is_ok() && path.join(STATE_FILE).is_file() {
                found.containers.push(name);
            }
        }
        found
    }

    pub(crate) fn read_container(&self, id: &str) -> Option<StoredContainer> {
        read_json(&self.container(id).join(STATE_FILE))
    }
}

/// Checks that `name` is one entry of `folder`, with the errors that 0.2's `mkdir` would give.
fn name_in(folder: &Path, what: &'static str, name: &str) -> Result<(), ApiError> {
    let path = folder.join(name);
    match name {
        "" | "." => return Err(ApiError::file("mkdir", folder, Errno::EXIST)),
        ".." => {
            let parent = folder.parent().unwrap_or(folder);
            return Err(ApiError::file("mkdir", parent, Errno::EXIST));
        }
        _ if name.contains('/') => return Err(ApiError::file("mkdir", path, Errno::NOENT)),
        _ => {}
    }
    validate_identifier(name).map_err(|source| ApiError::Name {
        what,
        name: name.chars().take(128).collect(),
        source,
    })
}

/// The processes that have a folder in that of a container, and what is recorded of each.
pub(crate) fn processes(folder: &Path) -> Vec<(String, Option<StoredProcess>)> {
    let mut names: Vec<String> = entries(folder)
        .into_iter()
        .filter(|name| !name.starts_with('.') && folder.join(name).is_dir())
        .collect();
    names.sort();
    names
        .into_iter()
        .map(|name| {
            let stored = read_json(&folder.join(&name).join(PROCESS_FILE));
            (name, stored)
        })
        .collect()
}

/// Folders of processes that were on their way out, with the names that they had.
pub(crate) fn gone_processes(folder: &Path) -> Vec<(PathBuf, String)> {
    let gone = |name: String| {
        let process = name.strip_prefix(GONE)?.to_owned();
        Some((folder.join(&name), process))
    };
    entries(folder).into_iter().filter_map(gone).collect()
}

/// The recorded end of the process in `folder`, and when it was recorded.
pub(crate) fn read_exit(folder: &Path) -> Option<(u32, SystemTime)> {
    let path = folder.join(EXIT_FILE);
    let status = read_number(&path)?;
    let time = fs::metadata(&path).and_then(|file| file.modified()).ok()?;
    Some((u32::try_from(status).ok().filter(|status| *status <= 255).unwrap_or(255), time))
}

/// The recorded pid of the process in `folder`.
pub(crate) fn read_pid(folder: &Path) -> Option<i32> {
    read_number(&folder.join(PID_FILE)).and_then(|pid| i32::try_from(pid).ok())
}

/// The start time of the process in `folder`, as the old shim recorded it.
pub(crate) fn read_start_time(folder: &Path) -> Option<u64> {
    read_number(&folder.join(START_TIME_FILE)).and_then(|time| u64::try_from(time).ok())
}

fn read_number(path: &Path) -> Option<i64> {
    read(path).and_then(|text| String::from_utf8(text).ok()?.trim().parse().ok())
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let text = read(path)?;
    serde_json::from_slice(&text)
        .inspect_err(|error| tracing::warn!(path = %path.display(), %error, "damaged state"))
        .ok()
}

/// A file of the state, unless it is far too large for one.
pub(crate) fn read(path: &Path) -> Option<Vec<u8>> {
    let size = fs::metadata(path).ok().filter(fs::Metadata::is_file)?.len();
    if size > MAX_FILE { None } else { fs::read(path).ok() }
}

fn entries(path: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Removes a folder that was retired.
pub(crate) fn remove(folder: &Path) {
    if let Err(error) = fs::remove_dir_all(folder)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %folder.display(), %error, "removing a state folder");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(result: Result<(), ApiError>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn names_are_claimed_once_and_come_free() {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let root = folder.path().join("state");
        let state = StateDir::new(root.clone());
        let stored = StoredContainer { bundle: "/b".to_owned(), ..StoredContainer::default() };
        state.make_container("a", &stored).unwrap();
        let exists = format!("mkdir {}/a: file exists", root.display());
        assert_eq!(text(state.make_container("a", &stored)), exists);
        assert_eq!(state.read_container("a").unwrap().bundle, "/b");
        state.make_process("a", INIT, &StoredProcess::default()).unwrap();
        assert_eq!(
            text(state.make_process("a", "init", &StoredProcess::default())),
            format!("mkdir {}/a/init: file exists", root.display())
        );
        state.write_exit("a", INIT, 137);
        assert_eq!(read_exit(&state.process("a", INIT)).unwrap().0, 137);
        assert_eq!(processes(&state.container("a")).len(), 1);
        let gone = state.retire("a", None).unwrap();
        assert_eq!(state.scan().gone, [(gone.clone(), "a".to_owned())]);
        state.make_container("a", &stored).unwrap();
        assert_eq!(state.scan().containers, ["a"]);
        remove(&gone);
        assert!(state.scan().gone.is_empty());
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let root = folder.path().join("state");
        let state = StateDir::new(root.clone());
        let stored = StoredContainer::default();
        let root = root.display();
        assert_eq!(text(state.make_container("", &stored)), format!("mkdir {root}: file exists"));
        assert_eq!(text(state.make_container(".", &stored)), format!("mkdir {root}: file exists"));
        assert!(text(state.make_container("..", &stored)).ends_with(": file exists"));
        assert_eq!(
            text(state.make_container("../x", &stored)),
            format!("mkdir {root}/../x: no such file or directory")
        );
        for bad in ["a b", "-a", ".hidden", "a\0b", &"x".repeat(200)] {
            assert!(text(state.make_container(bad, &stored)).starts_with("invalid container id"));
        }
        assert!(state.scan().containers.is_empty());
    }

    #[test]
    fn foreign_entries_are_left_alone() {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        for name in ["fifo", "runc", "io.containerd.runtime.v2.task", "empty"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        fs::write(folder.path().join("c.sock"), "").unwrap();
        let found = StateDir::new(folder.path().to_owned()).scan();
        assert!(found.containers.is_empty() && found.gone.is_empty() && found.new.is_empty());
    }
}
