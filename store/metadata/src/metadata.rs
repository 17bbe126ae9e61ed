//! The open database, and its two kinds of transaction.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use base_ident::{Digest, Labels, Namespace, timestamp};
use store_bolt::{Bucket, BucketMut, Db, WriteTx};

use crate::gc::{EXPIRE, Journal, Name};
use crate::hold::{Held, Hold, Holds};
use crate::schema::{LEASES, ROOT};
use crate::{MetadataError, Object, Result, Scope};

/// How the database is opened.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Leave out the syncs: the config key `no_sync`.
    pub no_sync: bool,
    /// How long to wait for another daemon to release the file: the timeout
    /// `io.containerd.timeout.bolt.open`; `None` waits for ever.
    pub lock_timeout: Option<Duration>,
}

/// What has been deleted since the last collection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dirty {
    /// Deletions.
    pub(crate) deletions: u64,
    /// Snapshotters whose snapshots went.
    pub(crate) snapshotters: BTreeSet<String>,
    /// Whether blobs or ingests went.
    pub(crate) content: bool,
    /// When the first of the things expires that were written.
    pub(crate) expires: Option<SystemTime>,
}

impl Dirty {
    fn add(&mut self, more: Dirty) {
        self.deletions += more.deletions;
        self.snapshotters.extend(more.snapshotters);
        self.content |= more.content;
    }

    /// Something expires at `time`.
    pub(crate) fn expires(&mut self, time: SystemTime) {
        self.expires = Some(self.expires.map_or(time, |first| first.min(time)));
    }
}

/// What a commit means for collections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mutation {
    /// Whether anything was deleted since the last collection.
    pub deleted: bool,
    /// When the first of the things expires that this update wrote, if they do.
    pub expires: Option<SystemTime>,
}

/// Runs after a commit.
type Hook = Box<dyn Fn(Mutation) + Send + Sync>;

pub(crate) struct Inner {
    pub(crate) db: Db,
    pub(crate) holds: Arc<Holds>,
    hooks: RwLock<Vec<Hook>>,
    dirty: Mutex<Dirty>,
    /// When the next thing expires.
    expiry: Mutex<Option<SystemTime>>,
    pub(crate) journal: Journal,
    /// Held by the collection that is on its way.
    pub(crate) collecting: tokio::sync::Mutex<()>,
}

