//! What `/proc` tells about a process.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::{Error, Exit, Result};

/// The most that is read of a small file of `/proc`.
const MAX_BYTES: u64 = 64 << 10;

/// The part of `/proc/<pid>/stat` that we use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// The program's name, at most 15 bytes, which the process may choose itself.
    pub name: String,
    /// The state's letter: `R`, `S`, `D`, `T`, `Z`, `X`.
    pub state: char,
    /// The parent's process id.
    pub parent: i32,
    /// When it started, in clock ticks after the machine's start. With the process id it names
    /// a process for as long as the machine runs.
    pub start_time: u64,
}

impl Stat {
    /// True if the process has ended and only waits to be reaped.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x')
    }
}

/// Reads `/proc/<pid>/stat`.
///
/// # Errors
/// [`Error::NotFound`] if there is no such process.
pub fn stat(pid: i32) -> Result<Stat> {
    let path = path(pid, "stat");
    let text = read(pid, &path)?;
    parse_stat(&text).ok_or(Error::Format { path })
}

/// When a process started, in clock ticks after the machine's start.
///
/// # Errors
/// [`Error::NotFound`] if there is no such process.
pub fn start_time(pid: i32) -> Result<u64> {
    stat(pid).map(|stat| stat.start_time)
}

/// True if there is a process of this id that has not ended. A zombie has.
#[must_use]
pub fn is_alive(pid: i32) -> bool {
    stat(pid).is_ok_and(|stat| !stat.is_dead())
}

/// True if the process of this id is alive and is the one that started at `start_time`.
#[must_use]
pub fn is_same(pid: i32, start_time: u64) -> bool {
    stat(pid).is_ok_and(|stat| !stat.is_dead() && stat.start_time == start_time)
}

/// The number of a process's pid namespace; equal numbers are the same namespace.
///
/// # Errors
/// [`Error::NotFound`] if there is no such process.
pub fn pid_namespace(pid: i32) -> Result<u64> {
    let path = path(pid, "ns/pid");
    std::fs::metadata(&path).map(|status| status.ino()).map_err(|error| gone(pid, &path, &error))
}

/// How a process ended that nobody has reaped yet; nothing if it has not ended.
///
/// A debugger sees the end of the process that it traces before the parent does, and may keep it
/// for as long as it likes. This is how a parent learns the end all the same.
///
/// # Errors
/// [`Error::NotFound`] if there is no such process, or it has been reaped.
pub fn zombie_exit(pid: i32) -> Result<Option<Exit>> {
    let path = path(pid, "stat");
    let text = read(pid, &path)?;
    Ok(parse_zombie(&text))
}

/// The exit code is field 52 of the line; state is field 3.
fn parse_zombie(text: &str) -> Option<Exit> {
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    if !fields.next()?.starts_with(['Z', 'X', 'x']) {
        return None;
    }
    Exit::from_raw(fields.nth(48)?.parse().ok()?)
}

/// The ids of all processes there are at this moment, those included that only wait to be reaped.
///
/// # Errors
/// If `/proc` is not there.
pub fn pids() -> Result<Vec<i32>> {
    let path = Path::new("/proc");
    let entries = std::fs::read_dir(path).map_err(|error| Error::proc(path, &error))?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect())
}

/// The arguments of a process, its program's name first, as the process shows them; at most 64 KiB.
/// None for one that has ended, and for the kernel's own.
///
/// # Errors
/// [`Error::NotFound`] if there is no such process.
pub fn arguments(pid: i32) -> Result<Vec<Vec<u8>>> {
    let line = read_bytes(pid, &path(pid, "cmdline"))?;
    Ok(split_arguments(&line))
}

/// Each argument has a NUL after it.
fn split_arguments(line: &[u8]) -> Vec<Vec<u8>> {
    let line = line.strip_suffix(b"\0").unwrap_or(line);
    if line.is_empty() {
        return Vec::new();
    }
    line.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect()
}

/// The identifier of this run of the machine: another one after each boot.
///
/// # Errors
/// If `/proc` is not there.
pub fn boot_id() -> Result<String> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    read(0, path).map(|text| text.trim().to_owned())
}

/// `/proc/<pid>/<name>`; 0 means this process.
pub(crate) fn path(pid: i32, name: &str) -> PathBuf {
    match pid {
        0 => PathBuf::from(format!("/proc/self/{name}")),
        pid => PathBuf::from(format!("/proc/{pid}/{name}")),
    }
}

/// Reads a file of a process as text.
pub(crate) fn read(pid: i32, path: &Path) -> Result<String> {
    let bytes = read_bytes(pid, path)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Reads a file of a process.
fn read_bytes(pid: i32, path: &Path) -> Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_BYTES).read_to_end(&mut bytes))
        .map_err(|error| gone(pid, path, &error))?;
    Ok(bytes)
}

/// Tells a process that is gone from other failures.
fn gone(pid: i32, path: &Path, error: &std::io::Error) -> Error {
    let missing =
        error.kind() == std::io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH);
    if missing && pid != 0 { Error::NotFound { pid } } else { Error::proc(path, error) }
}

