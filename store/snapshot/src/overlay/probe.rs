//! What the kernel and the file system below the snapshotter can do.

use std::fs;
use std::path::Path;

use base_errors::Result;
use kernel_mount::{Mount, TempMount};
use rustix::fs::FileType;
use rustix::mount::FsOpenFlags;

use crate::error::{SnapshotError, io_error};

/// Says whether the kernel knows the option `index`.
const INDEX: &str = "/sys/module/overlay/parameters/index";
/// The map of a process that is in no user namespace.
const WHOLE_MAP: [&str; 3] = ["0", "0", "4294967295"];

/// The answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Probe {
    /// The option `index` exists and must be off.
    pub index: bool,
    /// The option `userxattr` is needed, in a user namespace.
    pub user_xattr: bool,
    /// Overlays on mapped layers work.
    pub remap_ids: bool,
}

impl Probe {
    /// Tries overlayfs in a folder below `root`. Nothing becomes visible but, for the ids, one
    /// mount in that folder for a moment. Blocks.
    ///
    /// # Errors
    /// NotImplemented with the reason if overlayfs does not work there.
    pub fn run(root: &Path) -> Result<Self> {
        let unsupported = |reason: String| SnapshotError::Unsupported {
            snapshotter: "overlayfs",
            path: root.display().to_string(),
            reason,
        };
        let folder = Scratch::new(root)?;
        for name in ["lower1", "lower2"] {
            let path = folder.0.join(name);
            fs::create_dir(&path).map_err(|error| io_error("mkdir", &path, &error))?;
        }
        if !has_entry_types(&folder.0)? {
            return Err(unsupported(
                "does not support d_type; if the backing file system is xfs, please reformat \
                 with ftype=1 to enable d_type support"
                    .to_owned(),
            )
            .into());
        }
        let user_xattr = in_user_namespace() && try_overlay(&folder.0, true).is_ok();
        if !user_xattr {
            try_overlay(&folder.0, false).map_err(|errno| {
                unsupported(format!("mount overlay: {}", base_fs::errno_text(errno)))
            })?;
        }
        // After the trial, which loads the module.
        let index = Path::new(INDEX).exists();
        Ok(Probe { index, user_xattr, remap_ids: try_idmap(&folder.0) })
    }
}

/// Whether overlays with id maps can be mounted below `root`. Blocks.
pub(crate) fn overlay_remaps_ids(root: &Path) -> bool {
    let Ok(folder) = Scratch::new(root) else { return false };
    ["lower1", "lower2"].iter().all(|name| fs::create_dir(folder.0.join(name)).is_ok())
        && try_idmap(&folder.0)
}

/// A folder for trials, removed at the end.
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new(root: &Path) -> Result<Self> {
        // One process has the root at a time, so a leftover is nobody's.
        let path = root.join(".probe");
        base_fs::remove_all(&path)?;
        fs::create_dir(&path).map_err(|error| io_error("mkdir", &path, &error))?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = base_fs::remove_all(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "failed to remove directory");
        }
    }
}

/// Whether folders tell the kinds of their entries, which overlayfs needs for its whiteouts.
fn has_entry_types(folder: &Path) -> Result<bool> {
    let error = |errno| base_fs::Error::new("read", folder, errno);
    let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let open = rustix::fs::open(folder, flags, rustix::fs::Mode::empty()).map_err(error)?;
    for entry in rustix::fs::Dir::new(open).map_err(error)? {
        if entry.map_err(error)?.file_type() == FileType::Unknown {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Makes an overlay that is mounted nowhere.
fn try_overlay(folder: &Path, user_xattr: bool) -> rustix::io::Result<()> {
    let lower = format!("{0}/lower2:{0}/lower1", folder.display());
    let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(&context, "lowerdir", lower)?;
    if user_xattr {
        rustix::mount::fsconfig_set_flag(&context, "userxattr")?;
    }
    rustix::mount::fsconfig_create(&context)
}

/// Whether an overlay with id maps can be mounted.
fn try_idmap(folder: &Path) -> bool {
    let lower = format!("lowerdir={0}/lower2:{0}/lower1", folder.display());
    let options = vec!["uidmap=0:666:666".to_owned(), "gidmap=0:666:666".to_owned(), lower];
    let overlay = || "overlay".to_owned();
    let mount = Mount { kind: overlay(), source: overlay(), target: String::new(), options };
    match TempMount::new(&[mount], Some(folder)) {
        Ok(mounted) => match mounted.close() {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, "failed to unmount the trial of mapped ids");
                false
            }
        },
        Err(error) => {
            tracing::debug!(%error, "no mapped ids for overlayfs");
            false
        }
    }
}

fn in_user_namespace() -> bool {
    match fs::read_to_string("/proc/self/uid_map") {
        Ok(map) => map.split_whitespace().ne(WHOLE_MAP),
        Err(_) => false,
    }
}
