//! Taking mounts away.

use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use crate::{Error, Result, mountinfo};

/// Tries for a busy mount, as many as containerd makes: two and a half seconds in all.
const BUSY_TRIES: u32 = 50;
/// The pause between two of them.
const BUSY_PAUSE: Duration = Duration::from_millis(50);
/// The most mounts stacked on one path. More is a loop of somebody else's mounting.
const MAX_STACKED: usize = 10_000;

/// Takes the topmost mount on `target` away. Not mounted, or not there, is no error.
///
/// A busy mount is tried for two and a half seconds, unless `flags` has [`UnmountFlags::DETACH`].
///
/// # Errors
/// [`Error::Unmount`] if it stays.
pub fn unmount(target: &Path, flags: UnmountFlags) -> Result<()> {
    unmount_one(target, flags).map(|_| ())
}

/// Takes all mounts stacked on `target` away. Not mounted, or not there, is no error.
///
/// # Errors
/// [`Error::Unmount`] if one stays.
pub fn unmount_all(target: &Path, flags: UnmountFlags) -> Result<()> {
    for _ in 0..MAX_STACKED {
        if !unmount_one(target, flags)? {
            return Ok(());
        }
    }
    Err(Error::Unmount { target: target.to_owned(), errno: Errno::LOOP })
}

/// Takes all mounts on `target` and below it away, the deepest first.
///
/// # Errors
/// [`Error::Unmount`] if one stays; the others are tried all the same.
pub fn unmount_recursive(target: &Path, flags: UnmountFlags) -> Result<()> {
    let mut first_error = None;
    // The table lists a mount after the one it stands on.
    for mount in mountinfo::mounts_below(target)?.iter().rev() {
        if let Err(error) = unmount_all(&mount.mount_point, flags) {
            first_error.get_or_insert(error);
        }
    }
    match first_error {
        Some(error) => Err(error),
        None => unmount_all(target, flags),
    }
}

/// Takes all mounts on `target` out of the tree at once. Who uses them keeps them until done.
///
/// # Errors
/// [`Error::Unmount`] if the system refuses.
pub fn detach(target: &Path) -> Result<()> {
    unmount_all(target, UnmountFlags::DETACH)
}

/// True if something was taken away, false if there was nothing.
fn unmount_one(target: &Path, flags: UnmountFlags) -> Result<bool> {
    let mut tries = 0;
    loop {
        match rustix::mount::unmount(target, flags) {
            Ok(()) => return Ok(true),
            // EINVAL is what the kernel says of a path that is not a mount point.
            Err(Errno::INVAL | Errno::NOENT) => return Ok(false),
            Err(Errno::BUSY) if tries < BUSY_TRIES && !flags.contains(UnmountFlags::DETACH) => {
                tries += 1;
                std::thread::sleep(BUSY_PAUSE);
            }
            Err(errno) => return Err(Error::Unmount { target: target.to_owned(), errno }),
        }
    }
}
