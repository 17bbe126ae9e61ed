//! The removal of trees that no namespace needs any more.

use std::collections::BTreeMap;

use base_errors::Result;

use super::NamespacedSnapshots;

impl NamespacedSnapshots {
    /// Removes the backend's snapshots that no record and no running call needs, children before
    /// their parents, and has the backend clean up. Gives their number. One that cannot be removed
    /// is logged and left for the next sweep. One sweep at a time.
    ///
    /// CANCEL: what is removed is removed; the rest waits for the next sweep.
    ///
    /// # Errors
    /// Those of the lists, before anything is removed; that of the clean-up.
    pub async fn sweep(&self) -> Result<usize> {
        let shared = &self.shared;
        // The backend before the records: what is new in the backend is held or recorded already.
        let listed = shared.backend.list(&[]).await?;
        let needed = shared.metadata.all_backend_snapshot_names(&shared.name)?;
        let mut garbage: BTreeMap<String, String> = listed
            .into_iter()
            .filter(|info| !needed.contains(&info.name))
            .map(|info| (info.name, info.parent))
            .collect();
        let mut removed = 0;
        // Rounds of leaves: a parent is free when its last child has gone. Each round removes some
        // or is the last.
        while !garbage.is_empty() {
            let leaves: Vec<String> = {
                let parents: std::collections::BTreeSet<&String> = garbage.values().collect();
                garbage.keys().filter(|key| !parents.contains(key)).cloned().collect()
            };
            if leaves.is_empty() {
                tracing::warn!(snapshotter = %shared.name, "snapshots are each other's parents");
                break;
            }
            let claimed = shared.claims.claim(leaves.clone());
            let needed = shared.metadata.all_backend_snapshot_names(&shared.name)?;
            for key in leaves {
                let parent = garbage.remove(&key);
                let result = if needed.contains(&key) {
                    None
                } else {
                    Some(shared.backend.remove(&key).await)
                };
                match result {
                    Some(Ok(())) => removed += 1,
                    Some(Err(error)) if error.is_not_found() => {}
                    kept => {
                        if let Some(Err(error)) = kept {
                            tracing::warn!(snapshotter = %shared.name, %key, %error,
                                "failed to remove a snapshot");
                            shared.metadata.mark_snapshotter_dirty(&shared.name);
                        }
                        // What stays keeps its parents.
                        let mut next = parent;
                        while let Some(parent) = next {
                            next = garbage.remove(&parent);
                        }
                    }
                }
            }
            drop(claimed);
        }
        shared.backend.cleanup().await?;
        Ok(removed)
    }
}
