//! The database file: lock, creation, growth, the choice between its two metas.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, FlockOperation};
use rustix::io::Errno;

use crate::layout::{
    FIRST_PAGE, FLAG_FREELIST, FLAG_LEAF, META, Meta, PAGE_HEADER, PAGE_SIZES, index, page_header,
};
use crate::{Error, Options};

/// How often the lock is tried, as bbolt does.
const LOCK_POLL: Duration = Duration::from_millis(50);
/// After this long a wait for the lock is told in the log, as containerd does.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
/// Up to this size the file doubles as it grows; above it grows by steps of this size. Fewer
/// changes of the file's size make cheaper syncs; small databases stay small.
const GROW_STEP: u64 = 1 << 20;
/// Pages of a new database: two metas, the free list, an empty leaf.
const NEW_PAGES: u64 = 4;

/// Opens and locks the file at `path`; creates it unless it is opened for reading only.
pub(crate) fn open(path: &Path, options: &Options) -> Result<File, Error> {
    let mut how = OpenOptions::new();
    how.read(true).mode(options.mode);
    if !options.read_only {
        how.write(true).create(true).truncate(false);
    }
    let file = how.open(path).map_err(|error| Error::io("open", path, error))?;
    lock(&file, path, options)?;
    Ok(file)
}

/// Takes bbolt's lock: `flock` on the file itself, shared for readers.
fn lock(file: &File, path: &Path, options: &Options) -> Result<(), Error> {
    let operation = if options.read_only {
        FlockOperation::NonBlockingLockShared
    } else {
        FlockOperation::NonBlockingLockExclusive
    };
    let start = Instant::now();
    let mut told = false;
    loop {
        match rustix::fs::flock(file, operation) {
            Ok(()) => return Ok(()),
            Err(Errno::WOULDBLOCK | Errno::INTR) => {}
            Err(error) => return Err(Error::io("lock", path, error)),
        }
        let waited = start.elapsed();
        if options.lock_timeout.is_some_and(|timeout| waited >= timeout) {
            return Err(Error::Locked { path: path.to_path_buf() });
        }
        if waited >= LOCK_PATIENCE && !told {
            told = true;
            tracing::warn!(
                path = %path.display(),
                "waiting for another process to release the database"
            );
        }
        std::thread::sleep(LOCK_POLL);
    }
}

/// The length of the file in bytes.
pub(crate) fn length(file: &File, path: &Path) -> Result<u64, Error> {
    Ok(file.metadata().map_err(|error| Error::io("stat", path, error))?.len())
}

/// Writes an empty database into the empty `file`.
pub(crate) fn create(file: &File, path: &Path, options: &Options) -> Result<(), Error> {
    let page_size = match options.page_size {
        Some(size) => size,
        None => u32::try_from(rustix::param::page_size()).unwrap_or(4096),
    };
    if !page_size.is_power_of_two() || !PAGE_SIZES.contains(&page_size) {
        let reason = format!("a page size of {page_size} bytes is not possible");
        return Err(Error::Invalid { path: path.to_path_buf(), reason });
    }
    let size = index(u64::from(page_size));
    let mut pages = vec![0; size * index(NEW_PAGES)];
    for id in 0..FIRST_PAGE {
        let meta = Meta {
            page_size,
            flags: 0,
            root: 3,
            sequence: 0,
            freelist: 2,
            high_water: NEW_PAGES,
            txid: id,
        };
        let at = index(id) * size;
        meta.encode(&mut pages[at..at + size], id);
    }
    let at = 2 * size;
    pages[at..at + PAGE_HEADER].copy_from_slice(&page_header(2, FLAG_FREELIST, 0, 0));
    let at = 3 * size;
    pages[at..at + PAGE_HEADER].copy_from_slice(&page_header(3, FLAG_LEAF, 0, 0));
    // DURABILITY: a database exists once its pages and its name are on the disk. A crash before
    // leaves an empty or a short file; an empty one is initialised again.
    let written = file.write_all_at(&pages, 0).and_then(|()| {
        if options.no_sync {
            return Ok(());
        }
        base_fs::failpoint::hit_io("bolt.create.sync")?;
        file.sync_all()?;
        base_fs::failpoint::hit_io("bolt.create.sync-name")?;
        match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
            _ => Ok(()),
        }
    });
    written.map_err(|error| {
        // A half-made database would not open again.
        let _ = file.set_len(0);
        Error::io("create", path, error)
    })
}

