//! A container: its init process, its execs, and what the runtime does with them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base_errors::{Class, Coded as _, Error, Result, ResultExt};
use kernel_cgroup::{Group, Hierarchies};
use kernel_mount::UnmountFlags;
use runtime_runc::{
    CheckpointOptions, ExecOptions, ExitWatch, Io, OciRuntime, Reaper, RestoreOptions,
};

use crate::lock;
use crate::options::Options;
use crate::process::{Ended, Operation, Phase, Process, finished};
use crate::stdio::{self, Owner, Prepared, Remainders};

/// The file of a bundle with the pid of the init process.
pub(crate) const INIT_PID_FILE: &str = "init.pid";

/// How long the exit of a process may take to be seen, once its runtime has killed it.
const KILLED_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a runtime that has failed to create or pause a container may take to undo that.
const UNDO_TIMEOUT: Duration = Duration::from_secs(20);

/// A signal that cannot be refused.
pub(crate) const SIGKILL: u32 = 9;

/// Execs of one container that may exist at once: each has descriptors and a task of its own.
const MAX_EXECS: usize = 4096;

/// A container.
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
    pub(crate) namespace: String,
    /// Where its rootfs was mounted by this shim, if it was.
    pub(crate) rootfs: Option<PathBuf>,
    pub(crate) options: Options,
    pub(crate) runtime: Arc<dyn OciRuntime>,
    pub(crate) reaper: Reaper,
    pub(crate) init: Arc<Process>,
    /// True if the kernel ends all of its processes with the init process.
    pub(crate) own_pid_namespace: bool,
    /// True if hooks may have to run when it is started.
    pub(crate) start_has_hooks: bool,
    /// True if hooks may have to run when it is deleted.
    pub(crate) end_has_hooks: bool,
    pub(crate) execs: Mutex<BTreeMap<String, Arc<Process>>>,
    /// Its control group, once it is known.
    pub(crate) group: Mutex<Option<Group>>,
    /// The image that it will be restored from, and the streams that wait for that.
    pub(crate) restore: Mutex<Option<(CheckpointOptions, Io, Prepared)>>,
}

impl Container {
    pub(crate) fn owner<'a>(&'a self, id: &'a str) -> Owner<'a> {
        Owner {
            id,
            namespace: &self.namespace,
            uid: self.options.io_uid,
            gid: self.options.io_gid,
            reaper: &self.reaper,
        }
    }

    /// The process of an exec id, or the init process for an empty one.
    ///
    /// # Errors
    /// Not found.
    pub(crate) fn process(&self, exec_id: &str) -> Result<Arc<Process>> {
        if exec_id.is_empty() {
            return Ok(Arc::clone(&self.init));
        }
        let missing = || Error::not_found(format!("process does not exist {exec_id}"));
        lock(&self.execs).get(exec_id).cloned().ok_or_else(missing)
    }

    /// True if the init process has ended, and nothing else is left in the control group.
    pub(crate) fn is_over(&self) -> bool {
        let group = lock(&self.group).clone();
        let left = |group: Group| group.pids(true).is_ok_and(|pids| !pids.is_empty());
        self.init.ended().is_some() && !group.is_some_and(left)
    }

    /// All execs there are.
    pub(crate) fn execs(&self) -> Vec<Arc<Process>> {
        lock(&self.execs).values().cloned().collect()
    }

    /// Registers an exec; it is started later.
    ///
    /// # Errors
    /// Already exists; the state of the container.
    pub(crate) fn add_exec(&self, exec: Arc<Process>) -> Result<()> {
        self.init.check(Operation::Exec)?;
        let mut execs = lock(&self.execs);
        if execs.contains_key(&exec.id) {
            return Err(Error::already_exists(format!("id {}", exec.id)));
        }
        if execs.len() >= MAX_EXECS {
            let text = format!("container {} has {MAX_EXECS} execs", self.id);
            return Err(Error::resource_exhausted(text));
        }
        execs.insert(exec.id.clone(), exec);
        Ok(())
    }

