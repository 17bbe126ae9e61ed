//! Children: what has to happen between fork and exec, and a fork without exec.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Signal, set_parent_process_death_signal};

/// Where descriptors are parked before they get their number in a child: above all numbers that
/// a protocol between parent and child gives out.
const PARKING: RawFd = 64;

/// Which side of a [`fork_single_threaded`] this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fork {
    /// The caller, with the pid of its child.
    Parent(i32),
    /// The child.
    Child,
}

/// Kills the child (`SIGKILL`) when the thread that started it ends.
pub fn die_with_parent(command: &mut Command) {
    let hook = || set_parent_process_death_signal(Some(Signal::KILL)).map_err(io::Error::from);
    // SAFETY: the hook makes one system call; it neither allocates nor locks.
    unsafe { command.pre_exec(hook) };
}

/// Gives the child each descriptor under its number, open across exec.
///
/// # Errors
/// The system's error if descriptors have run out.
pub fn map_descriptors(
    command: &mut Command,
    descriptors: Vec<(OwnedFd, RawFd)>,
) -> io::Result<()> {
    let mut parked = Vec::with_capacity(descriptors.len());
    let highest = descriptors.iter().map(|(_, number)| *number).max().unwrap_or(0);
    for (descriptor, number) in &descriptors {
        let copy = rustix::io::fcntl_dupfd_cloexec(descriptor, PARKING.max(highest + 1))?;
        parked.push((copy, *number));
    }
    // The standard library opens a pipe of its own for the child's report of a failed exec. As
    // long as the numbers are taken in the parent, that pipe cannot get one of them.
    let mut placeholders = Vec::new();
    if let Some((first, _)) = parked.first() {
        loop {
            let placeholder = rustix::io::fcntl_dupfd_cloexec(first, 0)?;
            let beyond = placeholder.as_raw_fd() > highest;
            placeholders.push(placeholder);
            if beyond {
                break;
            }
        }
    }
    let hook = move || {
        let _taken = &placeholders;
        for (descriptor, number) in &parked {
            // SAFETY: both numbers are plain integers; `dup2` is async-signal-safe and the child
            // owns nothing under `number` that it still needs.
            if unsafe { libc::dup2(descriptor.as_raw_fd(), *number) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: the hook makes system calls only; it neither allocates nor locks.
    unsafe { command.pre_exec(hook) };
    drop(descriptors);
    Ok(())
}

/// Forks this process, which must have one thread only, so that the child may go on with anything.
///
/// # Errors
/// `InvalidInput` if there are more threads; the system's error if it cannot fork.
pub fn fork_single_threaded() -> io::Result<Fork> {
    let threads = std::fs::read_dir("/proc/self/task")?.count();
    if threads != 1 {
        let reason = format!("cannot fork a process of {threads} threads");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
    }
    // SAFETY: no other thread exists that could hold a lock or be in the middle of a change.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(pid)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::process::Stdio;

    #[test]
    fn descriptors_arrive_under_their_numbers() {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let mut descriptors = Vec::new();
        for number in 3..6 {
            let file = std::fs::File::create(folder.path().join(number.to_string())).unwrap();
            descriptors.push((OwnedFd::from(file), number));
        }
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "for n in 3 4 5; do eval \"echo is $n >&$n\"; done"]);
        command.stdin(Stdio::null());
        map_descriptors(&mut command, descriptors).unwrap();
        die_with_parent(&mut command);
        assert!(command.status().unwrap().success());
        for number in 3..6 {
            let mut text = String::new();
            let path = folder.path().join(number.to_string());
            std::fs::File::open(path).unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, format!("is {number}\n"));
        }
    }

    #[test]
    fn a_failed_exec_is_reported_even_with_mapped_descriptors() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let mut command = Command::new("/nonexistent/program");
        map_descriptors(&mut command, vec![(OwnedFd::from(file), 5)]).unwrap();
        assert_eq!(command.spawn().unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
