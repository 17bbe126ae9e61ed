//! Removing a tree by folder descriptors: nothing outside of it is ever touched.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

/// Folders that are open at once while a tree is removed. What lies deeper is first moved up.
const MAX_DEPTH: usize = 64;

/// Removes `name` in `folder`, with all that is in it. Gone already is fine.
///
/// # Errors
/// Those of the system, with the tree removed in part.
pub(crate) fn remove_all(folder: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(errno),
    }
    let mut moved = 0;
    loop {
        let tree = open_folder(folder, name)?;
        let before = moved;
        empty_folder(&tree, tree.as_fd(), 0, &mut moved)?;
        drop(tree);
        if before == moved {
            break;
        }
        // Deep folders were moved up into `name`; another round takes them away.
    }
    match rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Empties `folder`. Folders that are too deep go to `top` under a new name, counted in `moved`.
fn empty_folder(
    folder: &OwnedFd,
    top: BorrowedFd<'_>,
    depth: usize,
    moved: &mut u64,
) -> Result<(), Errno> {
    for (name, is_folder) in list(folder)? {
        let name = name.as_c_str();
        if !is_folder {
            match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => continue,
                Err(Errno::ISDIR) => {}
                Err(errno) => return Err(errno),
            }
        }
        if depth == MAX_DEPTH {
            move_up(folder, name, top, moved)?;
            continue;
        }
        let inner = open_folder(folder.as_fd(), name.to_bytes())?;
        empty_folder(&inner, top, depth + 1, moved)?;
        drop(inner);
        match rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Moves a folder that is too deep to the top of the tree, under a name that nothing has there.
fn move_up(
    folder: &OwnedFd,
    name: &CStr,
    top: BorrowedFd<'_>,
    moved: &mut u64,
) -> Result<(), Errno> {
    loop {
        *moved += 1;
        let new = format!(".wh..removed-{moved}");
        match rustix::fs::renameat_with(folder, name, top, new, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            other => return other,
        }
    }
}

/// Names in a folder, and which of them are folders themselves.
pub(crate) fn list(folder: &OwnedFd) -> Result<Vec<(std::ffi::CString, bool)>, Errno> {
    let mut names = Vec::new();
    let mut entries = rustix::fs::Dir::read_from(folder)?;
    while let Some(entry) = entries.read() {
        let entry = entry?;
        let name: &CStr = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let is_folder = match entry.file_type() {
            FileType::Unknown => {
                let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
                FileType::from_raw_mode(stat.st_mode) == FileType::Directory
            }
            kind => kind == FileType::Directory,
        };
        names.push((name.to_owned(), is_folder));
    }
    Ok(names)
}

fn open_folder(folder: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(
        folder,
        name,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
}