    /// Lets the init process run. A restored container gives the watch on its exit.
    ///
    /// # Errors
    /// The state; the runtime's.
    pub(crate) async fn start_init(&self) -> Result<Option<ExitWatch>> {
        let _change = self.init.change.lock().await;
        self.init.check(Operation::Start)?;
        let restore = lock(&self.restore).take();
        let exit = match restore {
            None => {
                let init = if self.start_has_hooks { None } else { self.init.handle() };
                self.runtime.start(&self.id, init).await?;
                None
            }
            Some((checkpoint, io, prepared)) => {
                Some(self.run_restore(checkpoint, io, prepared).await?)
            }
        };
        self.init.advance(Phase::Running);
        Ok(exit)
    }

    async fn run_restore(
        &self,
        checkpoint: CheckpointOptions,
        io: Io,
        prepared: Prepared,
    ) -> Result<ExitWatch> {
        let pid_file = self.bundle.join(INIT_PID_FILE);
        let options = RestoreOptions {
            checkpoint,
            pid_file: &pid_file,
            no_pivot: self.options.no_pivot_root,
        };
        let hold = self.reaper.hold().await;
        let restored = self.runtime.restore(&self.id, &self.bundle, options, io).await;
        let taken = self.take_new(restored, prepared, &pid_file).await;
        drop(hold);
        taken
    }

    /// Takes over the init process that a runtime was to make. Removes what a failure has left, but
    /// no container of this name that was there before and has not ended: that is somebody else's.
    ///
    /// Call it under the hold of the runtime's time.
    ///
    /// # Errors
    /// The runtime's, and those of [`Self::take_over`].
    pub(crate) async fn take_new(
        &self,
        made: runtime_runc::Result<()>,
        prepared: Prepared,
        pid_file: &Path,
    ) -> Result<ExitWatch> {
        let foreign = made.as_ref().is_err_and(runtime_runc::Error::is_existing);
        let taken = match made {
            Ok(()) => self.take_over(&self.init, prepared, pid_file, "container").await,
            Err(error) => Err(error.into()),
        };
        match &taken {
            Ok(_) => {}
            // What is left of one that has ended is in the way; the runtime removes no other.
            Err(_) if foreign => {
                let delete = self.runtime.delete(&self.id, false);
                let _ = tokio::time::timeout(UNDO_TIMEOUT, delete).await;
            }
            Err(_) => self.undo(pid_file).await,
        }
        taken
    }

    /// Removes what a failed creation or restoration has left with the runtime. Its process is
    /// killed even if the runtime fails once more.
    async fn undo(&self, pid_file: &Path) {
        if self.runtime.is_gone(&self.id) {
            return;
        }
        let removed =
            match tokio::time::timeout(UNDO_TIMEOUT, self.runtime.delete(&self.id, true)).await {
                Ok(removed) => removed.map_err(Error::from),
                Err(_) => Err(Error::deadline_exceeded("the runtime does not answer")),
            };
        if let Err(error) = removed {
            tracing::warn!(%error, "failed to remove a container that could not be created");
            self.kill_left(pid_file);
        }
    }

    /// Kills the process that a failed program has left behind, if it has told its pid.
    ///
    /// Call it under the hold of that program's time.
    fn kill_left(&self, pid_file: &Path) {
        let Ok(pid) = read_pid(pid_file) else { return };
        // A number from a file is believed only of a child, or of an orphan that came here.
        let ours = kernel_process::stat(pid)
            .is_ok_and(|stat| u32::try_from(stat.parent) == Ok(std::process::id()));
        if ours && let Ok(adopted) = self.reaper.adopt(pid) {
            let _ = adopted.process.kill();
        }
    }

