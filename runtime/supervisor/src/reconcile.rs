//! Shims, bundles and control groups against each other, while the daemon runs.
//!
//! What ends in good order leaves nothing, and a shim that dies is noticed at once, by its
//! connection. This looks, now and then, for what neither of them tells: bundles and work folders
//! whose removal failed, and shims that were started by a daemon which died before it could write
//! down where they listen. A shim with processes below it is never killed: it is told about.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use base_ident::{Namespace, validate_identifier};
use kernel_cgroup::{Hierarchies, Remains};
use kernel_process::PidFd;
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::adopt::{Found, names};
use crate::bundle::Bundle;
use crate::operation::WAIT;
use crate::slots::Slot;
use crate::supervisor::{Inner, Supervisor, blocking};

/// How often everything is looked at. It costs a few milliseconds on a full node; what it finds is
/// rare and costs only space.
const INTERVAL: Duration = Duration::from_secs(60);
/// Operations that take longer are told in the log: a start takes a second on a busy machine.
const LONG: Duration = Duration::from_secs(60);
/// The most objects of one kind that one round deals with; the next round goes on.
const MAX_A_ROUND: usize = 256;
/// The pause between two looks at a control group whose processes were just killed.
const CGROUP_PAUSE: Duration = Duration::from_millis(50);
/// What is remembered from one round to the next.
#[derive(Default)]
pub(crate) struct Memory {
    /// Shims that no task has, by pid and start time, when they were seen first.
    strays: BTreeMap<i32, u64>,
    /// Bundles that could not be removed: told once.
    stubborn: BTreeSet<PathBuf>,
    /// Operations that were told to take long.
    told: BTreeSet<u64>,
}

/// A shim process of this daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ShimProcess {
    pid: i32,
    namespace: String,
    id: String,
}

impl Supervisor {
    /// Looks now for what the rounds look for, which come by themselves after an adoption: bundles
    /// and work folders that no task has, and shims that nobody can find.
    pub async fn reconcile(&self) {
        self.inner.reconcile().await;
    }
}

impl Inner {
    /// Looks at everything now and then, until the supervisor ends.
    pub(crate) fn reconcile_forever(self: &Arc<Self>) {
        self.watch_forever(|weak| async move {
            loop {
                sleep(INTERVAL).await;
                let Some(inner) = weak.upgrade() else { return };
                inner.reconcile().await;
            }
        });
    }

    /// One round. Two at once would only find less to do each.
    async fn reconcile(self: &Arc<Self>) {
        let lock = || self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let mut memory = std::mem::take(&mut *lock());
        self.reconcile_bundles(&mut memory).await;
        self.reconcile_work().await;
        self.reconcile_shims(&mut memory).await;
        self.tell_long_operations(&mut memory);
        *lock() = memory;
    }

    /// Tells, once for each, what is in flight for longer than work takes.
    fn tell_long_operations(&self, memory: &mut Memory) {
        let running = self.operations.list();
        memory.told.retain(|id| running.iter().any(|operation| operation.id == *id));
        for operation in running {
            if operation.kind != WAIT && operation.age() > LONG && memory.told.insert(operation.id)
            {
                tracing::warn!(%operation, "an operation takes long");
            }
        }
    }

    /// Adopts or buries what has a bundle and no task.
    async fn reconcile_bundles(self: &Arc<Self>, memory: &mut Memory) {
        let bundles = self.config.bundles();
        let all = names(&bundles);
        memory.stubborn.retain(|path| path.exists());
        let orphans = all.into_iter().filter(|(namespace, id)| {
            self.slots.get(namespace, id).is_none()
                && !memory.stubborn.contains(&bundles.join(namespace.as_str()).join(id))
        });
        for (namespace, id) in orphans.take(MAX_A_ROUND).collect::<Vec<_>>() {
            let (settled, settling) = watch::channel(());
            let bundle = Bundle::new(&self.config, &namespace, &id);
            if let Ok(claim) = self.slots.claim(&namespace, &id, Slot::Adopting(settling)) {
                // It may have been removed before the name was ours.
                if !bundle.exists() {
                    continue;
                }
                tracing::warn!(task = %bundle.object(), "a bundle that no task has");
                let path = bundle.path.clone();
                Inner::adopt(self, Found { bundle, claim, settled }, false).await;
                if path.exists() && self.slots.get(&namespace, &id).is_none() {
                    memory.stubborn.insert(path);
                }
            }
        }
    }

