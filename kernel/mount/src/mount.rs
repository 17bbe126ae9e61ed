//! One mount and lists of mounts, applied to a folder.

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use libc::c_ulong;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use crate::error::{Error, Failure};
use crate::options::{Options, PER_MOUNT};
use crate::{Result, fuse, idmap, loop_device, overlay};

/// A mount as a snapshotter describes it; the same four fields as on the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    /// The kind of file system: `bind`, `overlay`, `ext4`, `fuse3.name`.
    pub kind: String,
    /// The device, folder or image file.
    pub source: String,
    /// Where below the root file system it goes; empty for the root itself.
    pub target: String,
    /// Options as in `mount(8)`, and `loop`, `uidmap=`, `gidmap=`.
    pub options: Vec<String>,
}

impl Mount {
    /// Mounts this one at `target`, below which [`Mount::target`] is resolved without ever
    /// leaving it.
    ///
    /// # Errors
    /// [`Error`] names the mount. Nothing stays mounted by a failed call.
    pub fn mount(&self, target: &Path) -> Result<()> {
        let place = Place::new(target, &self.target).map_err(|cause| cause.of(self, target))?;
        self.mount_at(&place).map_err(|cause| cause.of(self, target))
    }

    fn mount_at(&self, place: &Place) -> Result<(), Failure> {
        let options = Options::parse(self.options.iter().map(String::as_str));
        if let Some((helper, subtype)) = fuse::helper(&self.kind) {
            return place
                .with_path(|path| fuse::mount(helper, subtype, &self.source, path, &self.options));
        }
        match (&options.uidmap, &options.gidmap) {
            (Some(uids), Some(gids)) => {
                let namespace = idmap::user_namespace(uids, gids)?;
                if self.kind == "overlay" {
                    let made = idmap::overlay(&self.source, &options, &namespace)?;
                    place.attach(&made)?;
                } else {
                    // One detached copy gets its map and its flags before anybody sees it.
                    self.first_mount_mapped(place, &options, &namespace)?;
                }
            }
            // COMPAT: one map without the other is not a request to map; it is ignored.
            _ => self.first_mount(place, &options)?,
        }
        self.later_steps(place, &options).inspect_err(|_| {
            // Best effort: the error that counts is the first one.
            let _ = place.undo();
        })
    }

    /// The call that makes the mount appear.
    fn first_mount(&self, place: &Place, options: &Options) -> Result<(), Failure> {
        if options.flags & libc::MS_REMOUNT != 0 && options.data.is_empty() {
            // A change of flags alone is the remount step.
            return Ok(());
        }
        if self.kind == "overlay" {
            return overlay::mount(&self.source, place, options);
        }
        let data = data(options)?;
        let flags = options.flags;
        if options.loop_device {
            let device = loop_device::attach(Path::new(&self.source), options)?;
            // The device stays attached as long as it is mounted; our handle closes here.
            return place.with_path(|path| {
                call_mount(&device.path.to_string_lossy(), path, &self.kind, flags, &data)
            });
        }
        place.with_path(|path| call_mount(&self.source, path, &self.kind, flags, &data))
    }

    /// As [`Mount::first_mount`], with the ids of `namespace`.
    fn first_mount_mapped(
        &self,
        place: &Place,
        options: &Options,
        namespace: &OwnedFd,
    ) -> Result<(), Failure> {
        if options.is_bind() {
            let recursive = options.flags & libc::MS_REC != 0;
            let tree = idmap::mapped_tree(Path::new(&self.source), recursive, namespace)?;
            return place.attach(&tree);
        }
        // Any other file system is mounted first; then a mapped copy of it covers it.
        self.first_mount(place, options)?;
        let tree = place.with_path(|path| idmap::mapped_tree(path, false, namespace));
        tree.and_then(|tree| {
            place.undo().map_err(Failure::at("unmount"))?;
            place.attach(&tree)
        })
        .inspect_err(|_| {
            let _ = place.undo();
        })
    }

