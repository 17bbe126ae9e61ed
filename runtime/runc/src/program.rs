//! A program with runc's command line.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use kernel_enter::Door;
use kernel_process::PidFd;
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot::error::TryRecvError;

use crate::arguments::Arguments;
use crate::runtime::{
    CheckpointOptions, ContainerState, CreateOptions, ExecOptions, Io, OciRuntime, RestoreOptions,
};
use crate::watch::watch;
use crate::{Error, ExitWatch, Reaper, Result, discard, enter, gate, log};

/// The program that is run when none is named.
pub const DEFAULT_PROGRAM: &str = "runc";

/// The most output of a program that is kept; `ps` of a large container and `features` are the
/// longest, far below this.
const MAX_OUTPUT: usize = 4 << 20;

/// How long a command may take. Just below the two minutes that a daemon waits for a call, so that
/// the answer tells what hangs.
const USUAL_LIMIT: Duration = Duration::from_secs(110);

/// How long a checkpoint or a restoration may take: memory by the gigabyte goes to a disk. Below the
/// quarter of an hour that a daemon waits for it.
const LONG_LIMIT: Duration = Duration::from_secs(14 * 60);

/// How long a killed program may take to be gone; one that hangs in the kernel is left behind.
const KILLED_GRACE: Duration = Duration::from_secs(5);

/// How long programs may take before they are killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Every command but the two below.
    pub usual: Duration,
    /// `checkpoint` and `restore`.
    pub long: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { usual: USUAL_LIMIT, long: LONG_LIMIT }
    }
}

/// How often a container is deleted that the runtime keeps although it says that it has deleted it,
/// and the first pause between; it doubles. 1.3 s in all.
///
/// COMPAT: runc 1.1 ends with 0 when a process that is just dying keeps the control group busy.
const DELETE_TRIES: u32 = 7;
const DELETE_PAUSE: Duration = Duration::from_millis(20);

/// Runtimes whose `kill` of an init process in its own pid namespace is no more than `kill(2)`.
const DIRECT_SIGNALS: [&str; 3] = ["runc", "crun", "youki"];

/// How a program of the machine's own format begins.
const EXECUTABLE: [u8; 4] = *b"\x7fELF";

/// An OCI runtime that is a program with runc's command line.
#[derive(Clone)]
pub struct RuncProgram {
    /// A name for the search path, or an absolute path.
    program: String,
    /// Where the runtime keeps its state.
    root: PathBuf,
    /// Where the runtime writes its log, as JSON lines.
    log: Option<PathBuf>,
    systemd_cgroup: bool,
    reaper: Reaper,
    limits: Limits,
    /// Where the search path has led to, once it has.
    found: OnceLock<PathBuf>,
    /// Whether it is runc itself, once that is known.
    is_runc: OnceLock<bool>,
    /// Whether processes may be added without the program.
    enters: bool,
    /// Through which they are, once one has been; `None` where it cannot be opened.
    door: OnceLock<Option<Arc<Door>>>,
}

/// A program that runs. Dropped before its end, it is killed with its process group.
struct Running {
    pid: i32,
    exit: ExitWatch,
    ended: bool,
}

impl RuncProgram {
    /// Describes the program; nothing is run. An empty `program` means `runc`.
    #[must_use]
    pub fn new(
        program: &str,
        root: PathBuf,
        log: Option<PathBuf>,
        systemd_cgroup: bool,
        reaper: Reaper,
    ) -> Self {
        let program = if program.is_empty() { DEFAULT_PROGRAM } else { program }.to_owned();
        RuncProgram {
            program,
            root,
            log,
            systemd_cgroup,
            reaper,
            limits: Limits::default(),
            found: OnceLock::new(),
            is_runc: OnceLock::new(),
            enters: false,
            door: OnceLock::new(),
        }
    }

    /// The same program, relieved of adding processes where that can be done without it. For
    /// programs whose `main` knows [`kernel_enter::ARGUMENT`].
    #[must_use]
    pub fn with_enter(self, enters: bool) -> Self {
        RuncProgram { enters, ..self }
    }