impl Inner {
    pub(crate) fn dirty(&self) -> MutexGuard<'_, Dirty> {
        // The fields are independent, so a panic elsewhere cannot have left them contradictory.
        self.dirty.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn next_expiry(&self) -> Option<SystemTime> {
        *self.expiry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn take_expiry(&self) -> Option<SystemTime> {
        self.expiry.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Something expires at `time`.
    pub(crate) fn expires(&self, time: Option<SystemTime>) {
        let Some(time) = time else { return };
        let mut expiry = self.expiry.lock().unwrap_or_else(PoisonError::into_inner);
        *expiry = Some(expiry.map_or(time, |first| first.min(time)));
    }

    /// Runs the closure of an update, and what has to follow its commit.
    fn run<T>(
        self: &Arc<Self>,
        tx: &mut WriteTx<'_>,
        f: impl FnOnce(&mut Update<'_, '_>) -> base_errors::Result<T>,
    ) -> base_errors::Result<T> {
        let mut update = Update::new(tx);
        let value = f(&mut update)?;
        let Update { dirty, touched, .. } = update;
        let ticket = Ticket::new(self.clone(), touched);
        tx.on_commit(move || ticket.committed(dirty));
        Ok(value)
    }
}

/// An update whose closure has run: what it touched is in the journal until this is dropped, after
/// its commit or after it was undone.
pub(crate) struct Ticket {
    inner: Arc<Inner>,
    number: u64,
}

impl Ticket {
    pub(crate) fn new(inner: Arc<Inner>, touched: Vec<Name>) -> Self {
        let number = inner.journal.ran(touched);
        Ticket { inner, number }
    }

    fn committed(self, dirty: Dirty) {
        let expires = dirty.expires;
        self.inner.expires(expires);
        let deleted = {
            let mut all = self.inner.dirty();
            all.add(dirty);
            all.deletions > 0
        };
        let mutation = Mutation { deleted, expires };
        for hook in self.inner.hooks.read().unwrap_or_else(PoisonError::into_inner).iter() {
            hook(mutation);
        }
    }

    /// As [`Ticket::committed`], for the collector's own commit, of which hooks do not hear.
    pub(crate) fn collected(self, dirty: Dirty) {
        self.inner.dirty().add(dirty);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.inner.journal.settled(self.number);
    }
}

/// The open metadata database. Cloning gives another handle of the same one.
#[derive(Clone)]
pub struct Metadata {
    pub(crate) inner: Arc<Inner>,
}

impl Metadata {
    /// Opens `meta.db` at `path`, creates it if it is missing and brings its schema up to date.
    /// Waits for the file's lock and blocks the thread while doing so.
    ///
    /// # Errors
    /// Those of the database, and of the migration.
    pub fn open(path: impl AsRef<Path>, options: Options) -> Result<Self> {
        let options = store_bolt::Options {
            store_freelist: false,
            no_sync: options.no_sync,
            lock_timeout: options.lock_timeout,
            mode: 0o644,
            ..store_bolt::Options::default()
        };
        let db = Db::open(path, options)?;
        crate::migrate::run(&db)?;
        Ok(Metadata {
            inner: Arc::new(Inner {
                db,
                holds: Arc::default(),
                hooks: RwLock::default(),
                dirty: Mutex::default(),
                expiry: Mutex::default(),
                journal: Journal::default(),
                collecting: tokio::sync::Mutex::default(),
            }),
        })
    }

    /// The database file.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.inner.db.path()
    }

    /// The number of the last commit.
    ///
    /// # Errors
    /// Those of the database.
    pub fn txid(&self) -> base_errors::Result<u64> {
        Ok(self.inner.db.view()?.txid())
    }

    /// Makes a consistent copy at `to`, in the place of an older one. Commits go on meanwhile.
    /// Blocks.
    ///
    /// # Errors
    /// Those of the disk; then an older copy is as it was.
    pub fn backup(&self, to: impl AsRef<Path>) -> base_errors::Result<()> {
        self.inner.db.backup(to)?;
        Ok(())
    }

    /// Reads the last committed state. Takes no lock and does not block: `f` runs here and now.
    ///
    /// # Errors
    /// Those of `f`, and of a damaged file.
    pub fn view<T>(
        &self,
        f: impl FnOnce(&View<'_>) -> base_errors::Result<T>,
    ) -> base_errors::Result<T> {
        let tx = self.inner.db.view()?;
        f(&View { root: tx.root() })
    }

    /// Runs `f` in a write transaction; done when its commit is durable. Updates that wait at the
    /// same time share one commit; an error of `f` undoes `f` alone.
    ///
    /// CANCEL: a dropped future does not take `f` back; it may still run and commit.
    ///
    /// # Errors
    /// Those of `f` and of the database.
    pub async fn update<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Update<'_, '_>) -> base_errors::Result<T> + Send + 'static,
    ) -> base_errors::Result<T> {
        let inner = self.inner.clone();
        self.inner.db.update_async(move |tx| inner.run(tx, f)).await
    }

