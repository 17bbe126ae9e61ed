//! Image files as block devices. A device made here goes away with its last user.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::error::Failure;
use crate::options::Options;

/// Tries for a free device. Others may take the one that was free a moment ago.
const MAX_TRIES: usize = 100;

const LOOP_CONFIGURE: libc::Ioctl = 0x4C0A;
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4C82;

const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;

/// `struct loop_config` with its `struct loop_info64`.
#[repr(C)]
struct LoopConfig {
    descriptor: u32,
    block_size: u32,
    /// Device, inode, rdevice, offset, size limit.
    places: [u64; 5],
    /// Number, encryption type, key size.
    numbers: [u32; 3],
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
    reserved: [u64; 8],
}

/// An attached device. It is detached when the last of its mounts and handles is gone.
#[derive(Debug)]
pub(crate) struct LoopDevice {
    /// `/dev/loopN`.
    pub(crate) path: PathBuf,
    /// Keeps the device until it is mounted.
    _handle: OwnedFd,
}

/// Attaches `image` to a free device, read-only if the mount is.
pub(crate) fn attach(image: &Path, options: &Options) -> Result<LoopDevice, Failure> {
    attach_as(image, options.flags & libc::MS_RDONLY != 0, options.direct_io)
}

/// Attaches `image` to a free device for reading.
pub(crate) fn attach_read_only(image: &Path) -> Result<LoopDevice, Failure> {
    attach_as(image, true, false)
}

fn attach_as(image: &Path, read_only: bool, direct_io: bool) -> Result<LoopDevice, Failure> {
    let access = if read_only { OFlags::RDONLY } else { OFlags::RDWR };
    let backing = rustix::fs::open(image, access | OFlags::CLOEXEC, Mode::empty())
        .map_err(Failure::at("open image"))?;
    let control =
        rustix::fs::open("/dev/loop-control", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .map_err(Failure::at("open /dev/loop-control"))?;
    let mut flags = LO_FLAGS_AUTOCLEAR;
    if read_only {
        flags |= LO_FLAGS_READ_ONLY;
    }
    if direct_io {
        flags |= LO_FLAGS_DIRECT_IO;
    }
    for _ in 0..MAX_TRIES {
        // SAFETY: this ioctl takes no argument and gives a device number.
        let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
        if number < 0 {
            return Err(Failure::System { step: "find a loop device", errno: last_errno() });
        }
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let handle = rustix::fs::open(&path, access | OFlags::CLOEXEC, Mode::empty())
            .map_err(Failure::at("open loop device"))?;
        let config = LoopConfig {
            descriptor: u32::try_from(backing.as_raw_fd()).unwrap_or(u32::MAX),
            block_size: 0,
            places: [0; 5],
            numbers: [0; 3],
            flags,
            file_name: shown_name(image),
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
            reserved: [0; 8],
        };
        // SAFETY: `config` has the layout of `struct loop_config` and outlives the call.
        let result = unsafe { libc::ioctl(handle.as_raw_fd(), LOOP_CONFIGURE, &raw const config) };
        if result == 0 {
            return Ok(LoopDevice { path, _handle: handle });
        }
        match last_errno() {
            Errno::BUSY => {}
            errno => return Err(Failure::System { step: "configure loop device", errno }),
        }
    }
    Err(Failure::System { step: "find a loop device", errno: Errno::BUSY })
}

/// The image's path as `losetup` shows it, cut to the field.
fn shown_name(image: &Path) -> [u8; 64] {
    let mut name = [0; 64];
    let path = image.as_os_str().as_encoded_bytes();
    let length = path.len().min(name.len() - 1);
    name[..length].copy_from_slice(&path[..length]);
    name
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
