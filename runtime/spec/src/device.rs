//! Devices of the host, as a container gets them.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use crate::{Device, DeviceRule, SpecError};

/// All that can be done with a device.
pub(crate) const ALL_ACCESS: &str = "rwm";

/// Character devices that every container may use, by major and minor: null, random, full, tty,
/// zero, urandom, console, all pseudo terminals, ptmx.
const DEFAULT_DEVICES: [(i64, Option<i64>); 9] = [
    (1, Some(3)),
    (1, Some(8)),
    (1, Some(7)),
    (5, Some(0)),
    (1, Some(5)),
    (1, Some(9)),
    (5, Some(1)),
    (136, None),
    (5, Some(2)),
];

/// The deepest folder below `/dev` that is looked into for a privileged container.
const MAX_DEPTH: usize = 8;

/// Folders and files in `/dev` that are not devices of the host.
const SKIPPED: [&str; 7] = ["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"];

/// The rule that forbids everything, before others allow something.
pub(crate) fn deny_all() -> DeviceRule {
    DeviceRule { access: ALL_ACCESS.to_owned(), ..DeviceRule::default() }
}

/// The rule that allows everything.
pub(crate) fn allow_all() -> DeviceRule {
    DeviceRule { allow: true, access: ALL_ACCESS.to_owned(), ..DeviceRule::default() }
}

/// Rules for the usual devices.
pub(crate) fn default_rules() -> impl Iterator<Item = DeviceRule> {
    DEFAULT_DEVICES.iter().map(|(major, minor)| DeviceRule {
        allow: true,
        kind: "c".to_owned(),
        major: Some(*major),
        minor: *minor,
        access: ALL_ACCESS.to_owned(),
    })
}

/// The rule that allows one device.
pub(crate) fn allow(device: &Device) -> DeviceRule {
    DeviceRule {
        allow: true,
        kind: device.kind.clone(),
        major: Some(device.major),
        minor: Some(device.minor),
        access: ALL_ACCESS.to_owned(),
    }
}

/// The device node at `path`.
pub(crate) fn host_device(path: &Path) -> Result<Device, SpecError> {
    let metadata =
        fs::metadata(path).map_err(|source| SpecError::Device { path: path.to_owned(), source })?;
    of_metadata(path, &metadata).ok_or_else(|| SpecError::NotADevice(path.to_owned()))
}

fn of_metadata(path: &Path, metadata: &fs::Metadata) -> Option<Device> {
    let kind = metadata.file_type();
    let kind = if kind.is_char_device() {
        "c"
    } else if kind.is_block_device() {
        "b"
    } else if kind.is_fifo() {
        "p"
    } else {
        return None;
    };
    let number = metadata.rdev();
    Some(Device {
        path: path.to_string_lossy().into_owned(),
        kind: kind.to_owned(),
        major: i64::from(major(number)),
        minor: i64::from(minor(number)),
        file_mode: Some(metadata.mode() & 0o7777),
        uid: Some(metadata.uid()),
        gid: Some(metadata.gid()),
    })
}

/// Major number of a device number, as glibc packs them.
fn major(number: u64) -> u32 {
    u32::try_from((number >> 8 & 0xfff) | (number >> 32 & 0xffff_f000)).unwrap_or(0)
}

/// Minor number of a device number.
fn minor(number: u64) -> u32 {
    u32::try_from((number & 0xff) | (number >> 12 & 0xffff_ff00)).unwrap_or(0)
}

/// All devices below `/dev`.
pub(crate) fn host_devices() -> Vec<Device> {
    let mut devices = Vec::new();
    collect(Path::new("/dev"), 0, &mut devices);
    devices
}

fn collect(folder: &Path, depth: usize, devices: &mut Vec<Device>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.filter_map(Result::ok) {
        let path = entry.path();
        // Links are not followed: what they lead to has a name of its own.
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        let name = entry.file_name();
        if metadata.is_dir() {
            if depth < MAX_DEPTH && !SKIPPED.iter().any(|skipped| name == *skipped) {
                collect(&path, depth + 1, devices);
            }
        } else if name != "console" && !metadata.file_type().is_fifo() {
            devices.extend(of_metadata(&path, &metadata));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_a_device_and_a_folder_is_none() {
        let null = host_device(Path::new("/dev/null")).unwrap();
        assert_eq!((null.kind.as_str(), null.major, null.minor), ("c", 1, 3));
        assert!(matches!(host_device(Path::new("/")), Err(SpecError::NotADevice(_))));
        assert!(matches!(host_device(Path::new("/dev/none")), Err(SpecError::Device { .. })));
        assert!(host_devices().iter().any(|device| device.path == "/dev/null"));
    }
}
