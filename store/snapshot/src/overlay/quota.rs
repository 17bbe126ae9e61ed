//! Bounds of what is written to a snapshot: a project of the file system for each, with a quota.

use std::path::{Path, PathBuf};

use base_errors::Result;
use rustix::io::Errno;

/// Projects of snapshots have numbers from here on; administrators number theirs from 1.
const FIRST_PROJECT: u32 = 0x4000_0000;
/// Ids are never given twice, so that two snapshots share a project after a thousand million.
const PROJECTS: u64 = 0x4000_0000;

fn project(id: u64) -> u32 {
    u32::try_from(id % PROJECTS).map_or(FIRST_PROJECT, |number| FIRST_PROJECT + number)
}

/// Bounds what is written to the folders of snapshot `id` to `bytes`. Where the file system has no
/// project quotas that is logged, and nothing is bounded.
///
/// # Errors
/// Those of a file system that has quotas.
pub(super) fn limit(id: u64, folders: &[&PathBuf], bytes: u64) -> Result<()> {
    let project = project(id);
    let Some(first) = folders.first() else { return Ok(()) };
    // The quota first: without it a project bounds nothing.
    let done = kernel_mount::limit_project(first, project, bytes).and_then(|()| {
        folders.iter().try_for_each(|folder| kernel_mount::set_project(folder, project))
    });
    match done {
        Err(error) if is_unsupported(error.errno()) => {
            // COMPAT: clients ask for bounds whatever the host can do.
            tracing::warn!(%error, bytes, "the size of a snapshot is not bounded here");
            Ok(())
        }
        done => Ok(done?),
    }
}

/// Takes the bound of a removed snapshot away.
pub(super) fn unlimit(id: u64, root: &Path) {
    match kernel_mount::limit_project(root, project(id), 0) {
        Err(error) if !is_unsupported(error.errno()) => {
            tracing::warn!(%error, "failed to remove the quota of a snapshot");
        }
        _ => {}
    }
}

fn is_unsupported(errno: Option<Errno>) -> bool {
    matches!(
        errno,
        Some(Errno::NOSYS | Errno::SRCH | Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL)
    )
}
