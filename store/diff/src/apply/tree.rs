//! The tree's folders by descriptor: each path is resolved once, within the root.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Folders kept open: an archive comes folder by folder, so that a few dozen serve nearly every entry.
const MAX_OPEN: usize = 128;

/// An open folder of the tree.
pub(crate) struct Folder {
    pub(crate) fd: OwnedFd,
    /// New files here do not simply take our ids and the mode that is asked for: the folder has
    /// the set-group-id bit or a default access list.
    pub(crate) special: bool,
    /// Tells folders apart, whatever their path.
    identity: u64,
}

impl Folder {
    pub(crate) fn new(fd: OwnedFd) -> Result<Self, Errno> {
        let stat = rustix::fs::fstat(&fd)?;
        let mut none = [0_u8; 0];
        let has_default_list =
            rustix::fs::fgetxattr(&fd, "system.posix_acl_default", &mut none[..]).is_ok();
        let mut hasher = DefaultHasher::new();
        (stat.st_dev, stat.st_ino).hash(&mut hasher);
        Ok(Folder {
            fd,
            special: stat.st_mode & 0o2000 != 0 || has_default_list,
            identity: hasher.finish(),
        })
    }

    /// A number for a name in this folder.
    pub(crate) fn mark(&self, name: &[u8]) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.identity, name).hash(&mut hasher);
        hasher.finish()
    }
}

/// The root and the folders that are open.
///
/// INVARIANT: a cached path resolves to its descriptor. Creating can not change that, only
/// removing a folder or a link can: who does calls [`Tree::forget`].
pub(crate) struct Tree {
    root: Rc<Folder>,
    folders: HashMap<Vec<u8>, Rc<Folder>>,
    /// The folder of the last entry, which is most often that of the next.
    last: Option<(Vec<u8>, Rc<Folder>)>,
}

impl Tree {
    pub(crate) fn open(root: &Path) -> Result<Self, Errno> {
        let root = Rc::new(Folder::new(open_root(root)?)?);
        Ok(Tree { root, folders: HashMap::new(), last: None })
    }

    pub(crate) fn root(&self) -> Rc<Folder> {
        Rc::clone(&self.root)
    }

    /// The folder at a clean path, through links that stay within the root. None if there is
    /// nothing.
    pub(crate) fn find(&mut self, path: &[u8]) -> Result<Option<Rc<Folder>>, Errno> {
        if path.is_empty() {
            return Ok(Some(self.root()));
        }
        if let Some((last, folder)) = &self.last
            && last == path
        {
            return Ok(Some(Rc::clone(folder)));
        }
        let folder = match self.folders.get(path) {
            Some(folder) => Rc::clone(folder),
            None => match open_below(self.root.fd.as_fd(), path) {
                Ok(fd) => self.remember(path, fd)?,
                Err(Errno::NOENT) => return Ok(None),
                Err(errno) => return Err(errno),
            },
        };
        self.last = Some((path.to_vec(), Rc::clone(&folder)));
        Ok(Some(folder))
    }

    /// Takes a folder that was just opened under its path.
    pub(crate) fn remember(&mut self, path: &[u8], fd: OwnedFd) -> Result<Rc<Folder>, Errno> {
        if self.folders.len() >= MAX_OPEN {
            self.folders.clear();
        }
        let folder = Rc::new(Folder::new(fd)?);
        self.folders.insert(path.to_vec(), Rc::clone(&folder));
        Ok(folder)
    }

    /// Drops what is cached: a folder or link was removed, or a folder's mode changed.
    pub(crate) fn forget(&mut self) {
        self.folders.clear();
        self.last = None;
    }
}

/// Opens a tree's root by its path on the host, which is the caller's and trusted.
pub(crate) fn open_root(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Opens the folder at `path` below `root`; links are followed as if `root` were `/`.
pub(crate) fn open_below(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    // The kernel gives up with EAGAIN when something is renamed during the look-up.
    let mut tries = 0;
    loop {
        let opened = rustix::fs::openat2(
            root,
            path,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        );
        tries += 1;
        match opened {
            Err(Errno::AGAIN) if tries < MAX_TRIES => {}
            other => return other,
        }
    }
}

/// Look-ups that are repeated when something else renames folders meanwhile.
const MAX_TRIES: u32 = 32;

/// A path without empty parts, `.` and `..`: relative to the root, which nothing climbs out of.
/// Empty for the root itself.
pub(crate) fn clean(path: &[u8]) -> Vec<u8> {
    let mut clean: Vec<u8> = Vec::with_capacity(path.len());
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                let end = clean.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                clean.truncate(end);
            }
            part => {
                if !clean.is_empty() {
                    clean.push(b'/');
                }
                clean.extend_from_slice(part);
            }
        }
    }
    clean
}

/// A clean path's folder and last name.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clean_paths_stay_below_the_root() {
        for (path, expected) in [
            ("./a//b/", "a/b"),
            ("/a", "a"),
            ("../../etc/passwd", "etc/passwd"),
            ("a/../../b", "b"),
            ("a/b/..", "a"),
            (".", ""),
            ("/", ""),
            ("..", ""),
            ("..a/b", "..a/b"),
        ] {
            assert_eq!(clean(path.as_bytes()), expected.as_bytes(), "{path}");
        }
        assert_eq!(split(b"a/b/c"), (&b"a/b"[..], &b"c"[..]));
        assert_eq!(split(b"a"), (&b""[..], &b"a"[..]));
    }
}
