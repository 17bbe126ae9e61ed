//! The handle of an open database.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::{Error, ReadTx, WriteTx};

/// How a database is opened.
#[derive(Clone)]
pub struct Options {
    /// Store the free list in the file. containerd does so for its snapshotters' databases, and
    /// not for `meta.db`. Either kind of file opens with either choice.
    pub store_freelist: bool,
    /// The page size of a new file; `None` is the system's. An existing file keeps its own.
    pub page_size: Option<u32>,
    /// Leave out the syncs: faster, and lost on a crash of the system.
    pub no_sync: bool,
    /// How long to wait for another process to release the file; `None` waits for ever.
    pub lock_timeout: Option<Duration>,
    /// Open for reading, with a shared lock.
    pub read_only: bool,
    /// The mode of a new file.
    pub mode: u32,
}

impl Default for Options {
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
    /// Closures run since then, whatever their outcome.
    pub updates: u64,
}

/// An open database. Cloning gives another handle of the same one.
#[derive(Clone)]
pub struct Db(Arc<()>);

impl Db {
    /// Opens the database at `path`, creating it if it is missing.
    pub fn open(_path: impl AsRef<Path>, _options: Options) -> Result<Db, Error> {
        Ok(Db(Arc::new(())))
    }

    /// A snapshot of the last committed state.
    pub fn view(&self) -> Result<ReadTx, Error> {
        Ok(ReadTx {})
    }

    /// Runs `f` in a write transaction and waits until the commit is durable. Blocks the thread.
    pub fn update<T: Send + 'static, E: From<Error> + Send + 'static>(
        &self,
        _f: impl FnOnce(&mut WriteTx<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        Err(Error::Closed.into())
    }

    /// As [`Db::update`], without blocking the thread.
    ///
    /// CANCEL: a dropped future does not take the closure back; it may still run and commit.
    pub async fn update_async<T: Send + 'static, E: From<Error> + Send + 'static>(
        &self,
        _f: impl FnOnce(&mut WriteTx<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        Err(Error::Closed.into())
    }

    /// The database file.
    pub fn path(&self) -> &Path {
        Path::new("")
    }

    /// The size of the file's pages in bytes.
    pub fn page_size(&self) -> u32 {
        4096
    }

    /// Figures since the database was opened.
    pub fn stats(&self) -> Stats {
        Stats::default()
    }
}

impl fmt::Debug for Db {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Db").field(&self.path()).finish()
    }
}
