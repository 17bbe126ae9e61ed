//! CRIU, which checkpoints need: that of Debian forky, as older ones do not know newer kernels.
//!
//! ```text
//! <peers>/criu/bin/criu     with its own loader and libraries
//! <peers>/criu/lib/
//! ```

use std::fs;
use std::path::Path;

use anyhow::Result;

use crate::closure;
use crate::command::say;
use crate::peers::Suite;

/// Fetches it if it is not there; without it the tests of checkpoints are skipped.
pub fn fetch(peers: &Path) {
    let folder = peers.join("criu");
    if folder.join("complete").exists() {
        return;
    }
    say("fetching CRIU of Debian forky for the tests of checkpoints (not installed)");
    if let Err(error) = install(&folder) {
        say(&format!("the tests of checkpoints will be skipped: {error:#}"));
    }
}

fn install(folder: &Path) -> Result<()> {
    let _ = fs::remove_dir_all(folder);
    let bin = folder.join("bin");
    fs::create_dir_all(&bin)?;
    let suite = Suite::new("forky", &folder.join("apt"))?;
    let root = folder.join("root");
    closure::unpack(&suite, &["criu"], &root)?;
    let lib = folder.join("lib");
    closure::libraries(&root, &lib, |_| true)?;
    fs::copy(root.join("usr/sbin/criu"), bin.join("criu"))?;
    closure::relocate(&bin.join("criu"), &lib)?;
    fs::remove_dir_all(&root)?;
    fs::remove_dir_all(folder.join("apt"))?;
    Ok(fs::write(folder.join("complete"), "")?)
}