/// `1 (name) S 0 ...`. The name may hold blanks and brackets: it ends at the last `)`.
fn parse_stat(text: &str) -> Option<Stat> {
    let (head, rest) = text.rsplit_once(')')?;
    let (_, name) = head.split_once('(')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    // The start time is field 22 of the line; state is field 3.
    let start_time = fields.nth(17)?.parse().ok()?;
    Some(Stat { name: name.to_owned(), state, parent, start_time })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_move_the_fields() {
        let line = "42 (a) R (b c) S 7 1 1 0 -1 4 5 6 7 8 9 10 11 12 20 0 1 0 987654 1 2\n";
        let stat = parse_stat(line).expect("parse");
        assert_eq!(
            stat,
            Stat { name: "a) R (b c".to_owned(), state: 'S', parent: 7, start_time: 987_654 }
        );
    }

    #[test]
    fn the_end_of_a_zombie_is_its_last_field() {
        let line = |state: char, code: &str| {
            let zeros = "0 ".repeat(48);
            format!("42 (a) b) {state} {zeros}{code}\n")
        };
        assert_eq!(parse_zombie(&line('Z', "1792")), Some(Exit::with_code(7)));
        assert_eq!(parse_zombie(&line('Z', "9")).map(|exit| exit.status), Some(137));
        assert_eq!(parse_zombie(&line('Z', "139")).map(|exit| exit.core), Some(true));
        assert_eq!(parse_zombie(&line('S', "0")), None);
        assert_eq!(parse_zombie("42 (a) Z 1"), None);
        let pid = i32::try_from(std::process::id()).expect("pid");
        assert_eq!(zombie_exit(pid).expect("alive"), None);
        assert!(matches!(zombie_exit(i32::MAX), Err(Error::NotFound { .. })));
    }

    #[test]
    fn a_child_that_was_not_reaped_tells_its_end() {
        let mut child = std::process::Command::new("/bin/sh").args(["-c", "exit 9"]).spawn();
        let child = child.as_mut().expect("sh");
        let pid = i32::try_from(child.id()).expect("pid");
        crate::PidFd::open(pid).expect("pidfd").wait_gone(None).expect("end");
        assert_eq!(zombie_exit(pid).expect("zombie"), Some(Exit::with_code(9)));
        child.wait().expect("wait");
    }

    #[test]
    fn a_process_that_a_debugger_holds_tells_its_end() {
        use std::os::unix::process::CommandExt as _;
        let sleep = || std::process::Command::new("/bin/sleep").arg("1000").spawn();
        let mut child = sleep().expect("sleep");
        let pid = i32::try_from(child.id()).expect("pid");
        let mut debugger = std::process::Command::new("/bin/sleep");
        debugger.arg("1000");
        let hold = move || {
            // SAFETY: one system call on a process of ours; nothing is read or written.
            match unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, 0, 0) } {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        };
        // SAFETY: the hook makes one system call; it neither allocates nor locks.
        unsafe { debugger.pre_exec(hold) };
        let mut debugger = debugger.spawn().expect("debugger");
        let process = crate::PidFd::open(pid).expect("pidfd");
        process.send_signal(libc::SIGKILL).expect("kill");
        // The descriptor knows, and the parent cannot have it yet.
        assert!(process.wait_gone(None).expect("end"));
        assert_eq!(process.try_wait().expect("wait"), None);
        assert_eq!(zombie_exit(pid).expect("zombie").map(|exit| exit.status), Some(137));
        debugger.kill().expect("kill");
        debugger.wait().expect("wait");
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&child.wait().expect("end")),
            Some(9)
        );
    }

    #[test]
    fn this_process_is_alive_and_itself() {
        let pid = i32::try_from(std::process::id()).expect("pid");
        let started = start_time(pid).expect("start time");
        assert!(is_alive(pid));
        assert!(is_same(pid, started));
        assert!(!is_same(pid, started + 1));
        assert_eq!(pid_namespace(pid).expect("ns"), pid_namespace(0).expect("ns"));
        assert!(!is_alive(i32::MAX));
        assert!(matches!(start_time(i32::MAX), Err(Error::NotFound { .. })));
    }

    #[test]
    fn arguments_are_seen_as_they_were_given() {
        let mut child = std::process::Command::new("/bin/sh");
        let mut child = child.args(["-c", "read line", "", "a b\n"]);
        child = child.stdin(std::process::Stdio::piped());
        let mut child = child.spawn().expect("sh");
        let pid = i32::try_from(child.id()).expect("pid");
        let wanted: [&[u8]; 5] = [b"/bin/sh", b"-c", b"read line", b"", b"a b\n"];
        // A spawn returns when the old program has gone, a moment before the new one has them.
        let begun = std::time::Instant::now();
        while arguments(pid).expect("arguments").is_empty() && begun.elapsed().as_secs() < 10 {
            std::thread::yield_now();
        }
        assert_eq!(arguments(pid).expect("arguments"), wanted);
        assert!(pids().expect("pids").contains(&pid));
        child.kill().expect("kill");
        crate::PidFd::open(pid).expect("pidfd").wait_gone(None).expect("end");
        assert_eq!(arguments(pid).expect("a zombie"), Vec::<Vec<u8>>::new());
        child.wait().expect("wait");
        assert!(matches!(arguments(pid), Err(Error::NotFound { .. })));
        assert_eq!(split_arguments(b"one\0\0"), [b"one".to_vec(), Vec::new()]);
    }

    #[test]
    fn the_boot_has_an_identifier() {
        let id = boot_id().expect("boot id");
        assert_eq!(id.len(), 36, "{id}");
        assert_eq!(id, boot_id().expect("boot id"));
    }

    proptest! {
        #[test]
        fn any_line_is_answered(line in ".{0,200}") {
            let _ = parse_stat(&line);
        }
    }
}
