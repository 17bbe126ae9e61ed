//! The handle of an open database.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::inspect::{self, Report};
use crate::queue::Shared;
use crate::{Error, ReadTx, WriteTx};

/// How a database is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// Store the free list in the file. containerd does so for its snapshotters' databases, and
    /// not for `meta.db`. Either kind of file opens with either choice; the next commit makes the
    /// file what is chosen here.
    pub store_freelist: bool,
    /// The page size of a new file in bytes; `None` is the system's. An existing file
    /// keeps its own.
    pub page_size: Option<u32>,
    /// Leave out the syncs: faster, and damaged by a crash of the system (not of the process).
    pub no_sync: bool,
    /// How long to wait for another process to release the file; `None` waits for ever.
    pub lock_timeout: Option<Duration>,
    /// Open for reading, with a shared lock. The file must exist.
    pub read_only: bool,
    /// The mode of a new file, before the umask.
    pub mode: u32,
}

impl Default for Options {
    /// bbolt's defaults: a stored free list, synced, waiting for ever for the lock.
    fn default() -> Self {
        Options {
            store_freelist: true,
            page_size: None,
            no_sync: false,
            lock_timeout: None,
            read_only: false,
            mode: 0o600,
        }
    }
}

/// Figures of an open database.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    /// Commits made since the database was opened.
    pub commits: u64,
    /// Closures run since then, whatever their outcome. Those that shared a commit make the
    /// difference to `commits`.
    pub updates: u64,
    /// Pages written since then, metas not counted.
    pub pages_written: u64,
    /// Write calls made for them: one for each contiguous run.
    pub page_writes: u64,
    /// Pages that the next commit may use. Known only after the first update.
    pub free_pages: u64,
    /// Pages that are free as soon as no reader needs them. Known only after the first update.
    pub pending_pages: u64,
    /// Pages of the file that were ever used.
    pub pages: u64,
    /// The number of the last commit.
    pub txid: u64,
}

/// A step of a commit; see [`Db::open_probed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The file is made longer.
    Grow,
    /// Pages are written.
    WritePages,
    /// Pages are made durable.
    SyncPages,
    /// The meta is written.
    WriteMeta,
    /// The meta is made durable.
    SyncMeta,
}

/// Called before each step of a commit; its error is taken for the system's.
pub type Probe = Arc<dyn Fn(Step) -> std::io::Result<()> + Send + Sync>;

/// An open database. Cloning gives another handle of the same one.
///
/// The file stays locked until the last handle and the last [`ReadTx`] are gone. Dropping the
/// last handle waits for updates that were queued.
#[derive(Clone)]
pub struct Db(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl Db {
    /// Opens the database at `path`, creating it if it is missing or empty.
    ///
    /// Blocks for as long as another process holds the lock; see [`Options::lock_timeout`]. A
    /// damaged meta is logged and the other one used.
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::Invalid`], [`Error::Io`].
    pub fn open(path: impl AsRef<Path>, options: Options) -> Result<Db, Error> {
        Self::open_with(path.as_ref(), options, None)
    }

    /// As [`Db::open`], with `probe` called before each step of a commit: for tests of what a
    /// slow or failing disk does.
    ///
    /// # Errors
    /// As [`Db::open`].
    pub fn open_probed(
        path: impl AsRef<Path>,
        options: Options,
        probe: Probe,
    ) -> Result<Db, Error> {
        Self::open_with(path.as_ref(), options, Some(probe))
    }

    fn open_with(path: &Path, options: Options, probe: Option<Probe>) -> Result<Db, Error> {
        let shared = Arc::new(Shared::open(path, options, probe)?);
        Ok(Db(Arc::new(Handle { shared })))
    }

    /// A snapshot of the last committed state. Never waits for a writer.
    ///
    /// # Errors
    /// None today.
    pub fn view(&self) -> Result<ReadTx, Error> {
        Ok(ReadTx::new(self.0.shared.current()))
    }

    /// Runs `f` in a write transaction and waits until the commit is durable. Blocks the thread.
    ///
    /// `f` runs alone, on this thread or another. If it fails, its changes are undone and its
    /// error returned; if the commit fails, the error is that of the commit, and the state is as
    /// before. A transaction that changes nothing writes nothing.
    ///
    /// # Errors
    /// Those of `f`; [`Error::ReadOnly`], [`Error::Nested`], [`Error::Panicked`];
    /// [`Error::Io`] of the commit.
    pub fn update<T: Send + 'static, E: From<Error> + Send + 'static>(
        &self,
        f: impl FnOnce(&mut WriteTx<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        self.0.shared.update(f)
    }

    /// As [`Db::update`], without blocking the thread.
    ///
    /// CANCEL: dropping the future does not take the closure back: it may still run and commit. It
    /// then runs whole, or not at all.
    ///
    /// # Errors
    /// As [`Db::update`].
    pub async fn update_async<T: Send + 'static, E: From<Error> + Send + 'static>(
        &self,
        f: impl FnOnce(&mut WriteTx<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        Shared::update_async(&self.0.shared, f).await
    }

    /// The database file.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.shared.path()
    }

    /// The size of the file's pages in bytes.
    #[must_use]
    pub fn page_size(&self) -> u32 {
        self.0.shared.current().meta.page_size
    }

    /// Figures since the database was opened.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.0.shared.stats()
    }

    /// Checks the last committed state; see [`crate::check`].
    #[must_use]
    pub fn check(&self) -> Report {
        inspect::check_snapshot(&self.0.shared.current())
    }
}

impl fmt::Debug for Db {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Db").field(&self.path()).finish()
    }
}
