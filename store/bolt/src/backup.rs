//! Copies of an open database, and the way back to an older state.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::layout::{FIRST_PAGE, META, Meta, PAGE_HEADER};
use crate::snapshot::{Snapshot, map};
use crate::{Db, Error, Options, Report, file, inspect};

/// Bytes of one step of a copy.
const CHUNK: usize = 1 << 20;

/// What [`Db::backup`] has made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backup {
    /// The commit that the copy holds.
    pub txid: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// The file system shares the blocks: it took neither time nor space.
    pub shared: bool,
}

impl Db {
    /// Makes a consistent copy of the last committed state at `to`, durable when this returns, in
    /// the place of an older one. Commits go on meanwhile. Blocks.
    ///
    /// # Errors
    /// [`Error::Io`]; then an older copy is as it was.
    pub fn backup(&self, to: impl AsRef<Path>) -> Result<Backup, Error> {
        let to = to.as_ref();
        // Nobody uses pages of this state again while it is held.
        let tx = self.view()?;
        let snapshot = tx.snapshot();
        let temporary = beside(to, "new");
        let made = copy(snapshot, &temporary).and_then(|shared| {
            std::fs::rename(&temporary, to)?;
            // DURABILITY: the name of the copy.
            base_fs::failpoint::hit_io("bolt.backup.sync-name")?;
            sync_folder(to)?;
            Ok(shared)
        });
        let shared = made.map_err(|error| {
            // The error that counts is the first one.
            let _ = std::fs::remove_file(&temporary);
            Error::io("write", to, error)
        })?;
        let bytes = snapshot.meta.high_water * u64::from(snapshot.meta.page_size);
        Ok(Backup { txid: snapshot.meta.txid, bytes, shared })
    }
}

/// `path` with `suffix` behind a dot.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

fn sync_folder(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => Ok(()),
    }
}

/// Copies the pages of `snapshot` to a new file; true if the file system shares them.
fn copy(snapshot: &Snapshot, to: &Path) -> std::io::Result<bool> {
    let _ = std::fs::remove_file(to);
    let mut how = File::options();
    let file = how.read(true).write(true).create_new(true).mode(0o600).open(to)?;
    let size = u64::from(snapshot.meta.page_size);
    let bytes = snapshot.meta.high_water * size;
    let shared = rustix::fs::ioctl_ficlone(&file, &snapshot.file).is_ok();
    if shared {
        file.set_len(bytes)?;
    } else {
        let mut buffer = vec![0; CHUNK];
        let mut at = FIRST_PAGE * size;
        while at < bytes {
            let len = usize::try_from(bytes - at).map_or(CHUNK, |left| left.min(CHUNK));
            snapshot.file.read_exact_at(&mut buffer[..len], at)?;
            file.write_all_at(&buffer[..len], at)?;
            at += len as u64;
        }
    }
    // The metas of the file are of other states by now.
    for page in 0..FIRST_PAGE {
        write_meta(&file, &snapshot.meta, page)?;
    }
    // DURABILITY: the copy before the name that an older one has now.
    base_fs::failpoint::hit_io("bolt.backup.sync")?;
    file.sync_all()?;
    Ok(shared)
}

fn write_meta(file: &File, meta: &Meta, page: u64) -> std::io::Result<()> {
    let mut bytes = [0; PAGE_HEADER + META];
    meta.encode(&mut bytes, page);
    file.write_all_at(&bytes, page * u64::from(meta.page_size))
}

/// What each of the two states of a file is like.
#[derive(Debug, Default)]
pub struct Examination {
    /// The state that opens; none if no meta is valid.
    pub newest: Option<Report>,
    /// The state before it, if its meta is valid.
    pub older: Option<Report>,
}

/// Looks at both states of the file at `path`, all pages of them if `thorough`; else at the metas
/// alone, and the reports say nothing of pages.
///
/// # Errors
/// [`Error::Locked`] while a daemon has the file, [`Error::Io`]. Damage is no error.
pub fn examine(path: impl AsRef<Path>, thorough: bool) -> Result<Examination, Error> {
    let path = path.as_ref();
    let (file, metas) = metas(path, true)?;
    let mut reports = metas.into_iter().map(|meta| report(path, &file, meta, thorough));
    Ok(Examination { newest: reports.next().transpose()?, older: reports.next().transpose()? })
}

/// Makes the older state of the file at `path` the one that opens: the newest commit is lost.
///
/// # Errors
/// [`Error::Locked`], [`Error::Io`]; [`Error::Invalid`] if there is no older state.
pub fn fall_back(path: impl AsRef<Path>) -> Result<(), Error> {
    let path = path.as_ref();
    let (file, metas) = metas(path, false)?;
    let [newest, older] = metas[..] else {
        let reason = "there is no older state".to_owned();
        return Err(Error::Invalid { path: path.to_path_buf(), reason });
    };
    // DURABILITY: the slot of the newest meta gets the older one; a crash before leaves it.
    write_meta(&file, &older, newest.txid % FIRST_PAGE)
        .and_then(|()| file.sync_all())
        .map_err(|error| Error::io("write", path, error))
}

fn report(path: &Path, file: &Arc<File>, meta: Meta, thorough: bool) -> Result<Report, Error> {
    if !thorough {
        return Ok(Report { txid: meta.txid, pages: meta.high_water, ..Report::default() });
    }
    let len = file::length(file, path)?;
    let map = Arc::new(map(file, len).map_err(|error| Error::io("map", path, error))?);
    let snapshot = Snapshot { map, meta, path: Arc::from(path), file: file.clone() };
    Ok(inspect::check_snapshot(&snapshot))
}

/// The locked file and its valid metas, the newest first.
fn metas(path: &Path, read_only: bool) -> Result<(Arc<File>, Vec<Meta>), Error> {
    let lock_timeout = Some(inspect::LOCK_WAIT);
    // Never makes a file: one that is missing is an error here.
    std::fs::metadata(path).map_err(|error| Error::io("stat", path, error))?;
    let options = Options { read_only, lock_timeout, ..Options::default() };
    let file = file::open(path, &options)?;
    let len = file::length(&file, path)?;
    let Ok(newest) = file::choose_meta(&file, path, len) else {
        return Ok((Arc::new(file), Vec::new()));
    };
    let mut metas = vec![newest];
    let size = u64::from(newest.page_size);
    for page in 0..FIRST_PAGE {
        if let Ok(meta) = file::read_meta(&file, path, page * size, len)?
            && meta.txid < newest.txid
            && meta.page_size == newest.page_size
        {
            metas.push(meta);
        }
    }
    metas.truncate(2);
    Ok((Arc::new(file), metas))
}
