//! Snapshotters of other makers, which tests have as proxy plugins: those of Debian forky. They run
//! with the libc of Debian 12.
//!
//! ```text
//! <peers>/proxies/bin/{soci-snapshotter-grpc,containerd-nydus-grpc,overlaybd-snapshotter}
//! ```

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::command::say;
use crate::peers::Suite;

/// A package, and its program that is the snapshotter.
const SNAPSHOTTERS: [(&str, &str); 3] = [
    ("soci-snapshotter", "soci-snapshotter-grpc"),
    ("nydus-snapshotter", "containerd-nydus-grpc"),
    ("accelerated-container-image", "overlaybd-snapshotter"),
];

/// Fetches them if they are not there; without them their tests are skipped. A suite under
/// development may lose a package for a while.
pub fn fetch(peers: &Path) {
    let folder = peers.join("proxies");
    if folder.join("complete").exists() {
        return;
    }
    say("fetching snapshotters of Debian forky, as proxy plugins of the tests (not installed)");
    if let Err(error) = install(peers, &folder) {
        say(&format!("tests of proxy plugins will be skipped: {error:#}"));
    }
}

fn install(peers: &Path, folder: &Path) -> Result<()> {
    let _ = fs::remove_dir_all(folder);
    let bin = folder.join("bin");
    fs::create_dir_all(&bin)?;
    let suite = Suite::of("forky", peers)?;
    let root = folder.join("root");
    for (package, program) in SNAPSHOTTERS {
        suite.unpack(package, &root)?;
        fs::rename(root.join("usr/bin").join(program), bin.join(program)).context(program)?;
    }
    fs::remove_dir_all(&root)?;
    Ok(fs::write(folder.join("complete"), "")?)
}
