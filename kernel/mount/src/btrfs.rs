//! Subvolumes of btrfs: make, copy, remove, and their numbers.
#![allow(unsafe_code)]

use std::ffi::OsStr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// The inode of every subvolume's top folder.
const FIRST_FREE_OBJECT: u64 = 256;
/// Levels of subvolumes inside of subvolumes that are removed with them. Containers make them.
const MAX_NESTED: usize = 32;

const SUBVOL_CREATE_V2: libc::Ioctl = 0x5000_9418;
const SNAP_CREATE_V2: libc::Ioctl = 0x5000_9417;
const SNAP_DESTROY: libc::Ioctl = 0x5000_940f;
const INO_LOOKUP: libc::Ioctl = 0xd000_9412;

const SUBVOL_READ_ONLY: u64 = 2;

/// `struct btrfs_ioctl_vol_args_v2`.
#[repr(C)]
struct VolumeV2 {
    fd: i64,
    transaction: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; 4040],
}

/// `struct btrfs_ioctl_vol_args`.
#[repr(C)]
struct Volume {
    fd: i64,
    name: [u8; 4088],
}

/// `struct btrfs_ioctl_ino_lookup_args`.
#[repr(C)]
struct Lookup {
    tree: u64,
    object: u64,
    name: [u8; 4080],
}

/// True if `path` is on btrfs.
///
/// # Errors
/// Those of `statfs`.
pub fn is_btrfs(path: &Path) -> base_fs::Result<bool> {
    const MAGIC: u64 = 0x9123_683e;
    let stat = rustix::fs::statfs(path).map_err(|errno| fail("statfs", path, errno))?;
    Ok(u64::try_from(stat.f_type) == Ok(MAGIC))
}

/// Makes the empty subvolume `path`.
///
/// # Errors
/// Those of the system, named by `path`.
pub fn create_subvolume(path: &Path) -> base_fs::Result<()> {
    let (parent, name) = split(path)?;
    let mut args = VolumeV2 { fd: 0, transaction: 0, flags: 0, unused: [0; 4], name: [0; 4040] };
    put_name(&mut args.name, name, path)?;
    call(&parent, SUBVOL_CREATE_V2, &mut args)
        .map_err(|errno| fail("create subvolume", path, errno))
}

/// Makes `path` a copy of the subvolume `source` that shares its data. Everything written to
/// `source` before is in it.
///
/// # Errors
/// Those of the system, named by `path`.
pub fn snapshot_subvolume(source: &Path, path: &Path, read_only: bool) -> base_fs::Result<()> {
    let from = open(source)?;
    let (parent, name) = split(path)?;
    let mut args = VolumeV2 {
        fd: i64::from(from.as_raw_fd()),
        transaction: 0,
        flags: if read_only { SUBVOL_READ_ONLY } else { 0 },
        unused: [0; 4],
        name: [0; 4040],
    };
    put_name(&mut args.name, name, path)?;
    call(&parent, SNAP_CREATE_V2, &mut args)
        .map_err(|errno| fail("snapshot subvolume", path, errno))
}

/// Removes the subvolume `path` with all that is in it, subvolumes too. One that is not there is
/// removed already.
///
/// # Errors
/// Those of the system, named by the subvolume that stays.
pub fn delete_subvolume(path: &Path) -> base_fs::Result<()> {
    delete(path, 0)
}

fn delete(path: &Path, depth: usize) -> base_fs::Result<()> {
    match destroy(path) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTEMPTY) if depth < MAX_NESTED => {}
        Err(errno) => return Err(fail("delete subvolume", path, errno)),
    }
    for nested in nested(path)? {
        delete(&nested, depth + 1)?;
    }
    destroy(path).map_err(|errno| fail("delete subvolume", path, errno))
}

fn destroy(path: &Path) -> Result<(), Errno> {
    let parent = path.parent().ok_or(Errno::INVAL)?;
    let name = path.file_name().ok_or(Errno::INVAL)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = rustix::fs::open(parent, flags, Mode::empty())?;
    let mut args = Volume { fd: 0, name: [0; 4088] };
    let bytes = name.as_bytes();
    args.name.get_mut(..bytes.len()).ok_or(Errno::NAMETOOLONG)?.copy_from_slice(bytes);
    call(&parent, SNAP_DESTROY, &mut args)
}

/// The subvolumes in `path` that are not inside of another one. No link is followed.
fn nested(path: &Path) -> base_fs::Result<Vec<PathBuf>> {
    let error = |path: &Path, error: &std::io::Error| base_fs::Error::io("read", path, error);
    let mut found = Vec::new();
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).map_err(|e| error(&folder, &e))? {
            let entry = entry.map_err(|e| error(&folder, &e))?;
            let metadata = entry.metadata().map_err(|e| error(&entry.path(), &e))?;
            if !metadata.is_dir() {
                continue;
            }
            if metadata.ino() == FIRST_FREE_OBJECT {
                found.push(entry.path());
            } else {
                folders.push(entry.path());
            }
        }
    }
    Ok(found)
}

/// The number of the subvolume `path`, as the mount option `subvolid` takes it.
///
/// # Errors
/// Those of the system; EINVAL if `path` is no subvolume.
pub fn subvolume_id(path: &Path) -> base_fs::Result<u64> {
    let folder = open(path)?;
    let stat = rustix::fs::fstat(&folder).map_err(|errno| fail("stat", path, errno))?;
    if stat.st_ino != FIRST_FREE_OBJECT {
        return Err(fail("look up subvolume", path, Errno::INVAL));
    }
    let mut args = Lookup { tree: 0, object: FIRST_FREE_OBJECT, name: [0; 4080] };
    call(&folder, INO_LOOKUP, &mut args).map_err(|errno| fail("look up subvolume", path, errno))?;
    Ok(args.tree)
}

fn open(path: &Path) -> base_fs::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| fail("open", path, errno))
}

fn split(path: &Path) -> base_fs::Result<(OwnedFd, &OsStr)> {
    let invalid = || fail("split", path, Errno::INVAL);
    let name = path.file_name().ok_or_else(invalid)?;
    Ok((open(path.parent().ok_or_else(invalid)?)?, name))
}

/// Copies `name` and leaves at least one NUL behind it.
fn put_name(into: &mut [u8; 4040], name: &OsStr, path: &Path) -> base_fs::Result<()> {
    let name = name.as_bytes();
    if name.len() > 255 {
        return Err(fail("name", path, Errno::NAMETOOLONG));
    }
    into[..name.len()].copy_from_slice(name);
    Ok(())
}

fn call<T>(fd: &OwnedFd, request: libc::Ioctl, args: &mut T) -> Result<(), Errno> {
    // SAFETY: every request of this file takes a pointer to its own structure of 4096 bytes, which
    // `args` is, and which outlives the call.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), request, std::ptr::from_mut(args)) };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

fn fail(operation: &'static str, path: &Path, errno: Errno) -> base_fs::Error {
    base_fs::Error::new(operation, path, errno)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_kernels_size() {
        assert_eq!(size_of::<VolumeV2>(), 4096);
        assert_eq!(size_of::<Volume>(), 4096);
        assert_eq!(size_of::<Lookup>(), 4096);
    }

    #[test]
    fn a_folder_elsewhere_is_not_btrfs() {
        assert!(!is_btrfs(Path::new("/proc")).expect("statfs"));
        assert!(subvolume_id(Path::new("/proc")).is_err());
    }
}
