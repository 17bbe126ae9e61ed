//! Programs of a runtime that outlive their shim for a moment.
//!
//! The kernel kills them when the shim dies, but not in the same instant: its sockets close first,
//! and that is what its daemon notices. One that still makes the container while another program
//! removes it would leave a container that nobody knows.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long they may take to die: the kernel has to schedule them once. One that hangs in the
/// kernel is not waited for.
const LIMIT: Duration = Duration::from_secs(2);

/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(5);

/// Waits until no program of a runtime works for the bundle.
pub(crate) fn wait(bundle: &Path) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let left = working_for(bundle);
        if left.is_empty() {
            return;
        }
        if Instant::now() >= deadline {
            tracing::warn!(?left, "programs of a dead shim do not end");
            return;
        }
        std::thread::sleep(PAUSE);
    }
}

/// The processes one of whose arguments is a file in the bundle: the log or the pid file, which
/// every command of a runtime is given.
fn working_for(bundle: &Path) -> Vec<i32> {
    let mut prefix = bundle.as_os_str().as_bytes().to_vec();
    prefix.push(b'/');
    let own = std::process::id();
    // The dead have no arguments any more.
    let works = |pid: &i32| {
        u32::try_from(*pid) != Ok(own)
            && kernel_process::arguments(*pid)
                .is_ok_and(|words| words.iter().any(|word| word.starts_with(&prefix)))
    };
    kernel_process::pids().unwrap_or_default().into_iter().filter(works).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn who_works_for_a_bundle_is_seen_until_its_end() {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let bundle = folder.path().join("one");
        assert_eq!(working_for(&bundle), [0; 0]);
        let log = bundle.join("log.json");
        let run = |log: &Path| {
            let mut command = Command::new("sh");
            command.args(["-c", "read line"]).arg("--log").arg(log);
            command.stdin(std::process::Stdio::piped()).spawn().unwrap()
        };
        let mut child = run(&log);
        let mut other = run(&folder.path().join("one-more/log.json"));
        let pid = i32::try_from(child.id()).unwrap();
        // Until it has become a program, it has the arguments of this test.
        while working_for(&bundle) != [pid] {
            std::thread::sleep(PAUSE);
        }
        child.kill().unwrap();
        wait(&bundle);
        assert_eq!(working_for(&bundle), [0; 0]);
        child.wait().unwrap();
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