    /// Removes work folders without a bundle.
    async fn reconcile_work(&self) {
        let work = self.config.work();
        let orphans = names(&work).into_iter().filter(|(namespace, id)| {
            self.slots.get(namespace, id).is_none()
                && !Bundle::new(&self.config, namespace, id).exists()
        });
        for (namespace, id) in orphans.take(MAX_A_ROUND).collect::<Vec<_>>() {
            // While the name is taken, nobody makes a task of it.
            let Ok(_claim) = self.slots.claim(&namespace, &id, Slot::Creating) else { continue };
            let bundle = Bundle::new(&self.config, &namespace, &id);
            if !bundle.exists() {
                self.remove_bundle(&bundle).await;
            }
        }
    }

    /// Ends shims that nobody can find any more.
    async fn reconcile_shims(&self, memory: &mut Memory) {
        let address = self.config.grpc_address.clone();
        let found = blocking("look for shims", move || Ok(shim_processes(&address))).await;
        let lost = found.unwrap_or_default().into_iter().filter(|shim| !self.is_known(shim));
        let mut strays = BTreeMap::new();
        for shim in lost.take(MAX_A_ROUND).collect::<Vec<_>>() {
            let Ok(start) = kernel_process::start_time(shim.pid) else { continue };
            strays.insert(shim.pid, start);
            // A second look, a round later: it may have been about to end.
            if memory.strays.get(&shim.pid) == Some(&start) {
                self.end_stray(&shim, start);
            }
        }
        memory.strays = strays;
    }

    /// True if a task or a bundle has the name of this shim, or some task is served by it.
    fn is_known(&self, shim: &ShimProcess) -> bool {
        let Ok(namespace) = Namespace::new(&shim.namespace) else { return true };
        // Others may start shims that call the same daemon; ours began in a bundle of ours.
        let began = fs::read_link(format!("/proc/{}/cwd", shim.pid));
        if !began.is_ok_and(|folder| folder.starts_with(self.config.bundles())) {
            return true;
        }
        self.slots.get(&namespace, &shim.id).is_some()
            || Bundle::new(&self.config, &namespace, &shim.id).exists()
            || self.live_in(&namespace).iter().any(|task| {
                // Containers of a group share a shim that has the name of another one.
                task.bundle.read_bootstrap().is_some_and(|bootstrap| {
                    listens(shim.pid, bootstrap.address.rsplit("unix://").next().unwrap_or(""))
                })
            })
    }

    fn end_stray(&self, shim: &ShimProcess, start: u64) {
        let ShimProcess { pid, namespace, id } = shim;
        if has_children(*pid) {
            tracing::error!(
                pid,
                task = %format!("{namespace}/{id}"),
                "a shim that no task has, with processes below it: it is left alone"
            );
            return;
        }
        tracing::warn!(pid, task = %format!("{namespace}/{id}"), "ending a shim that no task has");
        let ended = PidFd::open(*pid).and_then(|process| {
            if kernel_process::is_same(*pid, start) { process.kill() } else { Ok(()) }
        });
        if let Err(error) = ended {
            tracing::debug!(pid, %error, "it has ended by itself");
        }
    }

    /// Removes the control group of a container whose shim is dead and which was cleaned up after.
    /// A group that still has processes is left alone, and told about.
    pub(crate) async fn remove_cgroup(&self, bundle: &Bundle) {
        let Some(name) = bundle.cgroup() else { return };
        let deadline = Instant::now() + self.config.timeouts.shim_cleanup;
        loop {
            let group = name.clone();
            let removed = blocking("control group", move || remove_empty(&group)).await;
            match removed {
                Ok(pids) if pids.is_empty() => return,
                _ if Instant::now() < deadline => sleep(CGROUP_PAUSE).await,
                Ok(pids) => {
                    tracing::error!(
                        task = %bundle.object(),
                        cgroup = name,
                        ?pids,
                        "processes are left of a container whose shim is dead"
                    );
                    return;
                }
                Err(error) => {
                    let task = bundle.object();
                    tracing::warn!(%task, %error, "removing the control group of a dead shim");
                    return;
                }
            }
        }
    }
}

/// Removes a group without processes; gives the processes that it has.
fn remove_empty(name: &str) -> base_errors::Result<BTreeSet<i32>> {
    let Ok(hierarchies) = Hierarchies::load() else { return Ok(BTreeSet::new()) };
    let group = Remains::find(&hierarchies, name)?;
    let pids = group.pids();
    if pids.is_empty() {
        group.remove()?;
    }
    Ok(pids)
}

