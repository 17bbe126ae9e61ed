//! The program that carries out an order: it joins, makes the child, and waits for its exec.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use kernel_process::PidFd;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::process::{DumpableBehavior, Pid, WaitOptions, set_dumpable_behavior, waitpid};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use crate::door::ORDER;
use crate::{Declined, Order, identity, program};

/// How the helper is called in lists of processes.
pub(crate) const NAME: &str = "containerd-shim-enter";

/// The largest order: environments of 10 MiB, written as JSON.
const MAX_ORDER: u64 = 64 << 20;

/// The longest reason that a child tells.
const MAX_REASON: u64 = 4 << 10;

/// `CLONE_INTO_CGROUP` of `clone3(2)`.
const INTO_CGROUP: u64 = 0x2_0000_0000;

/// What the child has to have from the outside.
struct Outside {
    /// `tasks` of the groups of version 1, to write.
    groups: Vec<File>,
    /// The group of version 2.
    unified: Option<OwnedFd>,
    /// The folder of the pid file, and its name there.
    pid_folder: OwnedFd,
    pid_name: PathBuf,
    init: PidFd,
}

/// `struct clone_args` of `clone3(2)`, up to the control group.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Carries out the order that [`Door::command`](crate::Door::command) has handed over. This process
/// must have been started by that, and has done nothing yet.
#[must_use]
pub fn carry_out() -> ExitCode {
    // SAFETY: the caller has put the order there, and nothing else has taken it.
    let mut file = unsafe { File::from_raw_fd(ORDER) };
    let done = try_carry_out(&mut file);
    if let Err(reason) = &done {
        let _ = file.rewind().and_then(|()| file.set_len(0));
        let _ = file.write_all(reason.to_string().as_bytes());
    }
    if done.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn try_carry_out(file: &mut File) -> Result<(), Declined> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(Declined::at("hide"))?;
    let mut text = Vec::new();
    file.take(MAX_ORDER).read_to_end(&mut text).map_err(Declined::at("read the order"))?;
    let order: Order = serde_json::from_slice(&text).map_err(Declined::at("read the order"))?;
    drop(text);
    let outside = Outside::open(&order)?;
    if let Some(score) = order.oom_score_adj {
        // The child has it from us.
        std::fs::write("/proc/self/oom_score_adj", score.to_string())
            .map_err(Declined::at("set the OOM score"))?;
    }
    let (told, tell) = std::io::pipe().map_err(Declined::at("make a pipe"))?;
    let namespaces = ThreadNameSpaceType::from_bits(order.namespaces)
        .ok_or_else(|| Declined::new("unknown namespaces"))?;
    move_into_thread_name_spaces(outside.init.as_fd(), namespaces)
        .map_err(Declined::at("join the namespaces"))?;
    match clone_into(outside.unified.as_ref())? {
        None => {
            drop(told);
            child(&order, outside.groups, tell)
        }
        Some(pid) => {
            drop(tell);
            parent(pid, &outside, told)
        }
    }
}

/// The child's life: it becomes the program, or tells why not and ends.
fn child(order: &Order, groups: Vec<File>, mut tell: PipeWriter) -> Result<(), Declined> {
    let reason = match become_program(order, groups, &mut tell) {
        Ok(never) => match never {},
        Err(reason) => reason.to_string(),
    };
    let _ = tell.write_all(reason.as_bytes());
    // SAFETY: it ends this process, which has nothing to flush or to undo.
    unsafe { libc::_exit(1) }
}

/// Waits until the child is the program. A pipe that closes without a word says so.
fn parent(pid: Pid, outside: &Outside, told: PipeReader) -> Result<(), Declined> {
    let written = outside.write_pid(pid);
    let mut reason = String::new();
    let read = told.take(MAX_REASON).read_to_string(&mut reason);
    let failed = match (written, read) {
        (Ok(()), Ok(0)) => return Ok(()),
        (Ok(()), Ok(_)) => Declined::new(reason),
        (Ok(()), Err(error)) => Declined::at("wait for the exec")(error),
        // It may run already; it has not been seen by anybody.
        (Err(reason), _) => reason,
    };
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    let _ = waitpid(Some(pid), WaitOptions::empty());
    let _ =
        rustix::fs::unlinkat(&outside.pid_folder, &outside.pid_name, rustix::fs::AtFlags::empty());
    Err(failed)
}

