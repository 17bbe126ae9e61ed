//! Writing: the write transaction and its buckets.

use std::sync::Arc;

use crate::error::text;
use crate::layout::{MAX_KEY, MAX_NESTING, MAX_TREE_DEPTH, MAX_VALUE, index};
use crate::node::{Child, Data, DirtyBucket, Items, Node, Value, leaf_position};
use crate::snapshot::{Snapshot, bucket_header};
use crate::{Bucket, Entry, Error};

/// Pages `start..start + len` that a transaction frees.
pub(crate) type Freed = Vec<(u64, u64)>;

/// What all closures of one commit have changed so far.
pub(crate) struct Changes {
    pub(crate) snapshot: Arc<Snapshot>,
    /// The top bucket.
    pub(crate) root: Arc<DirtyBucket>,
    pub(crate) freed: Freed,
    pub(crate) hooks: Vec<Box<dyn FnOnce() + Send>>,
}

/// A state to which [`Changes`] can go back.
pub(crate) struct Savepoint {
    root: Arc<DirtyBucket>,
    freed: usize,
    hooks: usize,
}

impl Changes {
    /// No changes to `snapshot`.
    pub(crate) fn new(snapshot: Arc<Snapshot>) -> Changes {
        let root = Arc::new(top(&snapshot));
        Changes { snapshot, root, freed: Vec::new(), hooks: Vec::new() }
    }

    /// Marks the present state. What follows copies the nodes that it changes.
    pub(crate) fn savepoint(&self) -> Savepoint {
        Savepoint { root: self.root.clone(), freed: self.freed.len(), hooks: self.hooks.len() }
    }

    /// Goes back to `savepoint`.
    pub(crate) fn undo(&mut self, savepoint: Savepoint) {
        self.root = savepoint.root;
        self.freed.truncate(savepoint.freed);
        self.hooks.truncate(savepoint.hooks);
    }

    /// Goes back to no changes at all.
    pub(crate) fn reset(&mut self) {
        self.root = Arc::new(top(&self.snapshot));
        self.freed.clear();
        self.hooks.clear();
    }
}

fn top(snapshot: &Snapshot) -> DirtyBucket {
    DirtyBucket {
        raw: None,
        sequence: snapshot.meta.sequence,
        changed: false,
        root: Child::Page(snapshot.meta.root),
        nesting: 0,
    }
}

/// A write transaction, as a closure of [`crate::Db::update`] sees it.
///
/// Keys and values are copied as they are put. A closure that returns an error or panics leaves
/// nothing behind; one that returns `Ok` is committed, together with others that waited.
pub struct WriteTx<'a> {
    changes: &'a mut Changes,
}

impl<'a> WriteTx<'a> {
    pub(crate) fn new(changes: &'a mut Changes) -> WriteTx<'a> {
        WriteTx { changes }
    }

    /// The bucket that holds all others, to write.
    pub fn root(&mut self) -> BucketMut<'_> {
        BucketMut {
            snapshot: &self.changes.snapshot,
            freed: &mut self.changes.freed,
            bucket: Arc::make_mut(&mut self.changes.root),
        }
    }

    /// The bucket that holds all others, to read; sees this transaction's own writes.
    #[must_use]
    pub fn read(&self) -> Bucket<'_> {
        Bucket::dirty(&self.changes.snapshot, &self.changes.root)
    }

    /// The top bucket `name`, if there is one.
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub fn bucket(&mut self, name: &[u8]) -> Result<Option<BucketMut<'_>>, Error> {
        if self.read().bucket(name)?.is_none() {
            return Ok(None);
        }
        self.root().open(name).map(Some)
    }

    /// The bucket at `path`; those that are missing on the way are created.
    ///
    /// # Errors
    /// As [`BucketMut::create_bucket_if_missing`].
    pub fn create_bucket_if_missing(&mut self, path: &[&[u8]]) -> Result<BucketMut<'_>, Error> {
        let mut bucket = self.root();
        for name in path {
            bucket.make(name, false)?;
            bucket = bucket.open(name)?;
        }
        Ok(bucket)
    }

    /// Runs `f` after the commit is durable, before the update's caller hears of it. Dropped
    /// unrun if the closure or the commit fails. `f` must be short, because the writer waits for
    /// it, and cannot update the same database.
    pub fn on_commit(&mut self, f: impl FnOnce() + Send + 'static) {
        self.changes.hooks.push(Box::new(f));
    }
}

/// A bucket to write.
pub struct BucketMut<'a> {
    snapshot: &'a Snapshot,
    freed: &'a mut Freed,
    bucket: &'a mut DirtyBucket,
}

