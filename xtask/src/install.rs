//! `cargo xtask install`: the programs and the systemd unit, where an administrator expects them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::build::{self, PROGRAMS, Profile};
use crate::command::{repository, say};

/// Where to install.
#[derive(clap::Args)]
pub struct Options {
    /// Folder that the programs go below, in `bin`.
    #[arg(long, default_value = "/usr/local")]
    prefix: PathBuf,
    /// Folder for the systemd unit `containerd.service`.
    #[arg(long, default_value = "/usr/local/lib/systemd/system")]
    units: PathBuf,
}

/// Builds for release and installs. A program that runs is replaced by rename: it goes on running.
pub fn run(options: &Options) -> Result<()> {
    let binaries = build::programs(Profile::Release)?;
    let folder = options.prefix.join("bin");
    for program in PROGRAMS {
        place(&binaries.join(program), &folder.join(program), 0o755)?;
    }
    let unit = repository().join("app/containerd/containerd.service");
    let text = fs::read_to_string(&unit)
        .with_context(|| format!("read {}", unit.display()))?
        .replace("@BIN@", &folder.display().to_string());
    let temporary = build_copy(&text)?;
    let placed = place(&temporary, &options.units.join("containerd.service"), 0o644);
    let _ = fs::remove_file(&temporary);
    placed?;
    say("installed; `systemctl daemon-reload && systemctl restart containerd` takes it into use");
    Ok(())
}

/// The unit's text in a file that can be placed.
fn build_copy(text: &str) -> Result<PathBuf> {
    let path = crate::command::target_dir().join("containerd.service");
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

/// Puts a copy of `from` at `to`, at once and whole.
fn place(from: &Path, to: &Path, mode: u32) -> Result<()> {
    say(&format!("installing {}", to.display()));
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    let temporary = to.with_extension("new");
    fs::copy(from, &temporary).with_context(|| format!("copy {}", from.display()))?;
    fs::set_permissions(&temporary, fs::Permissions::from_mode(mode))?;
    fs::rename(&temporary, to).with_context(|| format!("rename to {}", to.display()))
}
