//! Removing trees.

use std::ffi::{CStr, CString, OsStr};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::levels::{DESCEND, Levels, each_entry};
use crate::{DirFd, Error, Result};

/// Passes over one folder. Others may add to it while it is emptied, but not forever.
const MAX_PASSES: usize = 16;

/// Removes `path` with all that is in it; no link is followed. What is not there, or goes away
/// meanwhile, is removed already.
///
/// # Errors
/// The first thing that could not be removed, named by `path`; a mount inside is `EBUSY`.
pub fn remove_all(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    let name = path
        .file_name()
        .ok_or_else(|| Error::Name { path: path.to_owned(), reason: "has no last name" })?;
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    match DirFd::open(parent) {
        Ok(parent) => remove_in(&parent, name),
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes `name` in `parent` with all that is in it.
pub(crate) fn remove_in(parent: &DirFd, name: &OsStr) -> Result<()> {
    let fail = |errno| Error::new("remove", parent.path().join(name), errno);
    let c_name = CString::new(name.as_bytes()).map_err(|_| fail(Errno::INVAL))?;
    match rustix::fs::unlinkat(parent, &c_name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        // Linux says EISDIR of a folder; EPERM is what POSIX allows.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(fail(errno)),
    }
    for _ in 0..MAX_PASSES {
        empty(parent, &c_name).map_err(fail)?;
        match rustix::fs::unlinkat(parent, &c_name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(errno) => return Err(fail(errno)),
        }
    }
    Err(fail(Errno::NOTEMPTY))
}

/// Removes all that is in the folder `name` of `parent`, as far as one pass sees it.
fn empty(parent: &DirFd, name: &CStr) -> Result<(), Errno> {
    let mut levels = Levels::<1>::new();
    match open(parent, name)? {
        Some(folder) => descend(&mut levels, folder)?,
        None => return Ok(()),
    }
    // INVARIANT: the last of a level's pending names is the one whose level is open below it.
    while let Some(([folder], pending)) = levels.top() {
        if let Some(child) = pending.last() {
            match open(folder, child)? {
                Some(child) => descend(&mut levels, child)?,
                None => {
                    pending.pop();
                }
            }
            continue;
        }
        levels.pop()?;
        if let Some(([folder], pending)) = levels.top()
            && let Some(emptied) = pending.pop()
        {
            match rustix::fs::unlinkat(folder, &emptied, AtFlags::REMOVEDIR) {
                // What was added meanwhile is met in the next pass.
                Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
    Ok(())
}

/// Opens a folder, if it is still there and still one. One that cannot be read is made readable.
fn open(parent: impl rustix::fd::AsFd, name: &CStr) -> Result<Option<rustix::fd::OwnedFd>, Errno> {
    match rustix::fs::openat(&parent, name, DESCEND, Mode::empty()) {
        Ok(folder) => Ok(Some(folder)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(Errno::ACCESS) => {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let folder = rustix::fs::openat(&parent, name, flags, Mode::empty())?;
            let path = crate::dir::descriptor_path(rustix::fd::AsFd::as_fd(&folder));
            rustix::fs::chmod(&path, Mode::RWXU)?;
            rustix::fs::openat(&parent, name, DESCEND, Mode::empty()).map(Some)
        }
        Err(errno) => Err(errno),
    }
}

/// Removes the files of a folder and puts its folders down as pending.
fn descend(levels: &mut Levels<1>, folder: rustix::fd::OwnedFd) -> Result<(), Errno> {
    let mut pending = Vec::new();
    each_entry(&folder, |name, kind| {
        if kind == FileType::Directory {
            pending.push(name.to_owned());
            return Ok(());
        }
        match rustix::fs::unlinkat(&folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR) => {
                pending.push(name.to_owned());
                Ok(())
            }
            Err(errno) => Err(errno),
        }
    })?;
    levels.push([folder], pending)
}
