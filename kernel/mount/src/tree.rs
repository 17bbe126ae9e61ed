//! Detached copies of mounted trees, with attributes of their own.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::error::Failure;

const MOUNT_ATTR_RDONLY: u64 = 0x0000_0001;
const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;

/// `struct mount_attr` of `mount_setattr(2)`.
#[repr(C)]
#[derive(Default)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// What a copy has that its source has not.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change<'a> {
    /// Nothing can be written through it.
    ReadOnly,
    /// It shows the ids of this user namespace.
    MappedBy(BorrowedFd<'a>),
}

/// What is at `path`, on a mount of its own that is read-only and in no mount namespace. It lives as
/// long as the descriptor. A path that leads through a link of `/proc` is followed.
///
/// # Errors
/// The system's: kernels before 5.12, a file that has been removed, no privilege.
pub fn read_only_copy(path: &Path) -> base_fs::Result<OwnedFd> {
    copy(path, false, Change::ReadOnly).map_err(|failure| {
        let (step, errno) = match failure {
            Failure::System { step, errno } => (step, errno),
            _ => ("copy a mount", Errno::INVAL),
        };
        base_fs::Error::new(step, path, errno)
    })
}

/// A detached copy of the tree at `source`, with the mounts below it if it is `recursive`.
pub(crate) fn copy(source: &Path, recursive: bool, change: Change<'_>) -> Result<OwnedFd, Failure> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mut at_flags = libc::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
        at_flags |= libc::AT_RECURSIVE;
    }
    let tree = open_tree(CWD, source, flags).map_err(Failure::at("open_tree"))?;
    let attr = match change {
        Change::ReadOnly => MountAttr { set: MOUNT_ATTR_RDONLY, ..MountAttr::default() },
        Change::MappedBy(namespace) => MountAttr {
            set: MOUNT_ATTR_IDMAP,
            user_namespace: u64::try_from(namespace.as_raw_fd()).unwrap_or(u64::MAX),
            ..MountAttr::default()
        },
    };
    // SAFETY: the path is a valid C string, `attr` is a `struct mount_attr` of the given size and
    // outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            at_flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    if result != 0 {
        let errno = Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL);
        return Err(Failure::System { step: "mount_setattr", errno });
    }
    Ok(tree)
}