    /// Flags that a bind takes only in a second call, and propagation.
    fn later_steps(&self, place: &Place, options: &Options) -> Result<(), Failure> {
        let remount_only = options.flags & libc::MS_REMOUNT != 0 && options.data.is_empty();
        if remount_only || (options.is_bind() && options.flags & PER_MOUNT != 0) {
            place
                .with_path(|path| {
                    // A remount replaces all flags. What the source of a bind has is kept unless an
                    // option took it away by name: in a user namespace the kernel insists on it.
                    let kept = if options.is_bind() { current_flags(path)? } else { 0 };
                    let flags = options.flags
                        | (kept & !options.cleared)
                        | libc::MS_REMOUNT
                        | (options.flags & libc::MS_BIND);
                    let flags = flags & !libc::MS_REC;
                    call_mount("", path, "", flags, "")
                })
                .map_err(|failure| match failure {
                    Failure::System { errno, .. } => Failure::System { step: "remount", errno },
                    other => other,
                })?;
        }
        if options.propagation != 0 {
            let bits = u32::try_from(options.propagation).unwrap_or(0);
            place.with_path(|path| {
                rustix::mount::mount_change(path, MountPropagationFlags::from_bits_retain(bits))
                    .map_err(Failure::at("change propagation"))
            })?;
        }
        Ok(())
    }
}

/// Mounts a list at `target`, in order.
///
/// Each [`Mount::target`] is resolved below `target` and cannot lead out of it.
///
/// # Errors
/// The first failure, which names its mount. What was mounted before it is taken back.
pub fn mount_all(mounts: &[Mount], target: &Path) -> Result<()> {
    for (done, mount) in mounts.iter().enumerate() {
        if let Err(error) = mount.mount(target) {
            for earlier in mounts[..done].iter().rev() {
                let undone = Place::new(target, &earlier.target)
                    .and_then(|place| place.undo().map_err(Failure::at("unmount")));
                if let Err(cause) = undone {
                    tracing::warn!(error = %cause.of(earlier, target), "cannot take back a mount");
                }
            }
            return Err(error);
        }
    }
    Ok(())
}

/// The same list for reading only.
///
/// Overlays lose their upper and work folder, and the upper folder becomes the topmost lower one;
/// every other mount gets `ro` in the place of `rw`. An image that is made by its mount is written
/// to all the same, that once.
#[must_use]
pub fn read_only(mounts: &[Mount]) -> Vec<Mount> {
    let mut mounts = mounts.to_vec();
    for mount in &mut mounts {
        let (steps, kind) = crate::steps(&mount.kind);
        if kind == "overlay" {
            overlay::make_read_only(&mut mount.options);
        } else {
            let made_now =
                steps.contains(&crate::Step::Mkfs) && !std::path::Path::new(&mount.source).exists();
            mount.options.retain(|option| option != "rw" && option != "ro");
            if made_now {
                // Its folders have to be made as well, and nobody else can have it.
                mount.options.push("rw".to_owned());
                continue;
            }
            mount.options.push("ro".to_owned());
            // Somebody else may have the image mounted: its journal is not ours to replay.
            if kind == "ext4" && steps.contains(&crate::Step::Mkfs) {
                mount.options.push("noload".to_owned());
            }
        }
    }
    mounts
}

/// The same list without the overlay option `volatile`.
///
/// An overlay mounted with it for a short while cannot be mounted a second time, so it must not
/// be used for temporary mounts of a container's own folders.
#[must_use]
pub fn without_volatile(mounts: &[Mount]) -> Vec<Mount> {
    let mut mounts = mounts.to_vec();
    for mount in mounts.iter_mut().filter(|mount| mount.kind == "overlay") {
        mount.options.retain(|option| option != "volatile");
    }
    mounts
}

