//! Lists of mounts whose later ones stand on earlier ones.
//!
//! All but the last go to folders of their own; the last one, with their places filled in, is what
//! the caller mounts where the tree is wanted.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use base_errors::{Error, Result};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use crate::transform::{ActiveMount, steps, transform};
use crate::{Mount, loop_device, unmount};

/// The kind with a way of its own to be mounted.
const EROFS: &str = "erofs";

/// True if the list cannot be mounted as it is: something has to be done, or filled in, first.
#[must_use]
pub fn needs_activation(mounts: &[Mount]) -> bool {
    mounts.iter().any(|mount| !steps(&mount.kind).0.is_empty())
}

/// Mounts one of a list at `place`, which is made (0700) if it is missing. erofs images are
/// mounted without a loop device where the kernel can. Blocks.
///
/// # Errors
/// Those of the mount; nothing stays.
pub fn activate_one(mount: &Mount, place: &Path) -> Result<ActiveMount> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(place)
        .map_err(|error| base_fs::Error::io("mkdir", place, &error))?;
    let mount = if mount.kind == EROFS {
        mount_erofs(mount, place)?
    } else {
        mount.mount(place)?;
        mount.clone()
    };
    Ok(ActiveMount { mount, mount_point: place.to_owned(), mounted_at: SystemTime::now() })
}

/// Mounts an image: from its file, or through loop devices where the kernel wants block devices.
fn mount_erofs(mount: &Mount, place: &Path) -> Result<Mount> {
    let mut plain = mount.clone();
    plain.options.retain(|option| option != "loop");
    if plain.options.iter().any(|option| option.starts_with("X-containerd.dmverity=")) {
        return Err(Error::not_implemented("dm-verity is not supported on this system"));
    }
    match plain.mount(place) {
        Ok(()) => return Ok(plain),
        Err(error) if error.errno() == Some(Errno::NOTBLK) => {}
        Err(error) => return Err(error.into()),
    }
    // The devices go away with the mount; our handles keep them until then.
    let mut devices = Vec::new();
    let mut attach = |image: &str| -> Result<String> {
        let device = loop_device::attach_read_only(Path::new(image))
            .map_err(|failure| Error::from(failure.of(mount, place)))?;
        let path = device.path.to_string_lossy().into_owned();
        devices.push(device);
        Ok(path)
    };
    plain.source = attach(&plain.source)?;
    for option in &mut plain.options {
        if let Some(image) = option.strip_prefix("device=") {
            *option = format!("device={}", attach(image)?);
        }
    }
    plain.mount(place)?;
    Ok(plain)
}

/// Mounts taken away again when this is dropped, the last one first.
#[derive(Debug, Default)]
pub(crate) struct Activated {
    pub(crate) mounts: Vec<ActiveMount>,
    folder: Option<PathBuf>,
}

impl Activated {
    /// Does the steps of all `mounts`; those before the last one that needs any are mounted on
    /// folders in `folder`. Gives them, and what remains to be mounted.
    pub(crate) fn new(mounts: &[Mount], folder: &Path) -> Result<(Self, Vec<Mount>)> {
        let Some(last) = mounts.iter().rposition(|mount| !steps(&mount.kind).0.is_empty()) else {
            return Ok((Activated::default(), mounts.to_vec()));
        };
        let mut activated = Activated { mounts: Vec::new(), folder: Some(folder.to_owned()) };
        for (index, mount) in mounts[..last].iter().enumerate() {
            let made = transform(mount, &activated.mounts, &[])?;
            let active = activate_one(&made, &folder.join(index.to_string()))?;
            activated.mounts.push(active);
        }
        let mut rest = vec![transform(&mounts[last], &activated.mounts, &[])?];
        rest.extend_from_slice(&mounts[last + 1..]);
        Ok((activated, rest))
    }

    /// Takes the mounts away, and tells what stays.
    pub(crate) fn close(mut self) -> crate::Result<()> {
        self.undo(UnmountFlags::empty())
    }

    fn undo(&mut self, flags: UnmountFlags) -> crate::Result<()> {
        while let Some(active) = self.mounts.last() {
            unmount(&active.mount_point, flags)?;
            let _ = rustix::fs::rmdir(&active.mount_point);
            self.mounts.pop();
        }
        if let Some(folder) = self.folder.take() {
            // A folder of a mount that failed is empty; what else is there is not ours.
            for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
                let _ = rustix::fs::rmdir(entry.path());
            }
            let _ = rustix::fs::rmdir(&folder);
        }
        Ok(())
    }
}

impl Drop for Activated {
    fn drop(&mut self) {
        if let Err(error) = self.undo(UnmountFlags::DETACH) {
            tracing::warn!(%error, "cannot take back a mount");
        }
    }
}
