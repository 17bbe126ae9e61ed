//! The gate behind which the init process of a created container waits.
//!
//! runc makes a fifo `exec.fifo` in its folder of the container. The init process opens it to
//! write, which blocks until somebody reads; then it writes one byte and becomes the user's
//! program. All that `runc start` does is to read the byte and to remove the fifo, which tells runc
//! that the container is not `created` any more. Done here, a start costs three calls of the system
//! in place of a program of ten megabytes.
//!
//! Since runc 1.5 its `start` runs the `poststart` hooks as well: a container that has some is
//! none of the gate's business.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use kernel_process::PidFd;
use rustix::fs::OFlags;
use tokio::io::Interest;

use crate::discard::STATE;
use crate::watch::watch;

/// The name of the fifo in the folder of a container.
const FIFO: &str = "exec.fifo";

/// Lets `init` pass, whose runtime keeps its state in `folder`; waits until it has.
///
/// False if it waits at no such gate, or has ended: the runtime knows what to say about that.
///
/// # Errors
/// The system's, where the fifo is not one or cannot be read.
pub(crate) async fn open(folder: &Path, init: &PidFd) -> io::Result<bool> {
    // Registered once more, beside the reaper's.
    let ended = watch(rustix::io::dup(init)?, Interest::READABLE)?;
    // A crun that goes by the name of runc has such a fifo too, but waits at its other end.
    if !folder.join(STATE).exists() {
        return Ok(false);
    }
    let path = folder.join(FIFO);
    let Some(fifo) = open_fifo(&path)? else { return Ok(false) };
    // From here on the process may come to us, and fails if we have left.
    let fifo = watch(fifo, Interest::READABLE)?;
    let passed = loop {
        let over = tokio::select! {
            ready = ended.readable() => ready.map(|_| true)?,
            ready = fifo.readable() => {
                ready?.clear_ready();
                false
            }
        };
        match fifo.get_ref().read(&mut [0; 16]) {
            // It may have passed and ended at once.
            Ok(count) => break count > 0,
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            Err(_) if over => break false,
            Err(_) => {}
        }
    };
    if passed {
        fs::remove_file(&path)?;
    }
    Ok(passed)
}

/// Opens the fifo to read, without waiting for who writes; `None` if there is none.
fn open_fifo(path: &Path) -> io::Result<Option<File>> {
    let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW;
    let flags = i32::try_from(flags.bits()).unwrap_or_default();
    match File::options().read(true).custom_flags(flags).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Ok(file) if !file.metadata()?.file_type().is_fifo() => {
            Err(io::Error::new(io::ErrorKind::InvalidInput, "not a fifo"))
        }
        other => other.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    fn init(folder: &Path, script: &str) -> (Child, PidFd) {
        let child =
            Command::new("/bin/sh").args(["-c", script]).current_dir(folder).spawn().unwrap();
        let process = PidFd::open(i32::try_from(child.id()).unwrap()).unwrap();
        (child, process)
    }

    fn folder_with_fifo() -> tempfile::TempDir {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o622);
        let path = folder.path().join(FIFO);
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        fs::write(folder.path().join(STATE), "{}").unwrap();
        folder
    }

    #[tokio::test]
    async fn an_init_process_passes_whenever_it_comes_to_the_gate() {
        // Long before, long after, and one that ends at once.
        for script in ["printf 0 >exec.fifo; exec sleep 60", "sleep 0.2; printf 0 >exec.fifo"] {
            let folder = folder_with_fifo();
            let (mut child, process) = init(folder.path(), script);
            // As the reaper does with the same descriptor.
            let watched = watch(std::sync::Arc::new(process), Interest::READABLE).unwrap();
            assert!(open(folder.path(), watched.get_ref()).await.unwrap(), "{script}");
            assert!(!folder.path().join(FIFO).exists());
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    #[tokio::test]
    async fn who_never_comes_is_left_to_the_runtime() {
        let folder = folder_with_fifo();
        let (mut dead, process) = init(folder.path(), "exit 3");
        assert!(!open(folder.path(), &process).await.unwrap());
        assert!(folder.path().join(FIFO).exists(), "the runtime shall see it as it is");
        dead.wait().unwrap();

        // Somebody else has opened the gate.
        let (mut gone, process) = init(folder.path(), "exec 3>exec.fifo; exec 3>&-; sleep 60");
        assert!(!open(folder.path(), &process).await.unwrap());
        fs::remove_file(folder.path().join(FIFO)).unwrap();
        assert!(!open(folder.path(), &process).await.unwrap());

        fs::write(folder.path().join(FIFO), "0").unwrap();
        open(folder.path(), &process).await.unwrap_err();
        fs::remove_file(folder.path().join(STATE)).unwrap();
        assert!(!open(folder.path(), &process).await.unwrap(), "no container of runc");
        gone.kill().unwrap();
        gone.wait().unwrap();
    }
}
