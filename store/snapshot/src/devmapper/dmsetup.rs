//! `dmsetup`, which knows how to wait for the device nodes that udev makes, or makes them itself.

use base_errors::{Class, Error, Result};

use crate::error::SnapshotError;
use crate::program;

/// Bytes of a sector.
const SECTOR: u64 = 512;

const PROGRAM: &str = "dmsetup";

/// Is there while udev runs, which then makes the device nodes.
const UDEV: &str = "/run/udev/control";
/// Has the program make the device nodes itself.
const WITHOUT_UDEV: (&str, &str) = ("DM_DISABLE_UDEV", "1");

/// Where a device is found.
pub(super) fn path(device: &str) -> String {
    format!("/dev/mapper/{device}")
}

/// Runs `dmsetup` with these arguments.
///
/// The error's class is NotFound for a device that is not there, Unavailable for one that is busy.
fn dmsetup(arguments: &[&str]) -> Result<String> {
    // Minimal machines and containers have no udev: the program does not see that by itself.
    let environment: &[_] = if std::path::Path::new(UDEV).exists() { &[] } else { &[WITHOUT_UDEV] };
    let output = program::output(PROGRAM, arguments, environment)?;
    if output.success {
        return Ok(output.stdout.trim().to_owned());
    }
    let text = format!("{}{}", output.stderr, output.stdout).trim().to_owned();
    let class = class_of(&text);
    let reason = format!("{}: {text}", arguments.join(" "));
    let error = SnapshotError::Program { program: PROGRAM.to_owned(), reason }.to_string();
    Err(Error::new(class, error))
}

/// What the texts of `dmsetup` mean; it has no other way to tell.
fn class_of(text: &str) -> Class {
    let first = text.lines().next().unwrap_or_default();
    let reason = first.rsplit("failed: ").next().unwrap_or_default();
    if first.ends_with("not found") || reason.contains("No such device") {
        Class::NotFound
    } else if reason.contains("busy") {
        Class::Unavailable
    } else if reason.contains("File exists") {
        Class::AlreadyExists
    } else if reason.contains("No space") {
        Class::ResourceExhausted
    } else {
        Class::Unknown
    }
}

/// Fails if the program or the kernel's part is missing.
pub(super) fn version() -> Result<String> {
    dmsetup(&["version"])
}

/// True if the device has a table that is in use.
pub(super) fn is_active(device: &str) -> bool {
    attributes(device).is_some_and(|attributes| attributes.contains('L'))
}

/// True if the device is there.
pub(super) fn is_loaded(device: &str) -> bool {
    attributes(device).is_some()
}

fn attributes(device: &str) -> Option<String> {
    dmsetup(&["info", "--columns", "--noheadings", "-o", "attr", device]).ok()
}

/// How many have the device open.
pub(super) fn open_count(device: &str) -> Result<u64> {
    let text = dmsetup(&["info", "--columns", "--noheadings", "-o", "open", device])?;
    text.parse().map_err(|_| Error::unknown(format!("{PROGRAM} info {device}: {text:?}")))
}

/// Makes the thin device `id` in the pool.
pub(super) fn create_thin(pool: &str, id: u32) -> Result<()> {
    dmsetup(&["message", pool, "0", &format!("create_thin {id}")]).map(drop)
}

/// Makes `id` a snapshot of `origin`, which nobody writes to now.
pub(super) fn create_snapshot(pool: &str, id: u32, origin: u32) -> Result<()> {
    dmsetup(&["message", pool, "0", &format!("create_snap {id} {origin}")]).map(drop)
}

/// Removes the thin device `id` from the pool.
pub(super) fn delete(pool: &str, id: u32) -> Result<()> {
    dmsetup(&["message", pool, "0", &format!("delete {id}")]).map(drop)
}

/// Makes `/dev/mapper/<device>` for the thin device `id`.
pub(super) fn activate(pool: &str, device: &str, id: u32, bytes: u64) -> Result<()> {
    let table = format!("0 {} thin {} {id}", bytes / SECTOR, path(pool));
    dmsetup(&["create", device, "--table", &table]).map(drop)
}

/// Writes out what is on its way, and holds back what comes.
pub(super) fn suspend(device: &str) -> Result<()> {
    dmsetup(&["suspend", device]).map(drop)
}

/// Ends [`suspend`].
pub(super) fn resume(device: &str) -> Result<()> {
    dmsetup(&["resume", device]).map(drop)
}

/// Takes `/dev/mapper/<device>` away: when nobody has it open any more, if `deferred`.
pub(super) fn remove(device: &str, deferred: bool) -> Result<()> {
    let target = path(device);
    let mut arguments = vec!["remove", "--retry"];
    if deferred {
        arguments.push("--deferred");
    }
    arguments.push(&target);
    match dmsetup(&arguments) {
        Err(error) if error.class() == Class::NotFound => Ok(()),
        result => result.map(drop),
    }
}

/// Bytes that a thin device has in the pool.
pub(super) fn usage(device: &str) -> Result<u64> {
    let text = dmsetup(&["status", device])?;
    used_sectors(&text)
        .map(|sectors| sectors * SECTOR)
        .ok_or_else(|| Error::unknown(format!("{PROGRAM} status {device}: {text:?}")))
}

/// `0 204800 thin 17280 204799`: the fourth word.
fn used_sectors(status: &str) -> Option<u64> {
    let words: Vec<&str> = status.split_whitespace().collect();
    match words.as_slice() {
        [_, _, "thin", used, ..] => used.parse().ok(),
        _ => None,
    }
}

/// Gives all blocks of a device back.
pub(super) fn discard(device: &str) -> Result<()> {
    program::run("blkdiscard", &[path(device)])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_understood() {
        for (text, class) in [
            ("Device pool-snap-1 not found\nCommand failed.", Class::NotFound),
            (
                "device-mapper: remove ioctl on x  failed: Device or resource busy\nCommand failed.",
                Class::Unavailable,
            ),
            (
                "device-mapper: message ioctl on pool  failed: File exists\nCommand failed.",
                Class::AlreadyExists,
            ),
            (
                "device-mapper: create ioctl on p failed: No such device or address\nx",
                Class::NotFound,
            ),
            ("something else", Class::Unknown),
        ] {
            assert_eq!(class_of(text), class, "{text}");
        }
        assert_eq!(used_sectors("0 204800 thin 17280 204799"), Some(17280));
        assert_eq!(used_sectors("0 204800 thin Fail"), None);
        assert_eq!(used_sectors(""), None);
    }
}