impl<'a> BucketMut<'a> {
    /// This bucket, to read.
    #[must_use]
    pub fn as_read(&self) -> Bucket<'_> {
        Bucket::dirty(self.snapshot, self.bucket)
    }

    /// The value at `key`; none if it is absent or a bucket.
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub fn get(&self, key: &[u8]) -> Result<Option<&[u8]>, Error> {
        self.as_read().get(key)
    }

    /// The bucket `name`, which is known to exist.
    fn open(self, name: &[u8]) -> Result<BucketMut<'a>, Error> {
        let BucketMut { snapshot, freed, bucket } = self;
        let nesting = bucket.nesting + 1;
        let (node, at) = bucket.root.leaf_mut(snapshot, name, 0)?;
        let page = node.page();
        let Items::Leaf(items) = &mut node.items else {
            return Err(snapshot.corrupt(page, "is a branch"));
        };
        let Some(item) = items.get_mut(at).filter(|item| item.key.get(snapshot) == name) else {
            return Err(Error::BucketNotFound { name: text(name) });
        };
        if let Value::Bucket(raw) = &item.value {
            let opened = DirtyBucket::load(snapshot, page, raw, nesting)?;
            item.value = Value::Open(Arc::new(opened));
        }
        match &mut item.value {
            Value::Open(bucket) => Ok(BucketMut { snapshot, freed, bucket: Arc::make_mut(bucket) }),
            _ => Err(Error::IncompatibleValue { key: text(name) }),
        }
    }

    fn reborrow(&mut self) -> BucketMut<'_> {
        BucketMut { snapshot: self.snapshot, freed: self.freed, bucket: self.bucket }
    }

    /// The bucket `name` in this one; none if it is absent or a value.
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub fn bucket(&mut self, name: &[u8]) -> Result<Option<BucketMut<'_>>, Error> {
        if self.as_read().bucket(name)?.is_none() {
            return Ok(None);
        }
        self.reborrow().open(name).map(Some)
    }

    /// The bucket found by going down `names`.
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub fn bucket_path(&mut self, names: &[&[u8]]) -> Result<Option<BucketMut<'_>>, Error> {
        if self.as_read().path(names)?.is_none() {
            return Ok(None);
        }
        let mut bucket = self.reborrow();
        for name in names {
            bucket = bucket.open(name)?;
        }
        Ok(Some(bucket))
    }

    /// Creates the bucket `name` if it is missing; one that exists is an error if `fresh`.
    fn make(&mut self, name: &[u8], fresh: bool) -> Result<(), Error> {
        check_key(name)?;
        match self.as_read().entry_at(name)? {
            Some(Entry::Bucket(_)) if fresh => Err(Error::BucketExists { name: text(name) }),
            Some(Entry::Bucket(_)) => Ok(()),
            Some(Entry::Value(_)) => Err(Error::IncompatibleValue { key: text(name) }),
            None => {
                let nesting = self.bucket.nesting + 1;
                if nesting > MAX_NESTING {
                    return Err(Error::NestedTooDeep { limit: MAX_NESTING });
                }
                let value = Value::Open(Arc::new(DirtyBucket::new(nesting)));
                self.bucket.insert(self.snapshot, name, value)
            }
        }
    }

    /// Creates the bucket `name`.
    ///
    /// # Errors
    /// [`Error::BucketExists`]; [`Error::IncompatibleValue`] if `name` is a value; as
    /// [`BucketMut::put`] for the name.
    pub fn create_bucket(&mut self, name: &[u8]) -> Result<BucketMut<'_>, Error> {
        self.make(name, true)?;
        self.reborrow().open(name)
    }

    /// The bucket `name`, created if it is missing.
    ///
    /// # Errors
    /// [`Error::IncompatibleValue`] if `name` is a value; as [`BucketMut::put`] for the name.
    pub fn create_bucket_if_missing(&mut self, name: &[u8]) -> Result<BucketMut<'_>, Error> {
        self.make(name, false)?;
        self.reborrow().open(name)
    }

    /// Sets `key` to `value`, which may be empty. Setting what is there already writes nothing.
    ///
    /// # Errors
    /// [`Error::KeyRequired`], [`Error::KeyTooLarge`], [`Error::ValueTooLarge`];
    /// [`Error::IncompatibleValue`] if `key` is a bucket; [`Error::Corrupt`].
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        check_key(key)?;
        if value.len() > MAX_VALUE {
            return Err(Error::ValueTooLarge { len: value.len() });
        }
        match self.as_read().entry_at(key)? {
            Some(Entry::Bucket(_)) => Err(Error::IncompatibleValue { key: text(key) }),
            Some(Entry::Value(old)) if old == value => Ok(()),
            _ => {
                let value = Value::Plain(Data::Heap(Arc::from(value)));
                self.bucket.insert(self.snapshot, key, value)
            }
        }
    }

    /// Removes the value at `key`. It is no error if there is none.
    ///
    /// # Errors
    /// [`Error::IncompatibleValue`] if `key` is a bucket; [`Error::Corrupt`].
    pub fn delete(&mut self, key: &[u8]) -> Result<(), Error> {
        match self.as_read().entry_at(key)? {
            None => Ok(()),
            Some(Entry::Bucket(_)) => Err(Error::IncompatibleValue { key: text(key) }),
            Some(Entry::Value(_)) => self.remove(key).map(drop),
        }
    }

    /// Removes the bucket `name` and all in it.
    ///
    /// # Errors
    /// [`Error::BucketNotFound`]; [`Error::IncompatibleValue`] if `name` is a value;
    /// [`Error::Corrupt`], and then the bucket stays.
    pub fn delete_bucket(&mut self, name: &[u8]) -> Result<(), Error> {
        match self.as_read().entry_at(name) {
            Ok(None) => return Err(Error::BucketNotFound { name: text(name) }),
            Ok(Some(Entry::Value(_))) => return Err(Error::IncompatibleValue { key: text(name) }),
            Ok(Some(Entry::Bucket(_))) => {}
            Err(error) => return Err(error),
        }
        let (node, at) = self.bucket.root.leaf_mut(self.snapshot, name, 0)?;
        let page = node.page();
        let mark = self.freed.len();
        let mut walk = Walk {
            snapshot: self.snapshot,
            budget: index(self.snapshot.meta.high_water),
            freed: self.freed,
        };
        if let Items::Leaf(items) = &node.items
            && let Some(item) = items.get(at)
            && let Err(error) = walk.value(&item.value, page, self.bucket.nesting + 1)
        {
            self.freed.truncate(mark);
            return Err(error);
        }
        self.remove(name).map(drop)
    }

    /// Takes the item `key` out of its leaf.
    fn remove(&mut self, key: &[u8]) -> Result<Option<Value>, Error> {
        let (node, _) = self.bucket.root.leaf_mut(self.snapshot, key, 0)?;
        let Items::Leaf(items) = &mut node.items else { return Ok(None) };
        let Ok(at) = leaf_position(items, self.snapshot, key) else { return Ok(None) };
        let item = items.remove(at);
        node.changed = true;
        node.shrunk = true;
        Ok(Some(item.value))
    }

    /// The bucket's sequence number.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.bucket.sequence
    }

    /// Sets the sequence number.
    pub fn set_sequence(&mut self, sequence: u64) {
        if self.bucket.sequence != sequence {
            self.bucket.sequence = sequence;
            self.bucket.changed = true;
        }
    }

    /// Adds one to the sequence number and returns it.
    ///
    /// # Errors
    /// None today; a result as in bbolt.
    pub fn next_sequence(&mut self) -> Result<u64, Error> {
        self.set_sequence(self.bucket.sequence.wrapping_add(1));
        Ok(self.bucket.sequence)
    }
}

