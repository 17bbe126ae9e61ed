//! Snapshots as plain copies: for any file system, and for tests.
//!
//! ```text
//! metadata.db
//! snapshots/<id>/      the whole tree (0755); none for a view with a parent
//! snapshots/new-*      on its way
//! ```
//!
//! A view shows its parent's folder. Removing drops the record and then the folder.

use std::path::PathBuf;

use base_errors::Result;
use base_ident::Labels;
use kernel_mount::Mount;

use crate::error::failed;
use crate::folders::{Folders, Pending, make_private};
use crate::local::{Backend, Local, New, delegate};
use crate::overlay::measure;
use crate::snapshotter::{Kind, Usage};
use crate::storage::{Storage, Tree};

/// The mode of a tree's folder.
const TREE_MODE: u32 = 0o755;

/// The native snapshotter. Cloning gives another handle of the same.
#[derive(Clone)]
pub struct NativeSnapshotter {
    local: Local<Native>,
}

delegate!(NativeSnapshotter);

impl NativeSnapshotter {
    /// Opens the snapshotter in `root`, which is made if it is missing. Blocks.
    ///
    /// # Errors
    /// Those of the folders and of the database.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        let root = root.into();
        make_private(&root)?;
        let storage = Storage::open(&root.join("metadata.db"))?;
        let backend = Native { folders: Folders::open(&root)? };
        Ok(NativeSnapshotter { local: Local::new(storage, backend) })
    }
}

struct Native {
    folders: Folders,
}

impl Backend for Native {
    /// None: a view shows its parent's folder.
    type Draft = Option<Pending>;

    fn make(&self, new: &New<'_>, _labels: &mut Labels) -> Result<Self::Draft> {
        let parent = new.parent.map(|(id, _)| id);
        if new.kind == Kind::View && parent.is_some() {
            return Ok(None);
        }
        let pending = self.folders.begin(TREE_MODE)?;
        if let Some(parent) = parent {
            base_fs::copy_tree(self.folders.tree(parent), pending.path())?;
        }
        Ok(Some(pending))
    }

    fn placed(&self, tree: &Tree, _labels: &Labels) -> Result<()> {
        if tree.id != tree.shown() {
            return Ok(());
        }
        // DURABILITY: the copy of the parent's files, before anybody hears of it.
        let path = self.folders.tree(tree.id);
        base_fs::failpoint::hit("native.name").map_err(failed(&path))?;
        if tree.parents.is_empty() {
            return self.folders.sync_name(tree.id);
        }
        Ok(base_fs::sync_file_system(&path)?)
    }

    fn mounts(&self, tree: &Tree, _labels: &Labels) -> Result<Vec<Mount>> {
        let mode = if tree.kind == Kind::View { "ro" } else { "rw" };
        Ok(vec![Mount {
            kind: "bind".to_owned(),
            source: self.folders.tree(tree.shown()).to_string_lossy().into_owned(),
            target: String::new(),
            options: vec!["rbind".to_owned(), mode.to_owned()],
        }])
    }

    fn measure(&self, id: u64, _parent: Option<u64>) -> Result<Usage> {
        measure(&self.folders.tree(id))
    }

    fn flush(&self, id: u64) -> Result<()> {
        self.folders.flush(id)
    }

    fn removed(&self, id: u64, _kind: Kind, _labels: &Labels) -> Result<()> {
        self.folders.remove(id)
    }

    fn cleanup(&self, storage: &Storage) -> Result<()> {
        self.folders.cleanup(storage)
    }
}
