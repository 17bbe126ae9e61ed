//! Programs of another Debian with all that they need, unpacked and never installed.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::command::{output, run};
use crate::peers::Suite;

/// Unpacks `packages` of `suite`, and all packages that they depend on, below `folder`. No script of
/// a package is run.
pub fn unpack(suite: &Suite, packages: &[&str], folder: &Path) -> Result<()> {
    let archives = folder.with_extension("archives");
    let _ = fs::remove_dir_all(&archives);
    fs::create_dir_all(archives.join("partial"))?;
    // As on a machine that has no package at all, so that none is left out.
    let status = folder.with_extension("status");
    fs::write(&status, "")?;
    let install = || {
        let mut command = suite.apt_get();
        command.args(["-o", &format!("Dir::State::status={}", status.display())]);
        command.args(["-o", &format!("Dir::Cache::archives={}", archives.display())]);
        command.args(["-o", "Debug::NoLocking=true", "--yes", "--no-install-recommends"]);
        output(command.args(["--download-only", "install"]).args(packages))
    };
    // Lists that are old name packages that mirrors no longer have.
    if install().is_err() {
        output(suite.apt_get().arg("update"))?;
        install()?;
    }
    fs::create_dir_all(folder)?;
    let mut found = 0;
    for entry in fs::read_dir(&archives)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            output(Command::new("dpkg-deb").arg("--extract").arg(&path).arg(folder))?;
            found += 1;
        }
    }
    ensure!(found >= packages.len(), "apt-get brought {found} packages for {packages:?}");
    fs::remove_dir_all(&archives)?;
    Ok(fs::remove_file(&status)?)
}

/// Copies the loader and the libraries of an unpacked Debian, as far as `wanted` says, to `lib`.
pub fn libraries(root: &Path, lib: &Path, wanted: impl Fn(&str) -> bool) -> Result<()> {
    fs::create_dir_all(lib)?;
    let loader = "ld-linux-x86-64.so.2";
    fs::copy(root.join("usr/lib64").join(loader), lib.join(loader)).context("the loader")?;
    for entry in fs::read_dir(root.join("usr/lib/x86_64-linux-gnu"))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.contains(".so") && path.is_file() && wanted(&name) {
            fs::copy(&path, lib.join(&name)).with_context(|| name)?;
        }
    }
    Ok(())
}

/// Lets `program` use the loader and the libraries in `lib`, and no others.
pub fn relocate(program: &Path, lib: &Path) -> Result<()> {
    let mut patchelf = Command::new("patchelf");
    patchelf.arg("--set-interpreter").arg(lib.join("ld-linux-x86-64.so.2"));
    patchelf.arg("--force-rpath").arg("--set-rpath").arg(lib).arg(program);
    run(&mut patchelf)
}