fn check_key(key: &[u8]) -> Result<(), Error> {
    match key.len() {
        0 => Err(Error::KeyRequired),
        len if len > MAX_KEY => Err(Error::KeyTooLarge { len }),
        _ => Ok(()),
    }
}

/// Collects the pages of a bucket that is deleted.
struct Walk<'a> {
    snapshot: &'a Snapshot,
    /// Pages that may still be visited: a damaged tree may have loops.
    budget: usize,
    freed: &'a mut Freed,
}

impl Walk<'_> {
    fn value(&mut self, value: &Value, page: u64, nesting: usize) -> Result<(), Error> {
        match value {
            Value::Plain(_) | Value::Written(..) => Ok(()),
            Value::Open(bucket) => self.child(&bucket.root, 0, nesting),
            Value::Bucket(raw) => self.raw(raw.get(self.snapshot), page, nesting),
        }
    }

    /// A bucket that was never opened, by its stored value.
    fn raw(&mut self, raw: &[u8], page: u64, nesting: usize) -> Result<(), Error> {
        if nesting > MAX_NESTING {
            return Err(self.snapshot.corrupt(page, "buckets are nested too deep"));
        }
        match bucket_header(self.snapshot, page, raw)?.root {
            Some(root) => self.page(root, 0, nesting),
            // An inline bucket has no pages, and by the format no buckets.
            None => Ok(()),
        }
    }

    fn child(&mut self, child: &Child, depth: usize, nesting: usize) -> Result<(), Error> {
        match child {
            Child::Page(id) => self.page(*id, depth, nesting),
            Child::Node(node) => self.node(node, depth, nesting),
        }
    }

    fn node(&mut self, node: &Node, depth: usize, nesting: usize) -> Result<(), Error> {
        if let Some(origin) = node.origin {
            self.freed.push((origin.page, origin.pages));
        }
        match &node.items {
            Items::Leaf(items) => {
                items.iter().try_for_each(|item| self.value(&item.value, node.page(), nesting + 1))
            }
            Items::Branch(items) => {
                items.iter().try_for_each(|item| self.child(&item.child, depth + 1, nesting))
            }
        }
    }

    fn page(&mut self, id: u64, depth: usize, nesting: usize) -> Result<(), Error> {
        let page = self.snapshot.page(id)?;
        if depth >= MAX_TREE_DEPTH {
            return Err(self.snapshot.corrupt(id, "tree is too deep"));
        }
        if self.budget == 0 {
            return Err(self.snapshot.corrupt(id, "pages form a loop"));
        }
        self.budget -= 1;
        self.freed.push((id, page.pages()));
        if page.tree()? {
            for i in 0..page.count {
                let element = page.leaf_element(i)?;
                if element.bucket {
                    self.raw(page.slice(element.value), id, nesting + 1)?;
                }
            }
        } else {
            for i in 0..page.count {
                self.page(page.branch_element(i)?.1, depth + 1, nesting)?;
            }
        }
        Ok(())
    }
}
