//! Whole files: replaced at once, read with a bound, made durable.

use std::ffi::OsString;
use std::fs::File;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::{Read as _, Write as _};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::{Error, Result, failpoint};

/// Tries for the name of a new file beside the old one. Random, so one is enough in practice.
const MAX_NAMES: usize = 100;

/// Replaces the file at `path` by one with `content` and `mode`, whatever the umask.
///
/// A reader meets the old or the new file, never a part. With `durable` the new one has reached the
/// disk, name included, when the call returns; without it a power failure may bring back the old
/// one, or leave an empty file. A link at `path` is replaced, not followed. A failed call changes
/// nothing and leaves nothing.
///
/// # Errors
/// Names `path`. A full disk is `ENOSPC`.
pub fn write_atomic(
    path: impl AsRef<Path>,
    content: &[u8],
    mode: u32,
    durable: bool,
) -> Result<()> {
    let path = path.as_ref();
    let name = path
        .file_name()
        .ok_or_else(|| Error::Name { path: path.to_owned(), reason: "names no file" })?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder_fd = rustix::fs::open(folder, flags, Mode::empty())
        .map_err(|errno| Error::new("open", folder, errno))?;
    let random = RandomState::new();
    let mut created = None;
    for attempt in 0..MAX_NAMES {
        let mut hasher = random.build_hasher();
        hasher.write_usize(attempt);
        let mut temporary = OsString::from(".");
        temporary.push(name);
        temporary.push(format!(".{:016x}.tmp", hasher.finish()));
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&folder_fd, &temporary, flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => {
                created = Some((temporary, File::from(file)));
                break;
            }
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(Error::new("create", path, errno)),
        }
    }
    let (temporary, mut file) = created.ok_or_else(|| Error::new("create", path, Errno::EXIST))?;
    let written = (|| {
        file.write_all(content).map_err(|error| Error::io("write", path, &error))?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))
            .map_err(|errno| Error::new("chmod", path, errno))?;
        if durable {
            // DURABILITY: the content before the name that leads to it.
            failpoint::hit("fs.atomic.sync")
                .and_then(|()| rustix::fs::fsync(&file))
                .map_err(|errno| Error::new("fsync", path, errno))?;
        }
        rustix::fs::renameat(&folder_fd, &temporary, &folder_fd, name)
            .map_err(|errno| Error::new("rename", path, errno))
    })();
    if let Err(error) = written {
        // Best effort: the error that counts is the first one.
        let _ = rustix::fs::unlinkat(&folder_fd, &temporary, AtFlags::empty());
        return Err(error);
    }
    if durable {
        // DURABILITY: the new name; from here on the file is the record.
        failpoint::hit("fs.atomic.sync-name")
            .and_then(|()| rustix::fs::fsync(&folder_fd))
            .map_err(|errno| Error::new("fsync", folder, errno))?;
    }
    Ok(())
}

/// Reads a file of at most `limit` bytes by a trusted path.
///
/// # Errors
/// `EFBIG` if there is more.
pub fn read_file(path: impl AsRef<Path>, limit: u64) -> Result<Vec<u8>> {
    let path = path.as_ref();
    let mut content = Vec::new();
    File::open(path)
        .and_then(|file| file.take(limit.saturating_add(1)).read_to_end(&mut content))
        .map_err(|error| Error::io("read", path, &error))?;
    if u64::try_from(content.len()).unwrap_or(u64::MAX) > limit {
        return Err(Error::new("read", path, Errno::FBIG));
    }
    Ok(content)
}

/// Makes the entries of a folder durable: names made, renamed and removed in it.
///
/// # Errors
/// As `fsync`.
pub fn fsync_dir(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .and_then(rustix::fs::fsync)
        .map_err(|errno| Error::new("fsync", path, errno))
}

/// Makes all that was written to the file system of `path` durable, with one call for a tree of
/// any size. It waits for foreign data on that file system as well.
///
/// # Errors
/// As `syncfs`.
pub fn sync_file_system(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .and_then(rustix::fs::syncfs)
        .map_err(|errno| Error::new("syncfs", path, errno))
}
