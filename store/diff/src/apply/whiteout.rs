//! Deletions: what the names mean, and how they are carried out in either kind of tree.

use std::collections::HashSet;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, XattrFlags};
use rustix::io::Errno;

use super::error::{ApplyError, Shown};
use super::remove::{list, remove_all};
use super::tree::Folder;

/// Before the name of what is deleted.
const PREFIX: &[u8] = b".wh.";
/// Before names that mean something of their own.
const META: &[u8] = b".wh..wh.";
/// In a folder: nothing of the layers below shows through.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What an entry's name asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Meaning<'a> {
    /// An entry like any other.
    Entry,
    /// Deletes this name in the same folder.
    Delete(&'a [u8]),
    /// Hides all of the folder that comes from below.
    Opaque,
    /// A leftover of aufs: ignored.
    Ignore,
}

impl<'a> Meaning<'a> {
    /// Tells the meaning of a clean path.
    pub(crate) fn of(path: &'a [u8]) -> Result<Self, ApplyError> {
        let (folder, name) = super::tree::split(path);
        if folder.split(|byte| *byte == b'/').any(|part| part.starts_with(META)) {
            return Ok(Meaning::Ignore);
        }
        if name == OPAQUE {
            return Ok(Meaning::Opaque);
        }
        if name.starts_with(META) {
            return Ok(Meaning::Ignore);
        }
        match name.strip_prefix(PREFIX) {
            None => Ok(Meaning::Entry),
            Some(b"" | b"." | b"..") => Err(ApplyError::Whiteout { name: Shown::new(name) }),
            Some(deleted) => Ok(Meaning::Delete(deleted)),
        }
    }
}

/// True for the device that overlayfs takes for a deleted name.
pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Writes the device that overlayfs takes for a deleted name, in place of what is there.
pub(crate) fn put_whiteout(folder: &Folder, name: &[u8]) -> Result<(), Errno> {
    let make =
        || rustix::fs::mknodat(&folder.fd, name, FileType::CharacterDevice, Mode::empty(), 0);
    match make() {
        Err(Errno::EXIST) => {
            remove_all(folder.fd.as_fd(), name)?;
            make()
        }
        other => other,
    }
}

/// Marks a folder of an overlay as hiding the one below it.
pub(crate) fn put_opaque(folder: &OwnedFd, user: bool) -> Result<(), Errno> {
    let name = if user { "user.overlay.opaque" } else { "trusted.overlay.opaque" };
    rustix::fs::fsetxattr(folder, name, b"y", XattrFlags::empty())
}

/// True if a folder of an overlay is marked so.
pub(crate) fn is_opaque(folder: &OwnedFd) -> bool {
    ["trusted.overlay.opaque", "user.overlay.opaque"].iter().any(|name| {
        let mut value = [0; 1];
        matches!(rustix::fs::fgetxattr(folder, *name, &mut value[..]), Ok(1)) && value == *b"y"
    })
}

/// Folders below an opaque one that are looked into for what this layer wrote. What lies deeper
/// would be a layer that hides its own tree.
const MAX_DEPTH: usize = 512;

/// Removes all in `folder` that this layer has not written itself; gives whether anything is left.
/// The `kept` names are those that [`Folder::mark`] tells.
pub(crate) fn remove_others(
    folder: &Folder,
    kept: &HashSet<u64>,
    depth: usize,
) -> Result<bool, Errno> {
    if depth > MAX_DEPTH {
        return Err(Errno::LOOP);
    }
    let mut any = false;
    for (name, is_folder) in list(&folder.fd)? {
        let name = name.to_bytes();
        let is_kept = kept.contains(&folder.mark(name));
        if is_folder {
            let inner = rustix::fs::openat(
                &folder.fd,
                name,
                OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::empty(),
            )?;
            let is_needed = remove_others(&Folder::new(inner)?, kept, depth + 1)?;
            if is_kept || is_needed {
                any = true;
                continue;
            }
        } else if is_kept {
            any = true;
            continue;
        }
        if !is_kept {
            remove_all(folder.fd.as_fd(), name)?;
        }
    }
    Ok(any)
}

/// Looks at `name` without following it. None if there is nothing.
pub(crate) fn look(folder: &Folder, name: &[u8]) -> Result<Option<Stat>, Errno> {
    match rustix::fs::statat(&folder.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_mean_what_they_say() {
        assert_eq!(Meaning::of(b"a/b").unwrap(), Meaning::Entry);
        assert_eq!(Meaning::of(b"a/.wh.b").unwrap(), Meaning::Delete(b"b"));
        assert_eq!(Meaning::of(b".wh..wh..opq").unwrap(), Meaning::Opaque);
        assert_eq!(Meaning::of(b"a/.wh..wh..opq").unwrap(), Meaning::Opaque);
        assert_eq!(Meaning::of(b".wh..wh.plnk").unwrap(), Meaning::Ignore);
        assert_eq!(Meaning::of(b".wh..wh.plnk/1.2").unwrap(), Meaning::Ignore);
        for bad in [&b".wh."[..], b"a/.wh..", b".wh..."] {
            assert!(Meaning::of(bad).is_err(), "{bad:?}");
        }
    }
}