fn become_program(
    order: &Order,
    groups: Vec<File>,
    tell: &mut PipeWriter,
) -> Result<std::convert::Infallible, Declined> {
    for mut group in groups {
        // A process of one thread moves by its thread, which waits for nobody: moving a whole
        // process takes a lock against every fork of the machine.
        group.write_all(b"0").map_err(Declined::at("join a control group"))?;
    }
    rustix::process::setsid().map_err(Declined::at("begin a session"))?;
    identity::limits(order)?;
    identity::keyring(order)?;
    close_others(tell)?;
    // Some folders are the user's alone, and some are root's.
    let early = rustix::process::chdir(order.cwd.as_str());
    identity::take(order)?;
    if early.is_err() {
        rustix::process::chdir(order.cwd.as_str()).map_err(Declined::at("enter the folder"))?;
    }
    let folder = rustix::process::getcwd(Vec::new()).map_err(Declined::at("see the folder"))?;
    if !folder.as_bytes().starts_with(b"/") {
        return Err(Declined::new("the folder is outside of the container"));
    }
    program::run(order)
}

/// Closes all descriptors but the standard streams and `tell`, which gets the number 3 and closes
/// with the exec.
fn close_others(tell: &mut PipeWriter) -> Result<(), Declined> {
    let failed =
        || Declined::new(format!("close descriptors: {}", std::io::Error::last_os_error()));
    if tell.as_raw_fd() != ORDER {
        // SAFETY: the number 3 was the order's, which the parent alone answers.
        let moved = unsafe { libc::dup3(tell.as_raw_fd(), ORDER, libc::O_CLOEXEC) };
        if moved < 0 {
            return Err(failed());
        }
        // SAFETY: `dup3` has just made it, and this is its only owner. The old number is closed by
        // the drop of the old writer.
        *tell = PipeWriter::from(unsafe { OwnedFd::from_raw_fd(ORDER) });
    }
    // SAFETY: nothing in this process uses descriptors above 3 from here on.
    if unsafe { libc::syscall(libc::SYS_close_range, ORDER + 1, u32::MAX, 0) } != 0 {
        return Err(failed());
    }
    Ok(())
}

/// Forks; the child is in the group from its first moment. Gives the pid to the parent.
fn clone_into(group: Option<&OwnedFd>) -> Result<Option<Pid>, Declined> {
    let mut args = CloneArgs {
        exit_signal: u64::try_from(libc::SIGCHLD).unwrap_or_default(),
        ..CloneArgs::default()
    };
    if let Some(group) = group {
        args.flags = INTO_CGROUP;
        args.cgroup = u64::try_from(group.as_raw_fd()).unwrap_or_default();
    }
    // SAFETY: `args` is a `struct clone_args` of the given size. Without CLONE_VM and with no stack
    // it is a fork of a process that has one thread, so no lock is held by anybody in the child.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>()) };
    match pid {
        0 => Ok(None),
        pid if pid > 0 => Ok(i32::try_from(pid).ok().and_then(Pid::from_raw)),
        _ => Err(Declined::at("clone")(std::io::Error::last_os_error())),
    }
}

impl Outside {
    fn open(order: &Order) -> Result<Self, Declined> {
        let init = PidFd::open(order.init).map_err(Declined::at("open the init process"))?;
        // After the opening: the pid is its own from here on.
        let start = kernel_process::start_time(order.init).map_err(Declined::at("init process"))?;
        if start != order.init_start {
            return Err(Declined::new("the init process is another one"));
        }
        let group = |folder: &PathBuf| File::options().write(true).open(folder.join("tasks"));
        let folder = |path: &Path| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            openat(CWD, path, flags, Mode::empty())
        };
        let (Some(pid_folder), Some(name)) = (order.pid_file.parent(), order.pid_file.file_name())
        else {
            return Err(Declined::new("no pid file"));
        };
        Ok(Outside {
            groups: order
                .groups
                .iter()
                .map(group)
                .collect::<Result<_, _>>()
                .map_err(Declined::at("open a control group"))?,
            unified: order
                .unified
                .as_deref()
                .map(folder)
                .transpose()
                .map_err(Declined::at("open the control group"))?,
            pid_folder: folder(pid_folder).map_err(Declined::at("open the pid file's folder"))?,
            pid_name: PathBuf::from(OsStr::new(name)),
            init,
        })
    }

    /// Writes the pid file, whole or not at all for who reads it.
    fn write_pid(&self, pid: Pid) -> Result<(), Declined> {
        let mut draft = self.pid_name.clone().into_os_string();
        draft.push(".new");
        let write = || -> std::io::Result<()> {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
            let mode = Mode::from_raw_mode(0o644);
            let file = openat(&self.pid_folder, draft.as_os_str(), flags, mode)?;
            File::from(file).write_all(pid.as_raw_nonzero().to_string().as_bytes())?;
            let folder = &self.pid_folder;
            Ok(rustix::fs::renameat(folder, draft.as_os_str(), folder, &self.pid_name)?)
        };
        write().map_err(Declined::at("write the pid file"))
    }
}
