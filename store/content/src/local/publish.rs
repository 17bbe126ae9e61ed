//! The step that turns bytes into content: durable first, visible after.

use std::fs::{self, File};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::sync::{Condvar, Mutex};
use std::time::SystemTime;

use base_errors::Error;
use base_fs::failpoint;
use base_ident::{Algorithm, Digest};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::layout::{IngestPaths, Layout};
use super::lock::lock;
use crate::Hasher;
use crate::error::{ContentError, io_error};

/// The mode of a blob before the umask; containerd takes all write and execute bits away.
const BLOB_MODE: u32 = 0o444;

/// The buffer for hashing files, in bytes.
const HASH_BUFFER: usize = 1 << 20;

/// Puts bytes that are in memory under their digest, without an ingest.
///
/// The file has no name until it is durable, so a crash leaves nothing. `Ok(false)`: this file
/// system cannot do it.
pub(super) fn publish_bytes(
    layout: &Layout,
    syncs: &FolderSyncs,
    digest: &Digest,
    data: &[u8],
) -> Result<bool, Error> {
    let blob = layout.blob(digest);
    if exists(&blob)? {
        return Err(ContentError::Exists(digest.clone()).into());
    }
    let folder = layout.blobs_of(digest.algorithm());
    make_folder(&folder)?;
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    let mut file = match rustix::fs::open(&folder, flags, Mode::from_raw_mode(BLOB_MODE)) {
        Ok(file) => File::from(file),
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => return Ok(false),
        Err(errno) => return Err(base_fs::Error::new("create", &blob, errno).into()),
    };
    // DURABILITY: the bytes, before they have a name.
    failpoint::hit_io("content.bytes.write")
        .and_then(|()| file.write_all(data))
        .and_then(|()| failpoint::hit_io("content.bytes.sync"))
        .and_then(|()| file.sync_all())
        .map_err(|error| io_error("write", &blob, &error))?;
    failpoint::hit("content.bytes.link").map_err(failed(&blob))?;
    let nameless = format!("/proc/self/fd/{}", file.as_raw_fd());
    match rustix::fs::linkat(CWD, nameless, CWD, &blob, AtFlags::SYMLINK_FOLLOW) {
        Ok(()) => {}
        Err(Errno::EXIST) => return Err(ContentError::Exists(digest.clone()).into()),
        // No /proc, or a file system that cannot name such a file.
        Err(Errno::NOENT | Errno::OPNOTSUPP | Errno::PERM) => return Ok(false),
        Err(errno) => return Err(base_fs::Error::new("link", &blob, errno).into()),
    }
    // DURABILITY: the name; only now may a record name the blob.
    failpoint::hit("content.bytes.sync-name").map_err(failed(&blob))?;
    syncs.sync(digest.algorithm(), &folder)?;
    Ok(true)
}

/// Puts the data file of an ingest under its digest and removes the ingest.
pub(super) fn publish_file(
    layout: &Layout,
    syncs: &FolderSyncs,
    digest: &Digest,
    file: &File,
    paths: &IngestPaths,
) -> Result<(), Error> {
    let blob = layout.blob(digest);
    if exists(&blob)? {
        return Err(already_exists(digest, paths));
    }
    let folder = layout.blobs_of(digest.algorithm());
    make_folder(&folder)?;
    let data = paths.data();
    let mode = file.metadata().map_err(|error| io_error("stat", &data, &error))?;
    let mode = std::os::unix::fs::MetadataExt::mode(&mode) & BLOB_MODE;
    rustix::fs::fchmod(file, Mode::from_raw_mode(mode))
        .map_err(|errno| base_fs::Error::new("chmod", &data, errno))?;
    // DURABILITY: bytes, mode and time, before they have their final name.
    file.set_modified(SystemTime::now())
        .and_then(|()| failpoint::hit_io("content.file.sync"))
        .and_then(|()| file.sync_all())
        .map_err(|error| io_error("sync", &data, &error))?;
    failpoint::hit("content.file.rename").map_err(failed(&blob))?;
    let renamed = match rustix::fs::renameat_with(CWD, &data, CWD, &blob, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS) => rustix::fs::rename(&data, &blob),
        renamed => renamed,
    };
    match renamed {
        Ok(()) => {}
        Err(Errno::EXIST) => return Err(already_exists(digest, paths)),
        Err(errno) => return Err(base_fs::Error::new("rename", &data, errno).into()),
    }
    // DURABILITY: the name; only now may a record name the blob.
    failpoint::hit("content.file.sync-name").map_err(failed(&blob))?;
    syncs.sync(digest.algorithm(), &folder)?;
    failpoint::hit("content.file.tidy").map_err(failed(&blob))?;
    if let Err(error) = paths.remove() {
        tracing::warn!(path = %paths.folder.display(), %error, "failed to remove ingest directory");
    }
    Ok(())
}