    /// Connects the streams of a process that the runtime has just made, and takes over its exit.
    ///
    /// # Errors
    /// Its pid file, its terminal. The process runs then, and is the caller's to end.
    async fn take_over(
        &self,
        process: &Process,
        prepared: Prepared,
        pid_file: &Path,
        what: &'static str,
    ) -> Result<ExitWatch> {
        let pid = read_pid(pid_file)
            .with_context(|| format!("failed to retrieve OCI runtime {what} pid"))?;
        let adopted = self.reaper.adopt(pid)?;
        process.set_process(adopted.process);
        let io = prepared.begin(&process.endpoints, &self.owner(&process.id)).await?;
        process.set_io(io);
        Ok(adopted.exit)
    }

    /// Runs an exec; gives the watch on its exit.
    ///
    /// # Errors
    /// The state; the runtime's. The exec has ended then.
    pub(crate) async fn start_exec(&self, exec: &Process) -> Result<ExitWatch> {
        let _change = exec.change.lock().await;
        exec.check(Operation::Start)?;
        let started = self.run_exec(exec).await;
        match started {
            Ok(exit) => {
                exec.advance(Phase::Running);
                Ok(exit)
            }
            Err(error) => {
                // It never ran, as far as anybody was told: who waits for it shall not wait for ever.
                exec.set_ended(Ended { status: 255, at: None });
                let _ = fs::remove_file(self.exec_pid_file(&exec.id));
                Err(error)
            }
        }
    }

    async fn run_exec(&self, exec: &Process) -> Result<ExitWatch> {
        let pid_file = self.exec_pid_file(&exec.id);
        let process_file = self.bundle.join(format!(".{}.process.json", exec.id));
        let (io, prepared) = stdio::prepare(&exec.endpoints, &self.owner(&exec.id)).await?;
        let hold = self.reaper.hold().await;
        // One that an earlier exec of this name has left would be taken for the new one's.
        let _ = fs::remove_file(&pid_file);
        let options = ExecOptions { pid_file: &pid_file, process_file: &process_file };
        let run = self.runtime.exec(&self.id, &exec.spec, options, io).await;
        let taken = match run {
            Ok(()) => self.take_over(exec, prepared, &pid_file, "exec").await,
            Err(error) => Err(error.into()),
        };
        if taken.is_err() {
            let _ = fs::remove_file(&process_file);
            if exec.pid() > 0 {
                let _ = exec.signal(SIGKILL);
            } else {
                // The program may have failed after it had done its work.
                self.kill_left(&pid_file);
            }
        }
        drop(hold);
        taken
    }

    fn exec_pid_file(&self, exec_id: &str) -> PathBuf {
        let name = format!("{exec_id}.pid");
        // An exec with that name would take the init process's file.
        if name == INIT_PID_FILE { self.bundle.join(".exec.pid") } else { self.bundle.join(name) }
    }

    /// Sends a signal to a process, or to all of the container.
    ///
    /// # Errors
    /// Not found if the process has ended; the runtime's.
    pub(crate) async fn kill(&self, exec_id: &str, signal: u32, all: bool) -> Result<()> {
        let process = self.process(exec_id)?;
        if !exec_id.is_empty() {
            if process.pid() == 0 {
                return Err(Error::failed_precondition("process not created"));
            }
            return process.signal(signal).map_err(|error| {
                let finished = error.class() == Class::NotFound;
                if finished { error } else { error.context("exec kill error") }
            });
        }
        let direct = !all && self.own_pid_namespace && self.runtime.signals_directly();
        match process.phase() {
            Phase::Deleted => Err(Error::not_found("cannot kill a deleted process")),
            Phase::Created if process.pid() == 0 => {
                Err(Error::failed_precondition("process not created"))
            }
            // Other processes may be left where the kernel has not ended them.
            Phase::Stopped if !all || self.own_pid_namespace => Err(finished()),
            // A frozen process takes no signal; the runtime thaws it for SIGKILL.
            Phase::Created | Phase::Running if direct => process.signal(signal),
            _ => Ok(self.runtime.kill(&self.id, signal, all).await?),
        }
    }

