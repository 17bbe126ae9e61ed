//! The tree records that snapshotters share: `metadata.db`, byte for byte containerd's.
//!
//! ```text
//! v1/
//!   snapshots/                 sequence: the last id
//!     <key>/
//!       id                     uvarint
//!       kind                   one byte: 1 view, 2 active, 3 committed
//!       parent                 key of the parent; absent for a base
//!       createdat updatedat    time
//!       inodes size            varint; of committed ones
//!       labels/
//!   parents/
//!     uvarint(parent id) 00 uvarint(child id) = key of the child
//! ```
//!
//! An id is the name of a folder and is never given twice.

mod encode;
mod update;
mod view;

use std::path::Path;

use base_errors::Result;
use store_bolt::{Db, Options};

pub use self::update::Update;
pub use self::view::{Tree, View};

/// The open records of one snapshotter. Cloning gives another handle of the same.
#[derive(Clone, Debug)]
pub struct Storage {
    db: Db,
}

const V1: &[u8] = b"v1";
const SNAPSHOTS: &[u8] = b"snapshots";
const PARENTS: &[u8] = b"parents";
const ID: &[u8] = b"id";
const KIND: &[u8] = b"kind";
const PARENT: &[u8] = b"parent";
const CREATED_AT: &[u8] = b"createdat";
const UPDATED_AT: &[u8] = b"updatedat";
const INODES: &[u8] = b"inodes";
const SIZE: &[u8] = b"size";
const LABELS: &[u8] = b"labels";

impl Storage {
    /// Opens `metadata.db` at `path`, which is made (0600) if it is missing. Blocks.
    ///
    /// # Errors
    /// Those of the database.
    pub fn open(path: &Path) -> Result<Self> {
        let options = Options { store_freelist: true, mode: 0o600, ..Options::default() };
        Ok(Storage { db: Db::open(path, options)? })
    }

    /// Reads the last committed state; does not wait for anything but the pages.
    ///
    /// # Errors
    /// Those of `read` and of a damaged file.
    pub fn view<T>(&self, read: impl FnOnce(&View<'_>) -> Result<T>) -> Result<T> {
        let tx = self.db.view()?;
        read(&View::new(tx.root())?)
    }

    /// Runs `write` in a transaction, done when it is durable. An error undoes `write` alone.
    ///
    /// CANCEL: a dropped future does not take `write` back.
    ///
    /// # Errors
    /// Those of `write` and of the database.
    pub async fn update<T: Send + 'static>(
        &self,
        write: impl FnOnce(&mut Update<'_, '_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.db.update_async(move |tx| write(&mut Update::new(tx))).await
    }
}
