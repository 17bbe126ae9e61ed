//! What is left of a group whose maker died.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::group::{checked, collect_pids, remove_tree};
use crate::{Error, Hierarchies, Result};

/// The folders of one name in all mounted hierarchies.
///
/// A [`Group`](crate::Group) is what a container lives in. A runtime that was killed in the middle
/// leaves a part of it; and on a machine that runs both versions, it leaves a folder in the
/// hierarchy of version 2 as well, which has no controllers there and is no part of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remains(BTreeSet<PathBuf>);

impl Remains {
    /// The folders that there are of `name`, counted from the top: `/default/web`.
    ///
    /// # Errors
    /// [`Error::InvalidPath`].
    pub fn find(hierarchies: &Hierarchies, name: &str) -> Result<Self> {
        let below = checked(name)?;
        let all = hierarchies.legacy.values().chain(&hierarchies.unified);
        let folders = all.map(|hierarchy| hierarchy.mount_point.join(&below));
        Ok(Remains(folders.filter(|folder| folder.is_dir()).collect()))
    }

    /// True if nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The processes in any of the folders, and below them. Folders that went away have none.
    #[must_use]
    pub fn pids(&self) -> BTreeSet<i32> {
        let mut found = BTreeSet::new();
        for folder in &self.0 {
            match collect_pids(folder, true, 0, &mut found) {
                Ok(()) | Err(Error::NotFound { .. }) => {}
                Err(error) => tracing::debug!(path = %folder.display(), %error, "cgroup.procs"),
            }
        }
        found
    }

    /// Removes all folders, with the groups below them.
    ///
    /// # Errors
    /// The first of the system's; the other folders are removed all the same.
    pub fn remove(&self) -> Result<()> {
        let mut first_error = None;
        for folder in &self.0 {
            if let Err(error) = remove_tree(folder) {
                first_error.get_or_insert(error);
            }
        }
        first_error.map_or(Ok(()), Err)
    }
}