/// The error of a failpoint, with the path of the blob.
fn failed(blob: &Path) -> impl Fn(Errno) -> base_fs::Error {
    move |errno| base_fs::Error::new("commit", blob, errno)
}

/// The digest of a file by another algorithm than the one it was hashed with on its way.
pub(super) fn hash_file(
    file: &File,
    path: &Path,
    hasher: &mut Hasher,
) -> Result<u64, base_fs::Error> {
    let mut buffer = vec![0; HASH_BUFFER];
    let mut reader = file;
    std::io::Seek::rewind(&mut reader).map_err(|error| io_error("seek", path, &error))?;
    let mut total = 0;
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(count) => {
                hasher.update(&buffer[..count]);
                total += count as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(io_error("read", path, &error)),
        }
    }
}

fn already_exists(digest: &Digest, paths: &IngestPaths) -> Error {
    if let Err(error) = paths.remove() {
        tracing::warn!(path = %paths.folder.display(), %error, "failed to remove ingest directory");
    }
    ContentError::Exists(digest.clone()).into()
}

pub(super) fn exists(path: &Path) -> Result<bool, base_fs::Error> {
    fs::exists(path).map_err(|error| io_error("stat", path, &error))
}

fn make_folder(folder: &Path) -> Result<(), base_fs::Error> {
    if folder.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(folder).map_err(|error| io_error("mkdir", folder, &error))
}

/// Makes the names in `folder` durable; with `above` also `blobs/<algorithm>` itself, up to the root
/// of the store.
fn sync_folders(folder: &Path, above: bool) -> Result<(), base_fs::Error> {
    for folder in folder.ancestors().take(if above { 3 } else { 1 }) {
        // DURABILITY: the folder that has the name, and the names of that.
        failpoint::hit_io("content.folder.sync")
            .and_then(|()| File::open(folder)?.sync_all())
            .map_err(|error| io_error("sync", folder, &error))?;
    }
    Ok(())
}

/// Makes names in the blob folders durable; those who wait at the same time share one sync.
#[derive(Debug, Default)]
pub(super) struct FolderSyncs {
    folders: [FolderSync; 3],
}

#[derive(Debug, Default)]
struct FolderSync {
    state: Mutex<SyncState>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct SyncState {
    running: bool,
    /// Syncs begun.
    begun: u64,
    /// The newest sync that ended well.
    done: u64,
    /// Whether the folder itself has been made durable: who made it may have died before that.
    rooted: bool,
}

impl FolderSyncs {
    /// Gives back after a sync of `folder` that began after this call did. Blocks.
    pub(super) fn sync(&self, algorithm: Algorithm, folder: &Path) -> Result<(), base_fs::Error> {
        let sync = &self.folders[match algorithm {
            Algorithm::Sha256 => 0,
            Algorithm::Sha384 => 1,
            Algorithm::Sha512 => 2,
        }];
        let mut state = lock(&sync.state);
        let wanted = state.begun + 1;
        loop {
            if state.done >= wanted {
                return Ok(());
            }
            if state.running {
                state = sync.ended.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
                continue;
            }
            state.running = true;
            state.begun += 1;
            let (number, above) = (state.begun, !state.rooted);
            drop(state);
            let result = sync_folders(folder, above);
            state = lock(&sync.state);
            state.running = false;
            sync.ended.notify_all();
            match result {
                Ok(()) => {
                    state.done = state.done.max(number);
                    state.rooted = true;
                }
                Err(error) => return Err(error),
            }
        }
    }
}
