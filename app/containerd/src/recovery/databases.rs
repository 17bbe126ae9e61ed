//! A database that opens, whatever state its file is in.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use store_bolt::{Db, Error, Examination, Options};

use super::{Causes, Marker, Tally};

/// Up to this size all pages are checked at every start: some ten milliseconds. A larger file is checked
/// after an unclean end alone.
const QUICK_CHECK: u64 = 16 << 20;

/// The largest file that is copied: a backup must not fill the disk.
const MAX_BACKUP: u64 = 256 << 20;

/// How often a running daemon makes a backup of `meta.db`, if anything has changed.
pub const BACKUP_INTERVAL: Duration = Duration::from_secs(3600);

/// Damaged files that are kept of each database.
const MAX_KEPT: usize = 3;

/// True if there is a database at `path` that can be read whole at every start.
pub(super) fn is_quick(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.len() > 0 && metadata.len() <= QUICK_CHECK)
}

/// Sees to it that the file at `path` opens. After an unclean end all of its pages are checked. Before
/// anything is changed, `marker` is told that records will be missing.
///
/// # Errors
/// Those of the disk, if not even an empty file can be had.
pub(super) fn ensure(path: &Path, marker: &mut Marker, tally: &mut Tally) -> Result<(), Error> {
    let len = fs::metadata(path).map_or(0, |metadata| metadata.len());
    if len == 0 && !backup_path(path).exists() {
        // Made by a daemon that did not come further.
        return Ok(());
    }
    let found = match store_bolt::examine(path, marker.is_unclean() || len <= QUICK_CHECK) {
        Ok(found) => found,
        // Opening it tells the user, and waits.
        Err(Error::Locked { .. }) => return Ok(()),
        Err(error) => {
            let error = Causes(&error);
            tracing::error!(path = %path.display(), %error, "the database cannot be read");
            Examination::default()
        }
    };
    let Some(newest) = &found.newest else {
        tracing::error!(path = %path.display(), "the database has no valid state");
        marker.begin_mending();
        return replace(path, tally);
    };
    let Some(problem) = newest.problems.first() else { return Ok(()) };
    tracing::error!(
        path = %path.display(), %problem, problems = newest.problems.len(),
        "the database is damaged"
    );
    marker.begin_mending();
    if found.older.as_ref().is_some_and(store_bolt::Report::is_clean) {
        keep_copy(path);
        store_bolt::fall_back(path)?;
        tracing::error!(path = %path.display(), "its newest commit is lost, the one before is whole");
        tally.add("database_fell_back", 1);
        return Ok(());
    }
    salvage(path, tally).or_else(|error| {
        let error = Causes(&error);
        tracing::error!(path = %path.display(), %error, "nothing can be salvaged");
        replace(path, tally)
    })
}

/// Puts what can be read into the place of the file, with the backup in its gaps.
fn salvage(path: &Path, tally: &mut Tally) -> Result<(), Error> {
    let saved = beside(path, "salvaged");
    remove(&saved);
    let report = store_bolt::salvage(path, &saved)?;
    for problem in &report.problems {
        tracing::error!(path = %path.display(), %problem, "lost");
    }
    let backup = backup_path(path);
    if backup.exists() {
        match store_bolt::fill(&backup, &saved, &report.damaged) {
            Ok(filled) => {
                tracing::warn!(path = %path.display(), filled, "lost keys come from the backup");
            }
            Err(error) => {
                tracing::error!(error = %Causes(&error), "the backup is of no use");
            }
        }
    }
    let mode = fs::metadata(path).map(|metadata| metadata.permissions());
    if let Ok(mode) = mode {
        let _ = fs::set_permissions(&saved, mode);
    }
    keep(path);
    rename(&saved, path)?;
    tracing::error!(path = %path.display(), "the database holds what could be read of it");
    tally.add("database_salvaged", 1);
    Ok(())
}

