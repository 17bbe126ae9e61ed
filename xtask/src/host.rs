//! What the machine must have: root, Debian's package manager, and some packages.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command::{run, say};

/// A program that we need, the package that has it, and why we need it.
pub struct Need {
    pub program: &'static str,
    pub package: &'static str,
    pub why: &'static str,
}

/// What the demo needs.
pub const DEMO: &[Need] = &[
    Need { program: "runc", package: "runc", why: "the OCI runtime that creates containers" },
    Need { program: "busybox", package: "busybox-static", why: "the program of the demo's image" },
];

/// What the tests and benches need beyond that.
pub const TEST: &[Need] = &[
    Need { program: "runc", package: "runc", why: "the OCI runtime of most tests" },
    Need { program: "crun", package: "crun", why: "a second OCI runtime" },
    Need { program: "busybox", package: "busybox-static", why: "the program of test images" },
    Need { program: "skopeo", package: "skopeo", why: "makes images in all formats" },
    Need { program: "umoci", package: "umoci", why: "makes OCI images" },
    Need { program: "ip", package: "iproute2", why: "network namespaces of the tests" },
    Need { program: "iptables", package: "iptables", why: "Docker's networks in the tests" },
    Need { program: "patchelf", package: "patchelf", why: "makes programs of a newer Debian run" },
    Need { program: "mkfs.ext4", package: "e2fsprogs", why: "disks of blockfile and erofs" },
    Need { program: "mkfs.btrfs", package: "btrfs-progs", why: "disks of the btrfs snapshotter" },
    Need { program: "mkfs.xfs", package: "xfsprogs", why: "disks with quotas of projects" },
    Need { program: "mkfs.erofs", package: "erofs-utils", why: "images of the erofs snapshotter" },
    Need { program: "dmsetup", package: "dmsetup", why: "pools of the devmapper snapshotter" },
];

/// Fails unless we are root on Linux: containers are made of mounts, namespaces and cgroups.
pub fn require_root() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("this task starts containers and must run as root: try `sudo -E cargo xtask ...`");
    }
    Ok(())
}

/// Where `program` is, if it is installed.
pub fn find(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(Into::into))
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// Installs the packages of `needs` whose programs are missing, and says which and why.
pub fn install(needs: &[Need]) -> Result<()> {
    let missing: Vec<&Need> = needs.iter().filter(|need| find(need.program).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    for need in &missing {
        say(&format!("installing Debian's package {}: {}", need.package, need.why));
    }
    let names = || missing.iter().map(|need| need.package).collect::<Vec<_>>().join(" ");
    if !Path::new("/usr/bin/apt-get").exists() {
        bail!(
            "this machine has no apt-get; please install by its own means, with the programs of \
             Debian's packages: {}",
            names()
        );
    }
    // Old package lists are the usual reason for a failure: try with them, then with new ones.
    let attempt = || {
        let mut command = apt_get();
        command.args(["install", "--yes", "--no-install-recommends"]);
        run(command.args(missing.iter().map(|need| need.package)))
    };
    if attempt().is_err() {
        run(apt_get().arg("update"))?;
        attempt().with_context(|| format!("cannot install: {}", names()))?;
    }
    Ok(())
}

/// Debian's package manager, without questions and with patience for another one's lock.
pub fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").args([
        "-q",
        "-o",
        "DPkg::Lock::Timeout=300",
        "-o",
        "APT::Sandbox::User=root",
    ]);
    command
}
