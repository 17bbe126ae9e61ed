//! The programs that containerd unpacks gzip with where they are installed, for the bench of imports.
//!
//! ```text
//! <peers>/gzip/bin/{igzip,unpigz}
//! <peers>/gzip/lib/                  igzip's library
//! ```

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::command::{run, say};
use crate::peers::Suite;

/// Packages, and what is taken of them to which folder.
const PARTS: [(&str, &str, &str); 3] = [
    ("isal", "usr/bin/igzip", "bin"),
    ("libisal2", "usr/lib/x86_64-linux-gnu/libisal.so.2", "lib"),
    ("pigz", "usr/bin/unpigz", "bin"),
];

/// Fetches them if they are not there; without them the bench does not measure what they change.
pub fn fetch(peers: &Path) {
    let folder = peers.join("gzip");
    if folder.join("complete").exists() {
        return;
    }
    say("fetching igzip and unpigz of Debian bookworm, for the bench of imports (not installed)");
    if let Err(error) = install(peers, &folder) {
        say(&format!("imports with igzip and unpigz will not be measured: {error:#}"));
    }
}

fn install(peers: &Path, folder: &Path) -> Result<()> {
    let _ = fs::remove_dir_all(folder);
    let suite = Suite::of("bookworm", peers)?;
    let root = folder.join("root");
    for (package, file, to) in PARTS {
        suite.unpack(package, &root)?;
        let from = root.join(file);
        let to = folder.join(to);
        fs::create_dir_all(&to)?;
        fs::copy(&from, to.join(from.file_name().unwrap_or_default())).context(file)?;
    }
    fs::remove_dir_all(&root)?;
    let mut patchelf = Command::new("patchelf");
    patchelf.arg("--set-rpath").arg(folder.join("lib")).arg(folder.join("bin/igzip"));
    run(&mut patchelf)?;
    Ok(fs::write(folder.join("complete"), "")?)
}