    /// As [`Metadata::update`], blocking the thread.
    ///
    /// # Errors
    /// Those of `f` and of the database.
    pub fn update_blocking<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Update<'_, '_>) -> base_errors::Result<T> + Send + 'static,
    ) -> base_errors::Result<T> {
        let inner = self.inner.clone();
        self.inner.db.update(move |tx| inner.run(tx, f))
    }

    /// As [`Metadata::on_change`], for who wants to know of deletions alone.
    pub fn on_mutation(&self, hook: impl Fn(bool) + Send + Sync + 'static) {
        self.on_change(move |mutation| hook(mutation.deleted));
    }

    /// Calls `hook` after each commit of an update. It must be quick: commits wait for it.
    pub fn on_change(&self, hook: impl Fn(Mutation) + Send + Sync + 'static) {
        self.inner.hooks.write().unwrap_or_else(PoisonError::into_inner).push(Box::new(hook));
    }

    /// Keeps a thing of a backend from being swept until the guard is dropped. Take it before the
    /// backend makes the thing, and drop it after the record's commit.
    pub fn hold(&self, what: Held) -> Hold {
        self.inner.holds.hold(what)
    }

    /// Has the next collection sweep the content store: after a sweep that failed, and at start.
    pub fn mark_content_dirty(&self) {
        self.inner.dirty().content = true;
    }

    /// Has the next collection sweep `snapshotter`: after a sweep that failed, and at start.
    pub fn mark_snapshotter_dirty(&self, snapshotter: &str) {
        self.inner.dirty().snapshotters.insert(snapshotter.to_owned());
    }

    /// The digests of all blobs that any namespace, open ingest or [`Hold`] needs.
    ///
    /// A sweep lists its backend first, calls this after that, and removes what is not in the set.
    ///
    /// # Errors
    /// Those of a damaged file: then nothing may be swept.
    pub fn all_blob_digests(&self) -> base_errors::Result<BTreeSet<String>> {
        // Holds before records: a hold that ends in between has become a record.
        let held = self.inner.holds.now();
        let mut digests = self.view(|tx| Ok(tx.blob_digests()?))?;
        digests.extend(held.into_iter().filter_map(|held| match held {
            Held::Blob(digest) => Some(digest),
            _ => None,
        }));
        Ok(digests)
    }

    /// Those of `digests` that are needed, and perhaps others; as [`Metadata::all_blob_digests`], but
    /// without reading the records of all others.
    ///
    /// # Errors
    /// Those of a damaged file: then nothing may be swept.
    pub fn needed_blobs(&self, digests: &[Digest]) -> base_errors::Result<BTreeSet<Digest>> {
        // Holds before records: a hold that ends in between has become a record.
        let held = self.inner.holds.now();
        let mut needed = self.view(|tx| Ok(tx.needed_blobs(digests)?))?;
        needed.extend(held.into_iter().filter_map(|held| match held {
            Held::Blob(digest) => Digest::parse(&digest).ok(),
            _ => None,
        }));
        Ok(needed)
    }

    /// The backend references of all ingests; to be used as [`Metadata::all_blob_digests`].
    ///
    /// # Errors
    /// Those of a damaged file: then nothing may be swept.
    pub fn all_backend_ingest_refs(&self) -> base_errors::Result<BTreeSet<String>> {
        let held = self.inner.holds.now();
        let mut references = self.view(|tx| Ok(tx.backend_ingest_refs()?))?;
        references.extend(held.into_iter().filter_map(|held| match held {
            Held::Ingest(reference) => Some(reference),
            _ => None,
        }));
        Ok(references)
    }

    /// The backend keys of all snapshots of `snapshotter`; to be used as
    /// [`Metadata::all_blob_digests`].
    ///
    /// # Errors
    /// Those of a damaged file: then nothing may be swept.
    pub fn all_backend_snapshot_names(
        &self,
        snapshotter: &str,
    ) -> base_errors::Result<BTreeSet<String>> {
        let held = self.inner.holds.now();
        let mut names = self.view(|tx| Ok(tx.backend_snapshot_names(snapshotter)?))?;
        names.extend(held.into_iter().filter_map(|held| match held {
            Held::Snapshot(of, name) if of == snapshotter => Some(name),
            _ => None,
        }));
        Ok(names)
    }
}

impl std::fmt::Debug for Metadata {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Metadata").field(&self.path()).finish()
    }
}

/// The records of one committed state, or of an update as it has come so far.
#[derive(Clone, Copy)]
pub struct View<'a> {
    pub(crate) root: Bucket<'a>,
}

impl<'a> View<'a> {
    /// The bucket at `path` in `namespace`.
    pub(crate) fn bucket(
        &self,
        namespace: &Namespace,
        path: &[&[u8]],
    ) -> Result<Option<Bucket<'a>>> {
        match self.root.path(&[ROOT, namespace.as_str().as_bytes()])? {
            Some(bucket) => Ok(bucket.path(path)?),
            None => Ok(None),
        }
    }
}