/// Reads both metas of a file of `len` bytes and chooses the newer valid one.
///
/// A meta counts as valid only if the file is as long as it says.
pub(crate) fn choose_meta(file: &File, path: &Path, len: u64) -> Result<Meta, Error> {
    let mut metas = Vec::new();
    let first = read_meta(file, path, 0, len)?;
    let mut sizes: Vec<u32> = Vec::new();
    if let Ok(meta) = &first {
        sizes.push(meta.page_size);
    } else {
        let mut size = *PAGE_SIZES.start();
        while size <= *PAGE_SIZES.end() {
            sizes.push(size);
            size *= 2;
        }
    }
    let mut second = Err("meta is cut off".to_owned());
    for size in sizes {
        // The second meta is where a file of its own page size has it.
        second = match read_meta(file, path, u64::from(size), len)? {
            Ok(meta) if meta.page_size != size => Err("meta names another page size".to_owned()),
            other => other,
        };
        if second.is_ok() {
            break;
        }
    }
    for (page, meta) in [(0, &first), (1, &second)] {
        match meta {
            Ok(meta) => metas.push(*meta),
            Err(reason) => {
                tracing::warn!(
                    path = %path.display(), page, reason,
                    "a meta of the database is damaged: falling back to the other one"
                );
            }
        }
    }
    // Of two equal ones the first is taken, as bbolt does.
    metas.sort_by_key(|meta| std::cmp::Reverse(meta.txid));
    match (metas.first(), first, second) {
        (Some(meta), _, _) => Ok(*meta),
        (None, Err(first), Err(second)) if first != second => Err(Error::Invalid {
            path: path.to_path_buf(),
            reason: format!("no valid meta: page 0: {first}; page 1: {second}"),
        }),
        (None, Err(reason), _) | (None, Ok(_), Err(reason)) => Err(Error::Invalid {
            path: path.to_path_buf(),
            reason: format!("no valid meta: {reason}"),
        }),
        (None, Ok(_), Ok(_)) => {
            Err(Error::Invalid { path: path.to_path_buf(), reason: "no valid meta".to_owned() })
        }
    }
}

/// The meta in the page at `at`, or why it is not valid.
pub(crate) fn read_meta(
    file: &File,
    path: &Path,
    at: u64,
    len: u64,
) -> Result<Result<Meta, String>, Error> {
    let mut page = [0; PAGE_HEADER + META];
    if at + page.len() as u64 > len {
        return Ok(Err("meta is cut off".to_owned()));
    }
    file.read_exact_at(&mut page, at).map_err(|error| Error::io("read", path, error))?;
    Ok(match Meta::decode(&page[PAGE_HEADER..]) {
        Ok(meta) if meta.high_water.saturating_mul(u64::from(meta.page_size)) > len => {
            Err(format!(
                "file of {len} bytes is shorter than its {} pages of {} bytes",
                meta.high_water, meta.page_size
            ))
        }
        Ok(meta) => Ok(meta),
        Err(reason) => Err(reason.to_owned()),
    })
}

/// Makes the file at least `needed` bytes long, with space on the disk behind every byte, and
/// returns its new length. `len` is the present one.
pub(crate) fn grow(file: &File, len: u64, needed: u64) -> std::io::Result<u64> {
    if needed <= len {
        return Ok(len);
    }
    let generous = if needed <= GROW_STEP {
        needed.next_power_of_two()
    } else {
        needed.next_multiple_of(GROW_STEP)
    };
    match allocate(file, len, generous) {
        Ok(()) => Ok(generous),
        // A nearly full disk: what is needed may still fit.
        Err(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => {
            allocate(file, len, needed)?;
            Ok(needed)
        }
        // A file system that cannot allocate: the write itself extends the file, or fails.
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(needed),
        Err(error) => Err(error.into()),
    }
}

fn allocate(file: &File, from: u64, to: u64) -> Result<(), Errno> {
    loop {
        match rustix::fs::fallocate(file, FallocateFlags::empty(), from, to - from) {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}