/// The data of `options` as `mount(2)` takes it.
fn data(options: &Options) -> Result<String, Failure> {
    let data = options.joined();
    // The kernel copies one page and would cut the rest without a word.
    if data.len() >= rustix::param::page_size() {
        return Err(Failure::Invalid("mount options is too long".to_owned()));
    }
    Ok(data)
}

/// `mount(2)`.
pub(crate) fn call_mount(
    source: &str,
    target: &Path,
    kind: &str,
    flags: c_ulong,
    data: &str,
) -> Result<(), Failure> {
    let nul = |_| Failure::Invalid("a NUL byte in the mount".to_owned());
    let data = CString::new(data).map_err(nul)?;
    // All MS_* flags fit in 32 bits.
    let flags = MountFlags::from_bits_retain(u32::try_from(flags).unwrap_or(0));
    rustix::mount::mount(source, target, kind, flags, data.as_c_str()).map_err(Failure::at("mount"))
}

/// The flags that a mount has now, of those that must not be lost.
fn current_flags(path: &Path) -> Result<c_ulong, Failure> {
    const KEPT: c_ulong = libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    let stat = rustix::fs::statvfs(path).map_err(Failure::at("statfs"))?;
    Ok(c_ulong::from(u32::try_from(stat.f_flag.bits()).unwrap_or(0)) & KEPT)
}

/// Where a mount goes: a folder, or a path below a folder that must not be left.
#[derive(Debug)]
pub(crate) enum Place {
    /// The folder itself, absolute.
    Root(PathBuf),
    /// A path below it, resolved anew at each step so that the topmost mount is met.
    Below { root: PathBuf, path: PathBuf },
}

impl Place {
    fn new(target: &Path, below: &str) -> Result<Self, Failure> {
        // Threads of ours may have another working directory.
        let root = std::path::absolute(target)
            .map_err(|_| Failure::Invalid("the target is no path".to_owned()))?;
        if below.is_empty() || below == "/" {
            return Ok(Place::Root(root));
        }
        Ok(Place::Below { root, path: PathBuf::from(below) })
    }

    /// The place as a descriptor, if it is below a root.
    fn open(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        match self {
            Place::Root(root) => rustix::fs::open(root, flags, Mode::empty()),
            Place::Below { root, path } => {
                let root = rustix::fs::open(root, flags | OFlags::DIRECTORY, Mode::empty())?;
                let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
                rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)
            }
        }
    }

    /// Calls `act` with a path that leads to the place now.
    pub(crate) fn with_path<T>(
        &self,
        act: impl FnOnce(&Path) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        match self {
            Place::Root(root) => act(root),
            Place::Below { .. } => {
                let place = self.open().map_err(Failure::at("open target"))?;
                act(&descriptor_path(&place))
            }
        }
    }

    /// Puts a detached tree there.
    pub(crate) fn attach(&self, tree: &OwnedFd) -> Result<(), Failure> {
        use rustix::mount::{MoveMountFlags, move_mount};
        let place = self.open().map_err(Failure::at("open target"))?;
        let flags =
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(tree, c"", place, c"", flags).map_err(Failure::at("move_mount"))
    }

    /// Takes the topmost mount away, however busy it is.
    fn undo(&self) -> Result<(), Errno> {
        let path = match self {
            Place::Root(root) => root.clone(),
            Place::Below { .. } => {
                let place = self.open()?;
                std::fs::read_link(descriptor_path(&place))
                    .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?
            }
        };
        rustix::mount::unmount(path, UnmountFlags::DETACH)
    }
}

/// The path under which the kernel shows a descriptor of this process.
pub(crate) fn descriptor_path(descriptor: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", descriptor.as_raw_fd()))
}

impl Error {
    /// For failures that are not about one step of one mount.
    pub(crate) fn temp(operation: &'static str, path: &Path, errno: Errno) -> Self {
        Error::Temp { operation, path: path.to_owned(), errno }
    }
}
