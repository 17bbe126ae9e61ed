//! Tools on files: check, dump, salvage.

use std::collections::HashSet;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use crate::layout::{FIRST_PAGE, MAX_NESTING, NO_FREELIST};
use crate::scan;
use crate::snapshot::Snapshot;
use crate::{Bucket, BucketMut, Db, Entry, Error, Options, ReadTx, file};

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The page at fault.
    pub page: u64,
    /// What is wrong with it.
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "page {}: {}", self.page, self.reason)
    }
}

/// What [`check`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// All problems, in the order in which they were met.
    pub problems: Vec<Problem>,
    /// The commit that was checked.
    pub txid: u64,
    /// Pages of the file that were ever used.
    pub pages: u64,
    /// Pages that hold the metas, the free list, keys and values.
    pub used: u64,
    /// Pages in the stored free list; none if it is not stored.
    pub free: Option<u64>,
    /// The buckets, by their names from the top, of which [`salvage`] could not read all.
    pub damaged: Vec<Vec<Vec<u8>>>,
}

impl Report {
    /// True if nothing is wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }

    fn add(&mut self, error: Error) {
        let (page, reason) = match error {
            Error::Corrupt { page, reason, .. } => (page, reason),
            other => (0, other.to_string()),
        };
        self.problems.push(Problem { page, reason });
    }
}

/// How long a tool waits for the lock. A daemon holds it for good; a process that was just closing
/// the file, or starting another, for a moment.
pub(crate) const LOCK_WAIT: Duration = Duration::from_secs(1);

/// Opens a file that nobody is writing to.
fn open(path: &Path) -> Result<Db, Error> {
    let options = Options { read_only: true, lock_timeout: Some(LOCK_WAIT), ..Options::default() };
    Db::open(path, options)
}

/// Checks all of the database at `path`: metas, trees, order of keys, buckets, free list.
///
/// What bbolt's own check demands: each page is used once or free, and each key stands where a
/// search finds it.
///
/// # Errors
/// [`Error::Locked`] while a daemon has the file; [`Error::Invalid`] if no meta is valid;
/// [`Error::Io`]. Everything else is in the report.
pub fn check(path: impl AsRef<Path>) -> Result<Report, Error> {
    let path = path.as_ref();
    let db = open(path)?;
    let tx = db.view()?;
    let mut report = check_snapshot(tx.snapshot());
    let file = &tx.snapshot().file;
    let len = file::length(file, path)?;
    for page in 0..FIRST_PAGE {
        let at = page * u64::from(db.page_size());
        if let Err(reason) = file::read_meta(file, path, at, len)? {
            report.problems.push(Problem { page, reason });
        }
    }
    Ok(report)
}

/// Checks one state, all but the metas.
pub(crate) fn check_snapshot(snapshot: &Snapshot) -> Report {
    let meta = &snapshot.meta;
    let mut report = Report { txid: meta.txid, pages: meta.high_water, ..Report::default() };
    let mut used = scan::walk(snapshot, &mut |error| report.add(error));
    report.used = (0..meta.high_water).filter(|page| used.has(*page)).count() as u64;
    if meta.freelist == NO_FREELIST {
        return report;
    }
    let ids = match snapshot.page(meta.freelist).and_then(|page| page.free_ids()) {
        Ok(ids) => ids,
        Err(error) => {
            report.add(error);
            return report;
        }
    };
    let mut free = 0;
    let mut last = FIRST_PAGE - 1;
    for id in ids {
        free += 1;
        if id < FIRST_PAGE || id >= meta.high_water {
            report.add(snapshot.corrupt(meta.freelist, format!("free page {id} does not exist")));
            continue;
        }
        if id <= last {
            report.add(snapshot.corrupt(meta.freelist, format!("free page {id} is out of order")));
        }
        last = id;
        if used.mark(id, 1).is_some() {
            report.add(snapshot.corrupt(id, "is free and in use"));
        }
    }
    report.free = Some(free);
    for (start, len) in used.gaps() {
        for page in start..start + len {
            report.add(snapshot.corrupt(page, "is neither in use nor free"));
        }
    }
    report
}

/// Bytes as text: printable ASCII as it is, the rest escaped.
struct Quoted<'a>(&'a [u8]);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

/// Writes the content of the database at `path` as text: one line for each bucket and each
/// value, indented by nesting; damage as lines that start with `!`.
///
/// # Errors
/// As [`check`]. An error of `out` ends the dump early and is not reported.
pub fn dump(path: impl AsRef<Path>, out: &mut dyn fmt::Write) -> Result<(), Error> {
    let db = open(path.as_ref())?;
    let tx = db.view()?;
    let meta = &tx.snapshot().meta;
    let head = write!(out, "page size {}, txid {}, pages {}", meta.page_size, meta.txid, {
        meta.high_water
    });
    let list = match meta.freelist {
        NO_FREELIST => writeln!(out, ", no free list"),
        page => writeln!(out, ", free list on page {page}"),
    };
    if head.and(list).is_ok() {
        // An error of `out` is the reader's wish to stop.
        let _ = dump_bucket(tx.root(), 0, &mut HashSet::new(), out);
    }
    Ok(())
}