/// The name of the control group that a spec asks for, if it is a plain path.
pub(crate) fn cgroup_of(spec: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Spec {
        linux: Option<Linux>,
    }
    #[derive(Deserialize)]
    struct Linux {
        #[serde(default, rename = "cgroupsPath")]
        path: String,
    }
    let path = serde_json::from_slice::<Spec>(spec).ok()?.linux?.path;
    // `slice:prefix:name` is systemd's, which removes its groups itself. One step is not enough to be
    // sure that it is the container's alone.
    (path.starts_with('/') && Path::new(&path).components().count() > 2).then_some(path)
}

/// The shims that were started by the daemon at `address`.
fn shim_processes(address: &str) -> Vec<ShimProcess> {
    let pids = kernel_process::pids().unwrap_or_default();
    let shim = |pid| shim_of(pid, &kernel_process::arguments(pid).ok()?, address);
    pids.into_iter().filter_map(shim).collect()
}

/// Reads the arguments of a process.
fn shim_of(pid: i32, words: &[Vec<u8>], address: &str) -> Option<ShimProcess> {
    let words: Vec<&str> = words.iter().filter_map(|word| std::str::from_utf8(word).ok()).collect();
    let program = Path::new(words.first()?).file_name()?.to_str()?;
    if !program.starts_with("containerd-shim") {
        return None;
    }
    let value = |flag: &str| {
        let at = words.iter().position(|word| *word == flag)?;
        words.get(at + 1).copied()
    };
    // Commands of shims come and go; only what serves may be lost.
    if value("-address")? != address || words.iter().any(|word| ["start", "delete"].contains(word))
    {
        return None;
    }
    let (namespace, id) = (value("-namespace")?, value("-id")?);
    validate_identifier(id).ok()?;
    Some(ShimProcess { pid, namespace: namespace.to_owned(), id: id.to_owned() })
}

/// True if the process has the socket at `path` open, or nobody can tell.
fn listens(pid: i32, path: &str) -> bool {
    let Ok(sockets) = fs::read_to_string("/proc/net/unix") else { return true };
    let inodes: BTreeSet<&str> = sockets
        .lines()
        .filter(|line| line.ends_with(path))
        .filter_map(|line| line.split_whitespace().nth(6))
        .collect();
    let Ok(open) = fs::read_dir(format!("/proc/{pid}/fd")) else { return true };
    open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok()).any(|target| {
        let target = target.to_string_lossy();
        target
            .strip_prefix("socket:[")
            .and_then(|rest| rest.strip_suffix(']'))
            .is_some_and(|inode| inodes.contains(inode))
    })
}

/// True if the process has children, or nobody can tell.
fn has_children(pid: i32) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")) {
        Ok(children) => !children.trim().is_empty(),
        Err(error) => error.kind() != std::io::ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shims_are_known_by_their_arguments() {
        let line = |text: &str| -> Vec<Vec<u8>> {
            text.split_whitespace().map(|word| word.as_bytes().to_vec()).collect()
        };
        let good = line("/usr/bin/containerd-shim-runc-v2 -namespace ns -id c1 -address /c.sock");
        assert_eq!(
            shim_of(7, &good, "/c.sock"),
            Some(ShimProcess { pid: 7, namespace: "ns".to_owned(), id: "c1".to_owned() })
        );
        for other in [
            "/usr/bin/containerd-shim-runc-v2 -namespace ns -id c1 -address /other.sock",
            "/usr/bin/containerd-shim-runc-v2 -namespace ns -address /c.sock -id c1 start",
            "/usr/bin/containerd-shim-runc-v2 -namespace ns -address /c.sock -id c1 delete",
            "/usr/bin/containerd-shim-runc-v2 -namespace ns -id ../c1 -address /c.sock",
            "/usr/bin/vim containerd-shim -namespace ns -id c1 -address /c.sock",
            "",
        ] {
            assert_eq!(shim_of(7, &line(other), "/c.sock"), None, "{other}");
        }
    }

    #[test]
    fn only_groups_of_their_own_are_removed() {
        let of =
            |path: &str| cgroup_of(format!(r#"{{"linux":{{"cgroupsPath":"{path}"}}}}"#).as_bytes());
        assert_eq!(of("/default/web"), Some("/default/web".to_owned()));
        for other in ["", "/", "/default", "default/web", "system.slice:cri:abc"] {
            assert_eq!(of(other), None, "{other}");
        }
        assert_eq!(cgroup_of(b"{}"), None);
        assert_eq!(cgroup_of(b"no json"), None);
    }

    #[test]
    fn children_and_sockets_of_processes_are_seen() {
        let own = i32::try_from(std::process::id()).unwrap();
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = folder.path().join("s.sock");
        let socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let path = path.display().to_string();
        assert!(listens(own, &path));
        drop(socket);
        assert!(!listens(own, &path));
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        assert!(!has_children(pid));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