    /// Freezes.
    ///
    /// # Errors
    /// The state; the runtime's.
    pub(crate) async fn pause(&self) -> Result<()> {
        let _change = self.init.change.lock().await;
        self.init.check(Operation::Pause)?;
        self.init.advance(Phase::Pausing);
        let paused = self.runtime.pause(&self.id).await;
        if paused.is_err() {
            // It may have failed after its work, and a frozen process takes no signal.
            let _ = tokio::time::timeout(UNDO_TIMEOUT, self.runtime.resume(&self.id)).await;
        }
        self.init.advance(if paused.is_ok() { Phase::Paused } else { Phase::Running });
        Ok(paused?)
    }

    /// Thaws.
    ///
    /// # Errors
    /// The state; the runtime's.
    pub(crate) async fn resume(&self) -> Result<()> {
        let _change = self.init.change.lock().await;
        self.init.check(Operation::Resume)?;
        let resumed = self.runtime.resume(&self.id).await;
        // It may have failed after its work, and nobody thaws what is not frozen.
        if resumed.is_ok() || self.runs_for_the_runtime().await {
            self.init.advance(Phase::Running);
        }
        Ok(resumed?)
    }

    /// True if the runtime says that the container runs.
    async fn runs_for_the_runtime(&self) -> bool {
        let state = tokio::time::timeout(UNDO_TIMEOUT, self.runtime.state(&self.id)).await;
        matches!(state, Ok(Ok(state)) if state.status == "running")
    }

    /// Changes limits. `resources` is JSON.
    ///
    /// # Errors
    /// Invalid argument for other bytes; the state; the runtime's.
    pub(crate) async fn update(&self, resources: &[u8]) -> Result<()> {
        let _change = self.init.change.lock().await;
        self.init.check(Operation::Update)?;
        serde_json::from_slice::<serde::de::IgnoredAny>(resources)
            .map_err(|error| Error::invalid_argument(format!("resources: {error}")))?;
        Ok(self.runtime.update(&self.id, resources).await?)
    }

    /// Writes an image with CRIU.
    ///
    /// # Errors
    /// The state; the runtime's first line, with the path of CRIU's log. The container is as it was
    /// then.
    pub(crate) async fn checkpoint(&self, mut options: CheckpointOptions) -> Result<()> {
        let _change = self.init.change.lock().await;
        self.init.check(Operation::Checkpoint)?;
        let ran = self.init.phase() == Phase::Running;
        let own_work = options.work_path.as_os_str().is_empty();
        if own_work {
            options.work_path = self.bundle.join("work/criu-work");
        }
        let result = self.runtime.checkpoint(&self.id, &options).await;
        if result.is_err() && ran {
            // One that was killed in its work has left the container frozen.
            let _ = tokio::time::timeout(UNDO_TIMEOUT, self.runtime.resume(&self.id)).await;
        }
        let result = result.map_err(|error| {
            let log = self.bundle.join("criu-dump.log");
            if let Err(error) = fs::copy(options.work_path.join("dump.log"), &log) {
                tracing::error!(%error, "failed to copy dump.log to criu-dump.log");
            }
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default().to_owned();
            Error::new(error.class(), format!("{line} path= {}", log.display()))
        });
        if own_work {
            let _ = fs::remove_dir_all(&options.work_path);
        }
        result
    }

    /// The pids of all processes.
    ///
    /// # Errors
    /// The runtime's.
    pub(crate) async fn pids(&self) -> Result<Vec<u32>> {
        let group = lock(&self.group).clone();
        // What `ps` of a runtime does is to read this list.
        if self.runtime.signals_directly()
            && let Some(pids) = group.and_then(|group| group.pids(true).ok())
        {
            return Ok(pids.into_iter().filter_map(|pid| u32::try_from(pid).ok()).collect());
        }
        Ok(self.runtime.pids(&self.id).await?)
    }

    /// The metrics of its control group.
    ///
    /// # Errors
    /// Not found if there is none.
    pub(crate) fn metrics(&self) -> Result<api_shim::Any> {
        let group = lock(&self.group).clone();
        let group = match group {
            Some(group) => group,
            None => {
                let found = Hierarchies::load()
                    .and_then(|hierarchies| Group::of_pid(&hierarchies, self.init.pid()));
                found.map_err(|_| Error::not_found("cgroup does not exist"))?
            }
        };
        Ok(group.metrics()?.to_any())
    }

