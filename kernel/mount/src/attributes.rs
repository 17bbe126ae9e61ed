//! What a file system keeps of a file beside its mode: the flag that forbids changes, the project.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

const GET_FLAGS: libc::Ioctl = 0x8008_6601;
const SET_FLAGS: libc::Ioctl = 0x4008_6602;
const GET_XATTR: libc::Ioctl = 0x801c_581f;
const SET_XATTR: libc::Ioctl = 0x401c_5820;

const IMMUTABLE: libc::c_int = 0x10;
const PROJECT_INHERIT: u32 = 0x200;

/// `Q_XSETQLIM` for projects.
const SET_LIMIT: libc::c_int = (0x5804 << 8) | 2;
const FIELD_SOFT_BLOCKS: u16 = 1 << 2;
const FIELD_HARD_BLOCKS: u16 = 1 << 3;
const PROJECT_QUOTA: i8 = 2;
/// The unit of limits.
const BLOCK: u64 = 512;

/// `struct fsxattr`.
#[repr(C)]
#[derive(Default)]
struct FsXattr {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    pad: [u8; 8],
}

/// `struct fs_disk_quota`.
#[repr(C)]
#[derive(Default)]
struct DiskQuota {
    version: i8,
    flags: i8,
    fields: u16,
    id: u32,
    hard_blocks: u64,
    soft_blocks: u64,
    hard_inodes: u64,
    soft_inodes: u64,
    blocks: u64,
    inodes: u64,
    timers: [i32; 2],
    warnings: [u16; 2],
    more_timers: [i8; 4],
    realtime: [u64; 3],
    realtime_timer: i32,
    realtime_warnings: u16,
    pad: [u8; 10],
}

/// Forbids all changes to the file `path`, or allows them again.
///
/// # Errors
/// Those of the system: EOPNOTSUPP or ENOTTY where the file system has no such flag.
pub fn set_immutable(path: &Path, on: bool) -> base_fs::Result<()> {
    let fail = |errno| base_fs::Error::new("set immutable", path, errno);
    let file = open(path).map_err(fail)?;
    let mut flags: libc::c_int = 0;
    // SAFETY: the request writes one int, whatever its encoded size says.
    check(unsafe { libc::ioctl(file.as_raw_fd(), GET_FLAGS, &raw mut flags) }).map_err(fail)?;
    let wanted = if on { flags | IMMUTABLE } else { flags & !IMMUTABLE };
    if wanted == flags {
        return Ok(());
    }
    // SAFETY: the request reads one int.
    check(unsafe { libc::ioctl(file.as_raw_fd(), SET_FLAGS, &raw const wanted) }).map_err(fail)
}

/// Puts the folder `path`, and all that will be made in it, into `project`.
///
/// # Errors
/// Those of the system: EOPNOTSUPP or ENOTTY where the file system has no projects.
pub fn set_project(path: &Path, project: u32) -> base_fs::Result<()> {
    let fail = |errno| base_fs::Error::new("set project", path, errno);
    let folder = open(path).map_err(fail)?;
    let mut attributes = FsXattr::default();
    // SAFETY: the request writes a `struct fsxattr`, which `attributes` is.
    check(unsafe { libc::ioctl(folder.as_raw_fd(), GET_XATTR, &raw mut attributes) })
        .map_err(fail)?;
    attributes.project = project;
    attributes.flags |= PROJECT_INHERIT;
    // SAFETY: the request reads a `struct fsxattr`.
    check(unsafe { libc::ioctl(folder.as_raw_fd(), SET_XATTR, &raw const attributes) })
        .map_err(fail)
}

/// Bounds what the files of `project` take on the file system of `path`; 0 takes the bound away.
/// `bytes` counts in units of 512, rounded up.
///
/// # Errors
/// Those of the system: ESRCH where the file system is not mounted with project quotas, ENOSYS
/// before Linux 5.14.
pub fn limit_project(path: &Path, project: u32, bytes: u64) -> base_fs::Result<()> {
    let fail = |errno| base_fs::Error::new("set quota", path, errno);
    let folder = open(path).map_err(fail)?;
    let blocks = bytes.div_ceil(BLOCK);
    let mut quota = DiskQuota {
        version: 1,
        flags: PROJECT_QUOTA,
        fields: FIELD_HARD_BLOCKS | FIELD_SOFT_BLOCKS,
        id: project,
        hard_blocks: blocks,
        soft_blocks: blocks,
        ..DiskQuota::default()
    };
    // SAFETY: `quotactl_fd` with this command reads a `struct fs_disk_quota`, which outlives it.
    let result = unsafe {
        libc::syscall(libc::SYS_quotactl_fd, folder.as_raw_fd(), SET_LIMIT, project, &raw mut quota)
    };
    if result == 0 { Ok(()) } else { Err(fail(last_errno())) }
}

fn open(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

fn check(result: libc::c_int) -> Result<(), Errno> {
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_kernels_size() {
        assert_eq!(size_of::<FsXattr>(), 28);
        assert_eq!(size_of::<DiskQuota>(), 112);
    }

    #[test]
    fn a_file_system_without_projects_is_told() {
        let error = set_project(Path::new("/proc"), 1).expect_err("no projects there");
        assert!(error.errno().is_some());
    }
}