/// A write transaction on the records. Its errors undo everything that the closure did.
pub struct Update<'a, 'tx> {
    pub(crate) tx: &'a mut WriteTx<'tx>,
    pub(crate) dirty: Dirty,
    /// What was created, changed or leased; a collection that is on its way keeps it.
    touched: Vec<Name>,
}

impl<'a, 'tx> Update<'a, 'tx> {
    pub(crate) fn new(tx: &'a mut WriteTx<'tx>) -> Self {
        Update { tx, dirty: Dirty::default(), touched: Vec::new() }
    }
}

impl Update<'_, '_> {
    /// The records as this update sees them.
    #[must_use]
    pub fn view(&self) -> View<'_> {
        View { root: self.tx.read() }
    }

    /// Notes that the object at `path` in the scope's namespace is created or changed.
    pub(crate) fn touch(&mut self, scope: &Scope, path: &[&[u8]]) {
        if let Some(name) = Name::at(scope.ns(), path)
            && self.touched.last() != Some(&name)
        {
            self.touched.push(name);
        }
    }

    /// Notes that a lease holds `key` under `path` from now on.
    pub(crate) fn touch_leased(&mut self, scope: &Scope, path: &[&[u8]], key: &[u8]) {
        self.touched.extend(Name::leased(scope.ns(), path, key));
    }

    /// Notes when what has these labels expires.
    pub(crate) fn note_expiry(&mut self, labels: &Labels) {
        if let Some(text) = labels.get(EXPIRE)
            && let Ok(time) = timestamp::parse(text)
        {
            self.dirty.expires(time);
        }
    }

    /// The bucket at `path` in the scope's namespace, created with all on the way to it, in order to
    /// write to the object there.
    pub(crate) fn create(&mut self, scope: &Scope, path: &[&[u8]]) -> Result<BucketMut<'_>> {
        self.touch(scope, path);
        self.bucket_mut(scope, path)
    }

    fn bucket_mut(&mut self, scope: &Scope, path: &[&[u8]]) -> Result<BucketMut<'_>> {
        let mut full = vec![ROOT, scope.ns()];
        full.extend_from_slice(path);
        Ok(self.tx.create_bucket_if_missing(&full)?)
    }

    /// The bucket at `path` in the scope's namespace, if it is there, in order to remove from it.
    pub(crate) fn open(&mut self, scope: &Scope, path: &[&[u8]]) -> Result<Option<BucketMut<'_>>> {
        match self.view().bucket(&scope.namespace, path)? {
            Some(_) => self.bucket_mut(scope, path).map(Some),
            None => Ok(None),
        }
    }

    /// Removes the bucket `key` of the bucket at `path`; false if there is none.
    pub(crate) fn remove(&mut self, scope: &Scope, path: &[&[u8]], key: &[u8]) -> Result<bool> {
        let Some(mut bucket) = self.open(scope, path)? else { return Ok(false) };
        if bucket.as_read().bucket(key)?.is_none() {
            return Ok(false);
        }
        bucket.delete_bucket(key)?;
        Ok(true)
    }

    /// Enters `key` under `path` into the lease of the call, if there is one; says whether.
    pub(crate) fn lease(&mut self, scope: &Scope, path: &[&[u8]], key: &[u8]) -> Result<bool> {
        let Some(lease) = &scope.lease else { return Ok(false) };
        let missing = || MetadataError::NotFound(Object::CallLease(lease.clone()));
        let mut full = vec![LEASES, lease.as_bytes()];
        self.open(scope, &full)?.ok_or_else(missing)?;
        self.touch(scope, &full);
        self.touch_leased(scope, path, key);
        full.extend_from_slice(path);
        self.bucket_mut(scope, &full)?.put(key, b"")?;
        Ok(true)
    }

    /// Takes `key` under `path` out of the lease of the call, if both are there.
    pub(crate) fn unlease(&mut self, scope: &Scope, path: &[&[u8]], key: &[u8]) -> Result<()> {
        let Some(lease) = &scope.lease else { return Ok(()) };
        let mut full = vec![LEASES, lease.as_bytes()];
        full.extend_from_slice(path);
        if let Some(mut bucket) = self.open(scope, &full)? {
            bucket.delete(key)?;
        }
        Ok(())
    }
}