/// Puts the backup into the place of a file of which nothing can be read; or nothing.
fn replace(path: &Path, tally: &mut Tally) -> Result<(), Error> {
    let backup = backup_path(path);
    let usable = store_bolt::examine(&backup, true)
        .is_ok_and(|found| found.newest.is_some_and(|newest| newest.is_clean()));
    keep(path);
    if usable {
        put_back(&backup, path)?;
        tracing::error!(path = %path.display(), "the database is that of the last backup");
        tally.add("database_restored", 1);
    } else {
        if path.file_name().is_some_and(|name| name == "metadata.db") {
            spare_trees(path);
        }
        tracing::error!(path = %path.display(), "there is no backup: the database begins empty");
        remove(path);
        tally.add("database_emptied", 1);
    }
    Ok(())
}

/// Puts a copy of the backup into the place of the database; the backup itself where the disk has no
/// room for a copy: a name takes none.
fn put_back(backup: &Path, path: &Path) -> Result<(), Error> {
    let copied = beside(path, "restored");
    let copy = fs::copy(backup, &copied)
        .and_then(|_| fs::File::open(&copied)?.sync_all())
        .map_err(|source| io("copy", backup, source));
    copy.and_then(|()| rename(&copied, path)).or_else(|error| {
        let reason = Causes(&error);
        tracing::warn!(path = %backup.display(), %reason, "no copy of the backup: it is moved");
        remove(&copied);
        rename(backup, path)
    })
}

/// Trees whose records are all lost are kept for a person to look at: their ids will be given again.
fn spare_trees(database: &Path) {
    let Some(folder) = database.parent() else { return };
    let (trees, kept) = (folder.join("snapshots"), beside(&folder.join("snapshots"), &damaged()));
    match fs::rename(&trees, &kept) {
        Ok(()) => tracing::error!(kept = %kept.display(), "its trees are kept"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => tracing::error!(path = %trees.display(), %error, "cannot keep its trees"),
    }
}

/// Where the backup of a database is.
pub fn backup_path(database: &Path) -> PathBuf {
    beside(database, "backup")
}

/// True if the database at `path`, with the commit `txid`, has changed since its backup, and is not too
/// large for one.
pub fn worth_a_backup(path: &Path, txid: u64) -> bool {
    let len = fs::metadata(path).map_or(0, |metadata| metadata.len());
    if len > MAX_BACKUP {
        tracing::warn!(path = %path.display(), len, "the database is too large for a backup");
        return false;
    }
    let backup = store_bolt::examine(backup_path(path), false).ok();
    backup.and_then(|found| found.newest).is_none_or(|newest| newest.txid != txid)
}

/// Makes a backup of a database that nobody has open.
pub(super) fn back_up_closed(path: &Path) {
    let options =
        Options { read_only: true, lock_timeout: Some(Duration::ZERO), ..Options::default() };
    let outcome = Db::open(path, options).and_then(|db| {
        if worth_a_backup(path, db.view()?.txid()) {
            db.backup(backup_path(path))?;
        }
        Ok(())
    });
    if let Err(error) = outcome {
        let error = Causes(&error);
        tracing::warn!(path = %path.display(), %error, "no backup of the database");
    }
}

fn io(action: &'static str, path: &Path, source: std::io::Error) -> Error {
    Error::Io { action, path: path.to_path_buf(), source: source.into() }
}

fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    // DURABILITY: the file was synced; this name makes it the database.
    base_fs::failpoint::hit_io("recovery.database.name")
        .and_then(|()| fs::rename(from, to))
        .map_err(|source| io("rename", from, source))?;
    if let Some(folder) = to.parent()
        && let Err(error) = base_fs::fsync_dir(folder)
    {
        tracing::warn!(%error, "the new name may not last");
    }
    Ok(())
}

/// `path` with `suffix` behind a dot.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

fn damaged() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("damaged-{}", since.as_secs())
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "cannot remove");
        }
        _ => {}
    }
}