    /// The same program with other limits of time.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        RuncProgram { limits, ..self }
    }

    /// The name of the program, as configured.
    #[must_use]
    pub fn program(&self) -> &str {
        &self.program
    }

    fn arguments(&self, operation: &'static str) -> Arguments {
        // Without its folder there is no log: a container whose bundle is gone can still be
        // signalled and deleted.
        let log = self.log.as_deref().filter(|log| log.parent().is_some_and(Path::is_dir));
        let mut arguments = Arguments::global(&self.root, log, self.systemd_cgroup);
        arguments.operation(operation);
        arguments
    }

    fn limit(&self, operation: &str) -> Duration {
        match operation {
            "checkpoint" | "restore" => self.limits.long,
            _ => self.limits.usual,
        }
    }

    fn command(&self, arguments: Arguments) -> Command {
        let mut command = Command::new(self.path());
        command.arg0(&self.program).args(arguments.words);
        // The daemon's readiness socket is none of the container's business.
        command.env_remove("NOTIFY_SOCKET");
        command
    }

    /// The program's file; its name, if the search path does not have it.
    fn path(&self) -> &Path {
        if let Some(found) = self.found.get() {
            return found;
        }
        match search(&self.program) {
            Some(found) => self.found.get_or_init(|| found),
            None => Path::new(&self.program),
        }
    }

    /// True if the program is runc itself, whose files we know, and not a script of that name.
    fn is_runc(&self) -> bool {
        *self.is_runc.get_or_init(|| is_runc(self.path()))
    }

    /// Starts a program. `command` is dropped, and its streams with it: the program alone holds
    /// its ends, or nobody would ever see their closing.
    fn spawn(&self, mut command: Command) -> Result<Running> {
        kernel_process::die_with_parent(&mut command);
        // A group of its own, so that a wrapper is killed with what it runs. The container is not
        // in it: every runtime gives it a session of its own.
        command.process_group(0);
        let (pid, exit) = self.reaper.spawn(&mut command)?;
        Ok(Running { pid, exit, ended: false })
    }

    /// Makes a process in a group of its own: runs to the end with the given streams.
    async fn run_with_io(&self, arguments: Arguments, io: Io) -> Result<()> {
        match io {
            Io::Streams { stdin, stdout, stderr } => {
                let operation = arguments.name;
                let mut command = self.command(arguments);
                let stream = |fd: Option<OwnedFd>| fd.map_or_else(Stdio::null, Stdio::from);
                command.stdin(stream(stdin)).stdout(stream(stdout)).stderr(stream(stderr));
                let running = self.spawn(command)?;
                // After the start: the wait is for what the program does when it is up.
                let _lead = kernel_cgroup::expect_moves();
                let status = self.end(running, operation).await?;
                self.succeeded(status, String::new())
            }
            Io::Console(_) => self.run(arguments).await.map(drop),
        }
    }

    /// Runs to the end; gives standard output and error together.
    async fn run(&self, arguments: Arguments) -> Result<String> {
        self.run_captured(arguments, None).await
    }

    async fn run_captured(&self, arguments: Arguments, input: Option<&[u8]>) -> Result<String> {
        let operation = arguments.name;
        let limit = self.limit(operation);
        let mut command = self.command(arguments);
        let pipe =
            |step| move |errno: rustix::io::Errno| Error::System { step, source: errno.into() };
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).map_err(pipe("make a pipe"))?;
        rustix::io::ioctl_fionbio(&reader, true).map_err(pipe("set up a pipe"))?;
        let second =
            writer.try_clone().map_err(|source| Error::System { step: "make a pipe", source })?;
        command.stdin(Stdio::null()).stdout(writer).stderr(second);
        if let Some(input) = input {
            command.stdin(Stdio::from(memory_file(input)?));
        }
        let mut running = self.spawn(command)?;
        let reader = watch(File::from(reader), Interest::READABLE)
            .map_err(|source| Error::System { step: "watch a pipe", source })?;
        let mut output = Vec::new();
        let read = read_until_end(&mut running, &reader, &mut output);
        let status = match tokio::time::timeout(limit, read).await {
            Ok(status) => status?,
            Err(_) => return Err(self.hung(running, operation, limit).await),
        };
        // What the program wrote is in the pipe by now. An orphan that still holds the pipe is
        // not waited for.
        while let Ok(count) = read_some(reader.get_ref(), &mut output)
            && count > 0
        {}
        let output = String::from_utf8_lossy(&output).into_owned();
        self.succeeded(status, output.trim().to_owned())?;
        Ok(output)
    }

    /// Adds a process without the program. False if that is the program's to do.
    async fn enter(&self, id: &str, process: &[u8], pid_file: &Path, io: &Io) -> Result<bool> {
        const OPERATION: &str = "exec";
        let Io::Streams { stdin, stdout, stderr } = io else { return Ok(false) };
        if !self.enters || !self.is_runc() {
            return Ok(false);
        }
        let Some(order) = enter::order(&self.root.join(id), process, pid_file) else {
            return Ok(false);
        };
        let Some(door) = self.door.get_or_init(|| {
            let warn =
                |error: &base_fs::Error| tracing::warn!(%error, "execs are left to the runtime");
            Door::open().inspect_err(warn).ok().map(Arc::new)
        }) else {
            return Ok(false);
        };
        let no_order = |source| Error::System { step: "give an order", source };
        let (mut command, ordered) = door.command(&order).map_err(no_order)?;
        let stream = |fd: &Option<OwnedFd>| {
            fd.as_ref().map_or(Ok(Stdio::null()), |fd| fd.try_clone().map(Stdio::from))
        };
        command.stdin(stream(stdin).map_err(no_order)?);
        command.stdout(stream(stdout).map_err(no_order)?);
        command.stderr(stream(stderr).map_err(no_order)?);
        let running = self.spawn(command)?;
        let status = self.end(running, OPERATION).await?;
        if status != 0 {
            let reason = ordered.reason();
            tracing::debug!(id, reason, "the runtime is asked to exec");
        }
        Ok(status == 0)
    }

    /// Waits for the end within the limit; gives the status.
    async fn end(&self, mut running: Running, operation: &str) -> Result<u32> {
        let limit = self.limit(operation);
        match tokio::time::timeout(limit, running.wait()).await {
            Ok(status) => status,
            Err(_) => Err(self.hung(running, operation, limit).await),
        }
    }

    /// Kills a program that takes too long, and waits for its death.
    async fn hung(&self, mut running: Running, operation: &str, limit: Duration) -> Error {
        tracing::error!(program = self.program, operation, "the runtime hangs and is killed");
        running.kill();
        let _ = tokio::time::timeout(KILLED_GRACE, running.wait()).await;
        Error::Hung { program: self.program.clone(), operation: operation.to_owned(), limit }
    }

    fn succeeded(&self, status: u32, output: String) -> Result<()> {
        if status == 0 {
            return Ok(());
        }
        Err(Error::Exit { program: self.program.clone(), status, output })
    }

    fn log_mark(&self) -> u64 {
        self.log.as_deref().map_or(0, log::length)
    }

    /// The failure of `operation` in the words of the runtime's log, from byte `mark` on.
    fn explain(&self, operation: &'static str, mark: u64) -> impl FnOnce(Error) -> Error {
        let log = self.log.clone();
        move |cause| {
            let hung = matches!(cause, Error::Hung { .. });
            let cause = Box::new(cause);
            if hung {
                return Error::Silent { operation, cause };
            }
            let Some(log) = log else { return Error::Silent { operation, cause } };
            match log::last_error(&log, mark) {
                Ok(Some(message)) if !message.is_empty() => Error::Logged { operation, message },
                Ok(_) => Error::Silent { operation, cause },
                Err(reason) => Error::Unlogged { operation, reason, cause },
            }
        }
    }

    /// Whether the runtime keeps a container; `None` where only the runtime can tell.
    fn keeps(&self, id: &str) -> Option<bool> {
        // INVARIANT: runc, crun and youki all keep their state in `<root>/<id>`.
        if self.signals_directly() { fs::exists(self.root.join(id)).ok() } else { None }
    }

    /// Runs `operation id` and explains a failure.
    async fn simple(&self, command: &'static str, id: &str, operation: &'static str) -> Result<()> {
        let mark = self.log_mark();
        let mut arguments = self.arguments(command);
        arguments.word(id);
        self.run(arguments).await.map(drop).map_err(self.explain(operation, mark))
    }

    fn answer<T: serde::de::DeserializeOwned>(
        &self,
        operation: &'static str,
        text: &str,
    ) -> Result<T> {
        serde_json::from_str(text).map_err(|error| Error::Answer {
            program: self.program.clone(),
            operation,
            reason: error.to_string(),
        })
    }
}

