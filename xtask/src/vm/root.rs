//! What the machine's root file system has beside the files of packages.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use anyhow::{Context as _, Result};

/// Runs the command once the system is up, then ends the machine.
const UNIT: &str = "[Unit]
DefaultDependencies=no
After=basic.target dbus.service
Requires=basic.target
Wants=dbus.service
[Service]
Type=oneshot
Delegate=yes
ExecStart=/usr/local/sbin/run-command
TimeoutStartSec=infinity
";

/// The command is a file of the host; so is its status. Its output goes to the console that the
/// host passes on.
const RUN_COMMAND: &str = r#"#!/bin/sh
exec </dev/null >/dev/tty1 2>&1
stty -F /dev/tty1 raw -echo
export HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
ip link set lo up
modprobe overlay
for word in $(cat /proc/cmdline); do
    case $word in hostfolder=*) folder=${word#hostfolder=} ;; esac
done
mkdir -p /run/host
mount -t hostfs -o "hostfs=$folder" none /run/host
sh /run/host/command
echo $? > /run/host/status
sync
exec poweroff -f -f
"#;

/// Units that have nothing to do here, and take time.
const MASKED: &[&str] = &[
    "console-getty.service",
    "getty.target",
    "ldconfig.service",
    "systemd-confext.service",
    "systemd-firstboot.service",
    "systemd-hwdb-update.service",
    "systemd-journal-catalog-update.service",
    "systemd-networkd.service",
    "systemd-pcrmachine.service",
    "systemd-resolved.service",
    "systemd-sysext.service",
    "systemd-timesyncd.service",
    "systemd-tpm2-setup-early.service",
    "systemd-tpm2-setup.service",
    "systemd-udev-trigger.service",
    "systemd-udevd-control.socket",
    "systemd-udevd-kernel.socket",
    "systemd-udevd.service",
    "systemd-update-done.service",
    "systemd-update-utmp.service",
];

/// Folders of packages that nobody reads there.
const UNREAD: &[&str] = &["usr/share/doc", "usr/share/i18n", "usr/share/locale", "usr/share/man"];

/// Makes a system that boots of unpacked packages.
pub(super) fn prepare(root: &Path) -> Result<()> {
    for folder in UNREAD {
        let _ = fs::remove_dir_all(root.join(folder));
    }
    // What scripts of packages would have done.
    let master = |name: &str| {
        let path = root.join("usr/share/base-passwd").join(name);
        fs::read_to_string(&path).with_context(|| path.display().to_string())
    };
    let bus = "messagebus:x:100:";
    let passwd = format!("{}{bus}100::/nonexistent:/usr/sbin/nologin\n", master("passwd.master")?);
    write(root, "etc/passwd", &passwd)?;
    write(root, "etc/group", &format!("{}{bus}\n", master("group.master")?))?;
    let shell = root.join("usr/bin/sh");
    if fs::symlink_metadata(&shell).is_err() {
        symlink("dash", shell)?;
    }
    // The kernel package has its modules where only itself looks for them.
    let modules = root.join("usr/lib/uml/modules");
    if modules.is_dir() {
        fs::rename(modules, root.join("usr/lib/modules"))?;
    }
    write(root, "etc/hostname", "machine\n")?;
    write(root, "etc/fstab", "")?;
    write(root, "etc/machine-id", "0123456789abcdef0123456789abcdef\n")?;
    write(root, "etc/systemd/system/command.service", UNIT)?;
    write(root, "usr/local/sbin/run-command", RUN_COMMAND)?;
    let program = root.join("usr/local/sbin/run-command");
    fs::set_permissions(program, fs::Permissions::from_mode(0o755))?;
    let units = root.join("etc/systemd/system");
    fs::create_dir_all(units.join("multi-user.target.wants"))?;
    let wanted = units.join("multi-user.target.wants/command.service");
    symlink("/etc/systemd/system/command.service", wanted)?;
    symlink("/usr/lib/systemd/system/multi-user.target", units.join("default.target"))?;
    for unit in MASKED {
        symlink("/dev/null", units.join(unit)).with_context(|| format!("mask {unit}"))?;
    }
    Ok(())
}

fn write(root: &Path, path: &str, text: &str) -> Result<()> {
    let path = root.join(path);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let _ = fs::remove_file(&path);
    fs::write(&path, text).with_context(|| path.display().to_string())
}
