//! What every snapshotter can do.
//!
//! A snapshot is a folder tree. *Active* ones are written to, through the mounts that `prepare`
//! gives; `commit` turns an active one into a *committed* one, which never changes again and can
//! be the parent of others; a *view* is a read-only look at a committed one.

use std::time::SystemTime;

use async_trait::async_trait;
use base_errors::Result;
use base_ident::Labels;
use kernel_mount::Mount;

/// What a snapshot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A read-only look at its parent.
    View,
    /// A tree that is being written.
    Active,
    /// A tree that never changes again.
    Committed,
}

/// What is known of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Active, view or committed.
    pub kind: Kind,
    /// The key (active, view) or name (committed).
    pub name: String,
    /// Name of the parent, empty for a base.
    pub parent: String,
    /// Labels.
    pub labels: Labels,
    /// When it was prepared or committed.
    pub created_at: SystemTime,
    /// When its labels last changed.
    pub updated_at: SystemTime,
}

/// The space that a snapshot takes by itself, without its parents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Number of inodes.
    pub inodes: u64,
    /// Bytes.
    pub size: u64,
}

/// A field of [`Info`] that a client may change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpdateField {
    /// All labels are replaced.
    Labels,
    /// One label is set, or removed if it is empty or absent in the new info.
    Label(String),
}

/// A store of snapshots. Implementations: overlayfs, native, namespaced (records over one of
/// them), proxy.
///
/// All methods may be called from many tasks at once. Errors: NotFound for unknown keys and
/// parents, AlreadyExists for a key that is taken, FailedPrecondition for a snapshot of the wrong
/// kind or with children, InvalidArgument for a parent that is not committed.
#[async_trait]
pub trait Snapshotter: Send + Sync {
    /// What is known of a snapshot: `snapshot key: not found`.
    async fn stat(&self, key: &str) -> Result<Info>;

    /// Changes labels; `fields` empty replaces them all.
    async fn update(&self, info: &Info, fields: &[UpdateField]) -> Result<Info>;

    /// The space that it takes: measured now if active, as recorded if committed.
    async fn usage(&self, key: &str) -> Result<Usage>;

    /// The mounts of an active snapshot or view, for who wants to see the tree.
    async fn mounts(&self, key: &str) -> Result<Vec<Mount>>;

    /// Makes an active snapshot on `parent` (empty: from nothing) and gives its mounts.
    async fn prepare(&self, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>>;

    /// Makes a view of `parent` and gives its mounts.
    async fn view(&self, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>>;

    /// Turns the active snapshot `key` into the committed `name`. `parent`, if not empty, moves a
    /// parentless snapshot onto that parent first (needs the capability `rebase`).
    async fn commit(&self, name: &str, key: &str, labels: Labels, parent: &str) -> Result<()>;

    /// Removes a snapshot that has no children.
    async fn remove(&self, key: &str) -> Result<()>;

    /// The snapshots that match `filters` (over `kind`, `name`, `parent`, `labels.*`).
    async fn list(&self, filters: &[String]) -> Result<Vec<Info>>;

    /// Removes what removed snapshots left on the disk.
    async fn cleanup(&self) -> Result<()>;
}