fn dump_bucket(
    bucket: Bucket<'_>,
    depth: usize,
    seen: &mut HashSet<u64>,
    out: &mut dyn fmt::Write,
) -> fmt::Result {
    if bucket.root_page().is_some_and(|page| !seen.insert(page)) {
        return writeln!(out, "{:depth$}! bucket was met before", "");
    }
    for entry in bucket.iter() {
        match entry {
            Ok((key, Entry::Value(value))) => {
                writeln!(out, "{:depth$}{} = {}", "", Quoted(key), Quoted(value))?;
            }
            Ok((key, Entry::Bucket(bucket))) => {
                let sequence = bucket.sequence();
                writeln!(out, "{:depth$}{}/ sequence {sequence}", "", Quoted(key))?;
                dump_bucket(bucket, depth + 2, seen, out)?;
            }
            Err(error) => writeln!(out, "{:depth$}! {error}", "")?,
        }
    }
    Ok(())
}

/// Copies whatever is readable of the database `from` into the new database `to`, in one
/// transaction. The report tells what was left out.
///
/// # Errors
/// As [`check`] for `from`; as [`Db::open`] and [`Db::update`] for `to`.
pub fn salvage(from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<Report, Error> {
    let from = open(from.as_ref())?;
    let tx = from.view()?;
    let stored = tx.snapshot().meta.freelist != NO_FREELIST;
    let options = Options {
        page_size: Some(from.page_size()),
        store_freelist: stored,
        lock_timeout: Some(LOCK_WAIT),
        ..Options::default()
    };
    let to = Db::open(to.as_ref(), options)?;
    to.update(move |out| copy(&tx, out.root()))
}

fn copy(tx: &ReadTx, mut root: BucketMut<'_>) -> Result<Report, Error> {
    let mut report = Report { txid: tx.txid(), ..Report::default() };
    root.set_sequence(tx.root().sequence());
    copy_bucket(tx.root(), &mut root, &mut Vec::new(), &mut HashSet::new(), &mut report)?;
    report.damaged.sort();
    report.damaged.dedup();
    Ok(report)
}

/// Copies into the database `to` what `from` has and `to` has not, below the buckets `damaged` of
/// a report of [`salvage`]: an older copy fills the gaps of a damaged file. Gives the number of
/// keys.
///
/// # Errors
/// As [`check`] for `from`; as [`Db::open`] and [`Db::update`] for `to`.
pub fn fill(
    from: impl AsRef<Path>,
    to: impl AsRef<Path>,
    damaged: &[Vec<Vec<u8>>],
) -> Result<u64, Error> {
    let from = open(from.as_ref())?;
    let tx = from.view()?;
    let stored = tx.snapshot().meta.freelist != NO_FREELIST;
    let options =
        Options { store_freelist: stored, lock_timeout: Some(LOCK_WAIT), ..Options::default() };
    let to = Db::open(to.as_ref(), options)?;
    let damaged = damaged.to_vec();
    to.update(move |out| {
        let mut filled = 0;
        for path in &damaged {
            let names: Vec<&[u8]> = path.iter().map(Vec::as_slice).collect();
            let Some(bucket) = tx.root().path(&names)? else { continue };
            fill_bucket(bucket, &mut out.create_bucket_if_missing(&names)?, 0, &mut filled)?;
        }
        Ok(filled)
    })
}

fn fill_bucket(
    from: Bucket<'_>,
    to: &mut BucketMut<'_>,
    depth: usize,
    filled: &mut u64,
) -> Result<(), Error> {
    if depth > MAX_NESTING {
        return Err(Error::NestedTooDeep { limit: MAX_NESTING });
    }
    to.set_sequence(to.sequence().max(from.sequence()));
    for entry in from.iter() {
        match entry? {
            (key, Entry::Value(value)) => {
                if to.as_read().entry_at(key)?.is_none() {
                    to.put(key, value)?;
                    *filled += 1;
                }
            }
            (key, Entry::Bucket(bucket)) => {
                // What is there is as new as anything; only what is missing whole is filled.
                if to.as_read().entry_at(key)?.is_none() {
                    fill_bucket(bucket, &mut to.create_bucket(key)?, depth + 1, filled)?;
                }
            }
        }
    }
    Ok(())
}

fn copy_bucket(
    from: Bucket<'_>,
    to: &mut BucketMut<'_>,
    path: &mut Vec<Vec<u8>>,
    seen: &mut HashSet<u64>,
    report: &mut Report,
) -> Result<(), Error> {
    if let Some(page) = from.root_page()
        && !seen.insert(page)
    {
        report.problems.push(Problem { page, reason: "bucket was met before".to_owned() });
        report.damaged.push(path.clone());
        return Ok(());
    }
    for entry in from.iter() {
        match entry {
            Ok((key, Entry::Value(value))) => match to.put(key, value) {
                // Keys of a damaged page may be longer than any that can be put.
                Err(error @ (Error::KeyRequired | Error::KeyTooLarge { .. })) => report.add(error),
                other => other?,
            },
            Ok((key, Entry::Bucket(bucket))) => match to.create_bucket_if_missing(key) {
                Ok(mut copied) => {
                    copied.set_sequence(bucket.sequence());
                    path.push(key.to_vec());
                    copy_bucket(bucket, &mut copied, path, seen, report)?;
                    path.pop();
                }
                Err(error @ (Error::KeyRequired | Error::KeyTooLarge { .. })) => report.add(error),
                Err(error) => return Err(error),
            },
            Err(error) => {
                report.add(error);
                report.damaged.push(path.clone());
            }
        }
    }
    Ok(())
}