/// Gives the file another name, by which it stays when this one is given to another.
fn keep(path: &Path) {
    let kept = beside(path, &damaged());
    // Where there are no links, its place is empty for a moment.
    match fs::hard_link(path, &kept).or_else(|_| fs::rename(path, &kept)) {
        Ok(()) => tracing::error!(kept = %kept.display(), "the damaged file is kept"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => {
            tracing::error!(path = %path.display(), %error, "cannot keep the damaged file");
        }
    }
    bound(path);
}

/// Keeps a copy of a file that is going to be changed.
fn keep_copy(path: &Path) {
    let kept = beside(path, &damaged());
    match fs::copy(path, &kept) {
        Ok(_) => tracing::error!(kept = %kept.display(), "the damaged file is kept"),
        Err(error) => {
            tracing::error!(path = %path.display(), %error, "cannot keep the damaged file");
            remove(&kept);
        }
    }
    bound(path);
}

/// Removes all but the newest of the files that were kept.
fn bound(path: &Path) {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return };
    let prefix = format!("{}.damaged-", name.to_string_lossy());
    let mut kept: Vec<PathBuf> = super::places::names(folder)
        .into_iter()
        .filter(|name| name.starts_with(&prefix))
        .map(|name| folder.join(name))
        .collect();
    // Names end with seconds of ten digits, so they sort by age.
    while kept.len() > MAX_KEPT {
        remove(&kept.remove(0));
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    fn options() -> Options {
        Options { store_freelist: false, page_size: Some(4096), ..Options::default() }
    }

    fn put(db: &Db, key: &'static str) {
        db.update(move |tx| tx.create_bucket_if_missing(&[b"v1"])?.put(key.as_bytes(), &[7; 900]))
            .expect("put");
    }

    fn has(path: &Path, key: &str) -> bool {
        let db = Db::open(path, options()).expect("open");
        let tx = db.view().expect("view");
        let bucket = tx.bucket(b"v1").expect("read");
        bucket.is_some_and(|bucket| bucket.get(key.as_bytes()).expect("read").is_some())
    }

    /// A database with a key that its backup has, and one that it has not.
    fn made(folder: &Path) -> PathBuf {
        let path = folder.join("meta.db");
        let db = Db::open(&path, options()).expect("open");
        put(&db, "first");
        drop(db);
        back_up_closed(&path);
        let db = Db::open(&path, options()).expect("open");
        put(&db, "second");
        path
    }

    fn damage(path: &Path, from: u64) {
        let file = fs::File::options().write(true).open(path).expect("open");
        let len = file.metadata().expect("stat").len();
        for at in (from..len).step_by(4096) {
            file.write_all_at(&[0xA5; 4096], at).expect("write");
        }
    }

    /// Whether a start has to mend the database.
    fn mends(path: &Path) -> bool {
        let root = tempfile::tempdir().expect("a folder");
        let mut marker = Marker::begin(root.path());
        ensure(path, &mut marker, &mut Tally::default()).expect("ensure");
        // A start that ends here leaves word of it.
        assert_eq!(Marker::begin(root.path()).is_incomplete(), marker.is_incomplete());
        marker.is_incomplete()
    }

    #[test]
    fn a_backup_is_enough() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = made(folder.path());
        fs::remove_file(&path).expect("remove");
        assert!(mends(&path));
        assert!(has(&path, "first"));
    }

    #[test]
    fn a_sound_file_stays_as_it_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = made(folder.path());
        let before = fs::read(&path).expect("read");
        assert!(!mends(&path));
        assert_eq!(fs::read(&path).expect("read"), before);
    }

    #[test]
    fn a_file_without_metas_or_pages_becomes_its_backup() {
        for from in [0, 8192] {
            let folder = tempfile::tempdir().expect("a folder");
            let path = made(folder.path());
            damage(&path, from);
            assert!(mends(&path));
            assert!(has(&path, "first"));
            let kept = super::super::places::names(folder.path());
            assert!(kept.iter().any(|name| name.starts_with("meta.db.damaged-")), "{kept:?}");
            assert!(!mends(&path));
        }
    }

    #[test]
    fn without_a_backup_it_begins_empty_and_the_trees_are_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("metadata.db");
        fs::write(&path, [0xA5; 20_000]).expect("write");
        fs::create_dir_all(folder.path().join("snapshots/1/fs")).expect("mkdir");
        assert!(mends(&path));
        assert!(!has(&path, "first"));
        let kept = super::super::places::names(folder.path());
        assert!(kept.iter().any(|name| name.starts_with("snapshots.damaged-")), "{kept:?}");
    }

    #[test]
    fn an_old_backup_is_replaced_when_something_changed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = made(folder.path());
        assert!(!has(&backup_path(&path), "second"));
        back_up_closed(&path);
        assert!(has(&backup_path(&path), "second"));
    }
}
