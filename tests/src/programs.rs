//! The programs that tests put together, by who made them.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The folder of our three programs.
pub const BINARIES: &str = "IRONHULL_BIN";
/// The folder of Debian's programs.
pub const PEERS: &str = "IRONHULL_PEERS";
/// The maker of daemon and shim where a test does not say.
pub const DAEMON: &str = "IRONHULL_E2E_DAEMON";

/// Who made a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Maker {
    /// This repository.
    Ours,
    /// containerd 1.6 of Debian 12.
    Bookworm,
    /// containerd 1.7 of Debian 13.
    Trixie,
    /// containerd 2.1 of Debian forky.
    Forky,
}

impl fmt::Display for Maker {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Maker::Ours => "ours",
            Maker::Bookworm => "bookworm",
            Maker::Trixie => "trixie",
            Maker::Forky => "forky",
        })
    }
}

impl Maker {
    /// The maker of daemon and shim where a test does not say: ours, unless the environment
    /// variable [`DAEMON`] names another.
    ///
    /// # Errors
    ///
    /// The variable has a name that nobody has.
    pub fn default_daemon() -> Result<Maker> {
        match std::env::var(DAEMON).as_deref() {
            Err(_) | Ok("" | "ours") => Ok(Maker::Ours),
            Ok("bookworm") => Ok(Maker::Bookworm),
            Ok("trixie") => Ok(Maker::Trixie),
            Ok("forky") => Ok(Maker::Forky),
            Ok(name) => bail!("{DAEMON}={name}: expected ours, bookworm, trixie or forky"),
        }
    }

    /// The path of this maker's `name`.
    ///
    /// # Errors
    ///
    /// It is not there; the text says which task fetches it.
    pub fn program(self, name: &str) -> Result<PathBuf> {
        let path = match self {
            Maker::Ours => folder(BINARIES, Path::new("."))?.join(name),
            Maker::Bookworm | Maker::Trixie | Maker::Forky => folder(PEERS, Path::new("../peers"))?
                .join(self.to_string())
                .join("usr/bin")
                .join(name),
        };
        if !path.is_file() {
            bail!("{} is not there: run the tests by `cargo xtask test`", path.display());
        }
        Ok(path)
    }

    /// The folder of Docker, from the same suite as this maker's programs.
    ///
    /// # Errors
    ///
    /// It is not there, or nobody makes it.
    pub fn docker(self) -> Result<PathBuf> {
        let path = folder(PEERS, Path::new("../peers"))?.join(format!("docker-{self}"));
        if !path.join("complete").is_file() {
            bail!("{} is not there: run the tests by `cargo xtask test`", path.display());
        }
        Ok(path)
    }

    /// The daemon.
    ///
    /// # Errors
    ///
    /// It is not there.
    pub fn daemon(self) -> Result<PathBuf> {
        self.program("containerd")
    }

    /// The shim.
    ///
    /// # Errors
    ///
    /// It is not there.
    pub fn shim(self) -> Result<PathBuf> {
        self.program("containerd-shim-runc-v2")
    }

    /// The command line client.
    ///
    /// # Errors
    ///
    /// It is not there.
    pub fn ctr(self) -> Result<PathBuf> {
        self.program("ctr")
    }
}

/// CRIU of Debian forky, if it could be fetched.
///
/// # Errors
///
/// Our own program has no folder.
pub fn criu() -> Result<Option<PathBuf>> {
    let path = folder(PEERS, Path::new("../peers"))?.join("criu/bin/criu");
    Ok(path.is_file().then_some(path))
}

/// The snapshotter `program` of another maker, from Debian forky, if it could be fetched.
///
/// # Errors
///
/// Our own program has no folder.
pub fn snapshotter(program: &str) -> Result<Option<PathBuf>> {
    let path = folder(PEERS, Path::new("../peers"))?.join("proxies/bin").join(program);
    Ok(path.is_file().then_some(path))
}

/// The program `igzip` or `unpigz`, which containerd unpacks layers with if it finds them in its
/// `PATH`: in a folder with both, if they could be fetched.
///
/// # Errors
///
/// Our own program has no folder.
pub fn gzip_helper(program: &str) -> Result<Option<PathBuf>> {
    let path = folder(PEERS, Path::new("../peers"))?.join("gzip/bin").join(program);
    Ok(path.is_file().then_some(path))
}

/// The folder that `variable` names, or the one at `place` relative to where cargo builds to.
fn folder(variable: &str, place: &Path) -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os(variable) {
        return Ok(folder.into());
    }
    // Tests run from <target>/debug/deps, programs from <target>/debug.
    let program = std::env::current_exe().context("find our own program")?;
    let profile = program
        .ancestors()
        .skip(1)
        .find(|folder| !folder.ends_with("deps"))
        .context("our own program has no folder")?;
    Ok(profile.join(place))
}
