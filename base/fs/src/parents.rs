//! The folders that a tar applier works in, kept open.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use rustix::fs::Mode;

use crate::root::split;
use crate::{DirFd, Result, Root, clean_path};

/// Folders kept open. Archives go through a tree in order, so a few are enough.
const KEPT: usize = 16;

/// Resolves the parents of many paths below one root with one `openat2` for each new parent.
///
/// The cache does not see what changes below it. Who replaces or removes a folder or a link calls
/// [`ParentCache::forget`]; else later entries would go to the folder of old.
#[derive(Debug)]
pub struct ParentCache {
    root: Root,
    /// Most recently used last.
    open: VecDeque<(PathBuf, DirFd)>,
}

impl ParentCache {
    /// An empty cache over `root`.
    #[must_use]
    pub fn new(root: Root) -> Self {
        ParentCache { root, open: VecDeque::with_capacity(KEPT) }
    }

    /// The root.
    #[must_use]
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// The folder that holds the last name of `path`, and that name; as [`Root::resolve_parent`].
    ///
    /// # Errors
    /// As [`Root::resolve_parent`].
    pub fn resolve_parent(&mut self, path: impl AsRef<Path>) -> Result<(DirFd, OsString)> {
        self.resolve(path.as_ref(), |root, parent| root.open_dir(parent))
    }

    /// As [`ParentCache::resolve_parent`]; missing folders are made with `mode`.
    ///
    /// # Errors
    /// As [`Root::create_dir_all`].
    pub fn create_parent(
        &mut self,
        path: impl AsRef<Path>,
        mode: Mode,
    ) -> Result<(DirFd, OsString)> {
        self.resolve(path.as_ref(), |root, parent| root.create_dir_all(parent, mode))
    }

    /// Forgets all folders: something was replaced or removed.
    pub fn forget(&mut self) {
        self.open.clear();
    }

    fn resolve(
        &mut self,
        path: &Path,
        open: impl FnOnce(&Root, &Path) -> Result<DirFd>,
    ) -> Result<(DirFd, OsString)> {
        let path = clean_path(path);
        let (parent, name) = split(&path)?;
        if parent.as_os_str().is_empty() {
            return Ok((self.root.top().clone(), name.to_owned()));
        }
        if let Some(at) = self.open.iter().rposition(|(known, _)| known == parent) {
            let dir = self.open[at].1.clone();
            if at + 1 != self.open.len()
                && let Some(entry) = self.open.remove(at)
            {
                self.open.push_back(entry);
            }
            return Ok((dir, name.to_owned()));
        }
        let dir = open(&self.root, parent)?;
        if self.open.len() == KEPT {
            self.open.pop_front();
        }
        self.open.push_back((parent.to_owned(), dir.clone()));
        Ok((dir, name.to_owned()))
    }
}
