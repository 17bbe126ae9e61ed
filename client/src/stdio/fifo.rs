//! Named pipes in a folder of their own.

use std::hash::{BuildHasher as _, RandomState};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _};
use std::path::{Path, PathBuf};

use api_shim::process::Process;
use base_errors::{Error, Result, ResultExt as _};
use rustix::fs::{CWD, Mode, OFlags};

use super::{FIFO_DIR, Streams};

/// Tries for a folder name that nobody has. The names are random: one is enough in practice.
const MAX_NAMES: usize = 1000;

/// The names of a process's streams, as the daemon takes them; empty for what is not connected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fifos {
    /// Pipe for the input.
    pub stdin: String,
    /// Pipe or address for the output.
    pub stdout: String,
    /// Pipe or address for the error output.
    pub stderr: String,
    /// The process has a terminal.
    pub terminal: bool,
}

impl Fifos {
    /// Makes pipes in a new folder, as containerd's clients name them.
    pub(super) fn create(streams: &Streams, name: &str) -> Result<Fifos> {
        let parent: &Path = if streams.fifo_dir.as_os_str().is_empty() {
            FIFO_DIR.as_ref()
        } else {
            &streams.fifo_dir
        };
        let folder = make_folder(parent)?;
        let path = |stream: &str| folder.join(format!("{name}-{stream}")).display().to_string();
        let fifos = Fifos {
            stdin: if streams.stdin.is_some() { path("stdin") } else { String::new() },
            stdout: path("stdout"),
            stderr: if streams.terminal { String::new() } else { path("stderr") },
            terminal: streams.terminal,
        };
        for path in [&fifos.stdin, &fifos.stdout, &fifos.stderr] {
            if path.is_empty() {
                continue;
            }
            let made = rustix::fs::mknodat(
                CWD,
                path,
                rustix::fs::FileType::Fifo,
                Mode::from_raw_mode(0o700),
                0,
            );
            if let Err(errno) = made {
                fifos.remove();
                let _ = std::fs::remove_dir(&folder);
                return Err(
                    Error::from(std::io::Error::from(errno)).context(format!("mkfifo {path}"))
                );
            }
        }
        Ok(fifos)
    }

    /// The names that a running process has.
    #[must_use]
    pub fn of(process: &Process) -> Fifos {
        Fifos {
            stdin: process.stdin.clone(),
            stdout: process.stdout.clone(),
            stderr: process.stderr.clone(),
            terminal: process.terminal,
        }
    }

    /// Removes the pipes and their folders, as far as they are pipes and nothing else is there.
    pub fn remove(&self) {
        for path in [&self.stdin, &self.stdout, &self.stderr] {
            let path = Path::new(path);
            let is_fifo = std::fs::symlink_metadata(path)
                .is_ok_and(|metadata| metadata.file_type().is_fifo());
            if is_fifo {
                let _ = std::fs::remove_file(path);
                if let Some(folder) = path.parent() {
                    let _ = std::fs::remove_dir(folder);
                }
            }
        }
    }
}

fn make_folder(parent: &Path) -> Result<PathBuf> {
    let builder = |recursive| {
        let mut builder = std::fs::DirBuilder::new();
        builder.mode(0o700).recursive(recursive);
        builder
    };
    builder(true).create(parent).with_context(|| format!("mkdir {}", parent.display()))?;
    let random = RandomState::new();
    for attempt in 0..MAX_NAMES {
        let name = random.hash_one((std::process::id(), attempt)) % 10_000_000_000;
        let folder = parent.join(name.to_string());
        match builder(false).create(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                return Err(Error::from(error).context(format!("mkdir {}", folder.display())));
            }
        }
    }
    Err(Error::already_exists(format!("a folder for pipes in {}", parent.display())))
}

fn open(path: &str, mode: OFlags) -> Result<OwnedFd> {
    rustix::fs::open(path, mode | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| Error::from(std::io::Error::from(errno)).context(format!("open {path}")))
}

/// The end that reads; it need not wait for a writer.
pub(super) fn open_reader(path: &str) -> Result<OwnedFd> {
    open(path, OFlags::RDONLY)
}

/// The end that writes. Opened for both directions, it need not wait for a reader.
pub(super) fn open_writer(path: &str) -> Result<OwnedFd> {
    open(path, OFlags::RDWR)
}