#[async_trait]
impl OciRuntime for RuncProgram {
    async fn create(
        &self,
        id: &str,
        bundle: &Path,
        options: CreateOptions<'_>,
        io: Io,
    ) -> Result<()> {
        let mark = self.log_mark();
        let mut arguments = self.arguments("create");
        arguments.pair("--bundle", bundle);
        arguments.pair("--pid-file", options.pid_file);
        if let Io::Console(socket) = &io {
            arguments.pair("--console-socket", socket);
        }
        arguments.flag("--no-pivot", options.no_pivot);
        arguments.flag("--no-new-keyring", options.no_new_keyring);
        arguments.word(id);
        self.run_with_io(arguments, io)
            .await
            .map_err(self.explain("OCI runtime create failed", mark))
    }

    async fn start(&self, id: &str, init: Option<Arc<PidFd>>) -> Result<()> {
        const FAILED: &str = "OCI runtime start failed";
        if let Some(init) = init
            && self.is_runc()
        {
            let folder = self.root.join(id);
            match tokio::time::timeout(self.limits.usual, gate::open(&folder, &init)).await {
                Ok(Ok(true)) => return Ok(()),
                Ok(Ok(false)) => {}
                // It says better than we can what is wrong.
                Ok(Err(error)) => tracing::warn!(id, %error, "the runtime is asked to start"),
                Err(_) => {
                    let program = self.program.clone();
                    let (operation, limit) = ("start".to_owned(), self.limits.usual);
                    let cause = Box::new(Error::Hung { program, operation, limit });
                    return Err(Error::Silent { operation: FAILED, cause });
                }
            }
        }
        self.simple("start", id, FAILED).await
    }