    /// Removes a process that does not run. For the init process that is the container itself.
    ///
    /// # Errors
    /// The state; the runtime's; a rootfs that cannot be unmounted.
    pub(crate) async fn delete(
        &self,
        exec_id: &str,
        remainders: &Remainders,
    ) -> Result<Arc<Process>> {
        let process = self.process(exec_id)?;
        let _change = process.change.lock().await;
        process.check(Operation::Delete)?;
        if exec_id.is_empty() {
            self.delete_init(remainders).await?;
        } else {
            close_streams(&process, remainders).await;
            let _ = fs::remove_file(self.exec_pid_file(exec_id));
            lock(&self.execs).remove(exec_id);
        }
        process.advance(Phase::Deleted);
        Ok(process.clone())
    }

    async fn delete_init(&self, remainders: &Remainders) -> Result<()> {
        let never_ran = self.init.phase() == Phase::Created;
        if never_ran {
            lock(&self.restore).take();
            self.runtime.delete(&self.id, true).await?;
            if self.init.pid() != 0 {
                let _ = tokio::time::timeout(KILLED_TIMEOUT, self.init.wait()).await;
            }
        } else {
            if let Some(activity) = self.init.with_io(|io| io.activity()) {
                stdio::drain(&activity).await;
            }
            let nothing_left = self.own_pid_namespace && !self.end_has_hooks;
            if !(nothing_left && self.runtime.discard(&self.id)) {
                self.runtime.delete(&self.id, false).await?;
            }
        }
        close_streams(&self.init, remainders).await;
        for exec in self.execs() {
            if let Some(io) = exec.take_io() {
                io.close(remainders).await;
            }
        }
        match &self.rootfs {
            Some(rootfs) => unmount_rootfs(rootfs).context("failed rootfs umount"),
            None => Ok(()),
        }
    }

    /// Ends all processes of a container that has lost its init process, where the kernel does not.
    pub(crate) async fn kill_leftovers(&self) {
        if self.own_pid_namespace {
            return;
        }
        let kill = self.runtime.kill(&self.id, SIGKILL, true);
        match tokio::time::timeout(KILLED_TIMEOUT, kill).await {
            Ok(Ok(()) | Err(runtime_runc::Error::Finished | runtime_runc::Error::NoContainer)) => {}
            Ok(Err(error)) => {
                tracing::error!(%error, container = self.id, "failed to kill init's children");
            }
            Err(_) => {
                tracing::error!(container = self.id, "the runtime does not kill init's children");
            }
        }
    }
}

/// Waits for the rest of a process's output and ends its streams.
async fn close_streams(process: &Process, remainders: &Remainders) {
    if let Some(io) = process.take_io() {
        stdio::drain(&io.activity()).await;
        io.close(remainders).await;
    }
}

/// Reads a pid file.
pub(crate) fn read_pid(path: &Path) -> Result<i32> {
    let text = fs::read_to_string(path)
        .map_err(|error| Error::unknown(format!("open {}: {error}", path.display())))?;
    let damaged = || Error::unknown(format!("{}: no pid in {text:?}", path.display()));
    text.trim().parse().ok().filter(|pid| *pid > 0).ok_or_else(damaged)
}

/// Unmounts everything on a rootfs. One that is busy is detached: its last user lets it go.
///
/// # Errors
/// If it stays even so.
pub(crate) fn unmount_rootfs(rootfs: &Path) -> Result<()> {
    match kernel_mount::unmount_all(rootfs, UnmountFlags::empty()) {
        Ok(()) => Ok(()),
        Err(kernel_mount::Error::Unmount { errno, .. }) if errno == rustix::io::Errno::NOENT => {
            Ok(())
        }
        Err(_) => Ok(kernel_mount::unmount_all(rootfs, UnmountFlags::DETACH)?),
    }
}
