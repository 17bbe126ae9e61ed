//! Making the machine's disk and kernel of Debian's packages.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::root;
use crate::closure;
use crate::command::{output, say, target_dir};
use crate::host::{self, Need};
use crate::peers::Suite;

/// The Debian that all comes from.
const SUITE: &str = "trixie";

/// What is in the machine: systemd, both runtimes, what the tests' harness calls, and what makes
/// the file systems and devices of snapshotters.
const PACKAGES: &[&str] = &[
    "base-files",
    "base-passwd",
    "bash",
    "btrfs-progs",
    "busybox-static",
    "coreutils",
    "crun",
    "dash",
    "dbus",
    "dmsetup",
    "e2fsprogs",
    "erofs-utils",
    "findutils",
    "grep",
    "hostname",
    "iproute2",
    "kmod",
    "libc-bin",
    "mount",
    "perl-base",
    "procps",
    "runc",
    "sed",
    "systemd",
    "systemd-sysv",
    "udev",
    "user-mode-linux",
    "util-linux",
    "xfsprogs",
];

/// The libraries of the kernel, which is a program like others.
const LIBRARIES: &[&str] = &["libc.so.6"];

/// Size of the disk, which is a file with holes. The packages take an eighth of it.
const DISK: &str = "2G";

/// What makes it.
const NEEDS: &[Need] = &[
    Need { program: "mkfs.ext4", package: "e2fsprogs", why: "makes the disk of a test machine" },
    Need { program: "patchelf", package: "patchelf", why: "makes programs of a newer Debian run" },
];

/// All that decides what is made; another text makes another image.
const RECIPE: &[&str] = &[include_str!("image.rs"), include_str!("root.rs")];

/// The folder with `disk.img` and the program `linux`, made if it is not there.
pub(super) fn get() -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    RECIPE.hash(&mut hasher);
    let machines = target_dir().join("vm");
    let folder = machines.join(format!("{:016x}", hasher.finish()));
    if folder.join("complete").exists() {
        return Ok(folder);
    }
    host::install(NEEDS)?;
    say("making a machine for tests of Debian's packages (a minute or two, once)");
    // What earlier recipes have made is of no use any more.
    let _ = fs::remove_dir_all(&machines);
    fs::create_dir_all(&folder)?;
    make(&folder).context("cannot make the machine")?;
    Ok(folder)
}

fn make(folder: &Path) -> Result<()> {
    let packages = folder.join("apt");
    let suite = Suite::new(SUITE, &packages)?;
    let unpacked = folder.join("root");
    closure::unpack(&suite, PACKAGES, &unpacked)?;
    fs::remove_dir_all(&packages)?;

    let kernel = folder.join("linux");
    fs::rename(unpacked.join("usr/bin/linux.uml"), &kernel).context("the kernel")?;
    let lib = folder.join("lib");
    closure::libraries(&unpacked, &lib, |name| LIBRARIES.contains(&name))?;
    closure::relocate(&kernel, &lib)?;

    root::prepare(&unpacked)?;
    let disk = folder.join("disk.img");
    let mut mkfs = Command::new("mkfs.ext4");
    mkfs.args(["-q", "-F", "-O", "^has_journal", "-E", "lazy_itable_init=1,root_owner=0:0", "-d"]);
    output(mkfs.arg(&unpacked).arg(&disk).arg(DISK)).context("the disk")?;
    fs::remove_dir_all(&unpacked)?;
    Ok(fs::write(folder.join("complete"), "")?)
}
