//! The open folders of a walk through a tree: deep trees must not use up descriptors.

use std::ffi::{CStr, CString};

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

/// Levels that keep their descriptors. Those above are opened again through `..` on the way back,
/// and checked to be the same folder.
const KEPT_OPEN: usize = 64;

/// How folders are opened on the way down: never through a link.
pub(crate) const DESCEND: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// One level: `N` folders walked side by side (a source and its copy), and the names of the
/// source's folders that are still to be visited.
pub(crate) struct Level<const N: usize> {
    folders: Option<[OwnedFd; N]>,
    ids: [(u64, u64); N],
    pub(crate) pending: Vec<CString>,
}

/// The levels from the top to where the walk is.
pub(crate) struct Levels<const N: usize> {
    levels: Vec<Level<N>>,
}

impl<const N: usize> Levels<N> {
    pub(crate) fn new() -> Self {
        Levels { levels: Vec::new() }
    }

    /// Goes one level down.
    pub(crate) fn push(
        &mut self,
        folders: [OwnedFd; N],
        pending: Vec<CString>,
    ) -> Result<(), Errno> {
        let mut ids = [(0, 0); N];
        for (id, folder) in ids.iter_mut().zip(&folders) {
            *id = identity(folder)?;
        }
        if let Some(far) = self.levels.len().checked_sub(KEPT_OPEN) {
            self.levels[far].folders = None;
        }
        self.levels.push(Level { folders: Some(folders), ids, pending });
        Ok(())
    }

    /// The level where the walk is, and its folders.
    pub(crate) fn top(&mut self) -> Option<(&[OwnedFd; N], &mut Vec<CString>)> {
        let level = self.levels.last_mut()?;
        // `push` and `pop` see to it that the last level is open.
        level.folders.as_ref().map(|folders| (folders, &mut level.pending))
    }

    /// Goes one level up. The folders of the level that is left are handed back.
    pub(crate) fn pop(&mut self) -> Result<Option<[OwnedFd; N]>, Errno> {
        let Some(left) = self.levels.pop().and_then(|level| level.folders) else {
            return Ok(None);
        };
        if let Some(above) = self.levels.last_mut()
            && above.folders.is_none()
        {
            let mut opened = Vec::with_capacity(N);
            for (folder, id) in left.iter().zip(above.ids) {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let parent = rustix::fs::openat(folder, c"..", flags, Mode::empty())?;
                // Somebody may have moved the folder elsewhere meanwhile.
                if identity(&parent)? != id {
                    return Err(Errno::STALE);
                }
                opened.push(parent);
            }
            above.folders = opened.try_into().ok();
        }
        Ok(Some(left))
    }
}

/// Device and inode.
fn identity(folder: &OwnedFd) -> Result<(u64, u64), Errno> {
    let stat = rustix::fs::fstat(folder)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// Calls `visit` with each name of `folder` and what kind it is, as far as the listing tells.
pub(crate) fn each_entry<E: From<Errno>>(
    folder: &OwnedFd,
    mut visit: impl FnMut(&CStr, FileType) -> Result<(), E>,
) -> Result<(), E> {
    let mut entries = Dir::read_from(folder.as_fd())?;
    while let Some(entry) = entries.read() {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            visit(name, entry.file_type())?;
        }
    }
    Ok(())
}