    async fn exec(&self, id: &str, process: &[u8], options: ExecOptions<'_>, io: Io) -> Result<()> {
        const FAILED: &str = "OCI runtime exec failed";
        let mark = self.log_mark();
        let entered = self.enter(id, process, options.pid_file, &io).await;
        if entered.map_err(self.explain(FAILED, mark))? {
            return Ok(());
        }
        write_private(options.process_file, process)?;
        let mut arguments = self.arguments("exec");
        arguments.pair("--process", options.process_file);
        if let Io::Console(socket) = &io {
            arguments.pair("--console-socket", socket);
        }
        arguments.flag("--detach", true);
        arguments.pair("--pid-file", options.pid_file);
        arguments.word(id);
        let result = self.run_with_io(arguments, io).await;
        let _ = fs::remove_file(options.process_file);
        result.map_err(self.explain(FAILED, mark))
    }

    async fn kill(&self, id: &str, signal: u32, all: bool) -> Result<()> {
        let mut arguments = self.arguments("kill");
        arguments.flag("--all", all);
        arguments.word(id);
        arguments.word(signal.to_string());
        self.run(arguments).await.map(drop).map_err(kill_error)
    }

    async fn delete(&self, id: &str, force: bool) -> Result<()> {
        let mark = self.log_mark();
        let mut pause = DELETE_PAUSE;
        for _ in 0..DELETE_TRIES {
            let mut arguments = self.arguments("delete");
            arguments.flag("--force", force);
            arguments.word(id);
            match self.run(arguments).await {
                // The runtime has deleted it already, as it does after a checkpoint.
                Err(error) if error.to_string().contains("does not exist") => {}
                Err(error) => return Err(self.explain("failed to delete task", mark)(error)),
                Ok(_) => {}
            }
            if self.keeps(id) != Some(true) {
                return Ok(());
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        tracing::error!(program = self.program, id, "the runtime keeps what it has deleted");
        Ok(())
    }

    fn discard(&self, id: &str) -> bool {
        // systemd removes its groups itself, when it is told.
        !self.systemd_cgroup && self.is_runc() && discard::discard(&self.root.join(id))
    }

    async fn pause(&self, id: &str) -> Result<()> {
        self.simple("pause", id, "OCI runtime pause failed").await
    }

    async fn resume(&self, id: &str) -> Result<()> {
        self.simple("resume", id, "OCI runtime resume failed").await
    }

    async fn update(&self, id: &str, resources: &[u8]) -> Result<()> {
        let mut arguments = self.arguments("update");
        arguments.word("--resources=-");
        arguments.word(id);
        self.run_captured(arguments, Some(resources)).await.map(drop)
    }

    async fn pids(&self, id: &str) -> Result<Vec<u32>> {
        let mut arguments = self.arguments("ps");
        arguments.pair("--format", "json");
        arguments.word(id);
        let text = self.run(arguments).await?;
        // runc writes `null` for a container without processes.
        Ok(self.answer::<Option<Vec<u32>>>("ps", &text)?.unwrap_or_default())
    }

    async fn state(&self, id: &str) -> Result<ContainerState> {
        let mut arguments = self.arguments("state");
        arguments.word(id);
        let text = self.run(arguments).await?;
        self.answer("state", &text)
    }

    async fn checkpoint(&self, id: &str, options: &CheckpointOptions) -> Result<()> {
        let mut arguments = self.arguments("checkpoint");
        arguments.checkpoint(options);
        arguments.flag("--leave-running", options.leave_running);
        arguments.word(id);
        self.run(arguments).await.map(drop)
    }

    async fn restore(
        &self,
        id: &str,
        bundle: &Path,
        options: RestoreOptions<'_>,
        io: Io,
    ) -> Result<()> {
        let mark = self.log_mark();
        let mut arguments = self.arguments("restore");
        arguments.checkpoint(&options.checkpoint);
        arguments.flag("--detach", true);
        if let Io::Console(socket) = &io {
            arguments.pair("--console-socket", socket);
        }
        arguments.pair("--pid-file", options.pid_file);
        arguments.flag("--no-subreaper", true);
        arguments.flag("--no-pivot", options.no_pivot);
        arguments.pair("--bundle", bundle);
        arguments.word(id);
        self.run_with_io(arguments, io)
            .await
            .map_err(self.explain("OCI runtime restore failed", mark))
    }

    async fn features(&self) -> Result<String> {
        let mut arguments = Arguments::default();
        arguments.operation("features");
        let text = self.run(arguments).await?;
        self.answer::<serde::de::IgnoredAny>("features", &text)?;
        Ok(text)
    }

    async fn version(&self) -> Result<String> {
        let mut arguments = Arguments::default();
        arguments.operation("--version");
        let text = self.run(arguments).await?;
        Ok(text.lines().next().unwrap_or_default().to_owned())
    }

    fn is_gone(&self, id: &str) -> bool {
        self.keeps(id) == Some(false)
    }

    fn signals_directly(&self) -> bool {
        Path::new(&self.program)
            .file_name()
            .and_then(OsStr::to_str)
            .is_some_and(|name| DIRECT_SIGNALS.contains(&name))
    }
}

// === impl Running ===

impl Running {
    /// Waits for the end; gives the status.
    async fn wait(&mut self) -> Result<u32> {
        let exit = (&mut self.exit).await;
        self.ended = true;
        exit.map(|exit| exit.status).map_err(|_| reaper_gone())
    }

    fn kill(&mut self) {
        let group = rustix::process::Pid::from_raw(self.pid);
        // INVARIANT: its exit has not been collected, so the number is still its group's.
        if let (false, Err(TryRecvError::Empty), Some(group)) =
            (self.ended, self.exit.try_recv(), group)
        {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        } else {
            self.ended = true;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Reads a program's output while it runs; gives its status.
async fn read_until_end(
    running: &mut Running,
    reader: &AsyncFd<File>,
    output: &mut Vec<u8>,
) -> Result<u32> {
    loop {
        tokio::select! {
            status = running.wait() => return status,
            ready = reader.readable() => {
                let Ok(mut ready) = ready else { return running.wait().await };
                let read = ready.try_io(|file| read_some(file.get_ref(), output));
                if let Ok(Ok(0) | Err(_)) = read {
                    return running.wait().await;
                }
            }
        }
    }
}

/// True for an executable of that name; a wrapper script is none.
fn is_runc(program: &Path) -> bool {
    let mut start = [0; EXECUTABLE.len()];
    program.file_name().is_some_and(|name| name == DEFAULT_PROGRAM)
        && File::open(program).is_ok_and(|mut file| file.read_exact(&mut start).is_ok())
        && start == EXECUTABLE
}

/// Looks for a program in the search path. A name with a slash is a path already.
fn search(program: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return None;
    }
    let folders = std::env::var_os("PATH")?;
    std::env::split_paths(&folders).map(|folder| folder.join(program)).find(|path| {
        fs::metadata(path)
            .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    })
}

fn reaper_gone() -> Error {
    let source = io::Error::from(io::ErrorKind::BrokenPipe);
    Error::System { step: "wait for an exit", source }
}

/// What a failed `kill` means, by the words that runc and crun use.
fn kill_error(error: Error) -> Error {
    let text = error.to_string();
    if text.contains("os: process already finished")
        || text.contains("container not running")
        || text.to_lowercase().contains("no such process")
    {
        Error::Finished
    } else if text.contains("does not exist") {
        Error::NoContainer
    } else {
        Error::Kill(Box::new(error))
    }
}

/// Reads once, at most a page or sixteen; what exceeds [`MAX_OUTPUT`] is read and dropped.
fn read_some(mut file: &File, output: &mut Vec<u8>) -> io::Result<usize> {
    let mut buffer = [0; 4096];
    let count = file.read(&mut buffer)?;
    let room = MAX_OUTPUT.saturating_sub(output.len());
    output.extend_from_slice(&buffer[..count.min(room)]);
    Ok(count)
}

/// A file without a name that holds `bytes`, at its beginning.
fn memory_file(bytes: &[u8]) -> Result<File> {
    let fail = |source: io::Error| Error::System { step: "make a memory file", source };
    let file = rustix::fs::memfd_create("input", rustix::fs::MemfdFlags::CLOEXEC)
        .map_err(|errno| fail(errno.into()))?;
    let mut file = File::from(file);
    file.write_all(bytes).map_err(fail)?;
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0)).map_err(|errno| fail(errno.into()))?;
    Ok(file)
}

/// Writes a file that only its owner can read; an older one is replaced.
fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    let fail = |source| Error::File { operation: "write", path: path.to_owned(), source };
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map_err(fail)?;
    file.write_all(bytes).map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrappers_and_other_runtimes_are_not_runc() {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let named = |name: &str| folder.path().join(name);
        fs::copy("/proc/self/exe", named("runc")).unwrap();
        assert!(is_runc(&named("runc")));
        fs::copy("/proc/self/exe", named("crun")).unwrap();
        assert!(!is_runc(&named("crun")));
        fs::write(named("runc"), "#!/bin/sh\nexec /usr/sbin/runc \"$@\"\n").unwrap();
        fs::set_permissions(named("runc"), fs::Permissions::from_mode(0o755)).unwrap();
        assert!(!is_runc(&named("runc")));
        assert!(!is_runc(&named("missing/runc")));
    }
}
