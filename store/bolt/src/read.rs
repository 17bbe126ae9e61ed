//! Reading: transactions, buckets, iterators.

use std::sync::Arc;

use crate::Error;
use crate::layout::{BUCKET_HEADER, MAX_NESTING, MAX_TREE_DEPTH, index};
use crate::node::{Child, DirtyBucket, Items, Node, Value, branch_position, leaf_position};
use crate::snapshot::{Page, Snapshot, Span, bucket_header};

/// A snapshot of the database. It stays as it is while commits go on, and keeps its pages from
/// being reused: hold it for as long as needed and no longer. Never blocks a writer.
#[derive(Clone)]
pub struct ReadTx {
    snapshot: Arc<Snapshot>,
}

impl ReadTx {
    pub(crate) fn new(snapshot: Arc<Snapshot>) -> ReadTx {
        ReadTx { snapshot }
    }

    /// The bucket that holds all others.
    #[must_use]
    pub fn root(&self) -> Bucket<'_> {
        Bucket::top(&self.snapshot)
    }

    /// The top bucket `name`, if there is one.
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub fn bucket(&self, name: &[u8]) -> Result<Option<Bucket<'_>>, Error> {
        self.root().bucket(name)
    }

    /// The number of the commit that made this state.
    #[must_use]
    pub fn txid(&self) -> u64 {
        self.snapshot.meta.txid
    }

    pub(crate) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }
}

/// A bucket to read, of a [`ReadTx`] or of a write transaction. Costs nothing to copy.
#[derive(Clone, Copy)]
pub struct Bucket<'a> {
    snapshot: &'a Snapshot,
    root: Root<'a>,
    sequence: u64,
    nesting: usize,
}

/// Where a bucket's tree starts.
#[derive(Clone, Copy)]
enum Root<'a> {
    Page(u64),
    Inline { page: u64, span: Span },
    Node(&'a Node),
}

/// A page or a node on the way down.
#[derive(Clone, Copy)]
enum Place<'a> {
    Page(Page<'a>),
    Node(&'a Node),
}

impl<'a> Place<'a> {
    fn id(&self) -> u64 {
        match self {
            Place::Page(page) => page.id,
            Place::Node(node) => node.page(),
        }
    }

    fn leaf(&self) -> Result<bool, Error> {
        match self {
            Place::Page(page) => page.tree(),
            Place::Node(node) => Ok(matches!(node.items, Items::Leaf(_))),
        }
    }

    fn count(&self) -> usize {
        match self {
            Place::Page(page) => page.count,
            Place::Node(node) => node.len(),
        }
    }

    fn child(&self, snapshot: &'a Snapshot, at: usize) -> Result<Place<'a>, Error> {
        let id = match self {
            Place::Page(page) => page.branch_element(at)?.1,
            Place::Node(node) => match &node.items {
                Items::Branch(items) => match items.get(at).map(|item| &item.child) {
                    Some(Child::Node(node)) => return Ok(Place::Node(node)),
                    Some(Child::Page(id)) => *id,
                    None => return Err(snapshot.corrupt(node.page(), "branch has no children")),
                },
                Items::Leaf(_) => return Err(snapshot.corrupt(node.page(), "is a leaf")),
            },
        };
        Ok(Place::Page(snapshot.page(id)?))
    }

    fn child_for(&self, snapshot: &'a Snapshot, key: &[u8]) -> Result<usize, Error> {
        match self {
            Place::Page(page) => page.child_for(key),
            Place::Node(node) => match &node.items {
                Items::Branch(items) => Ok(branch_position(items, snapshot, key)),
                Items::Leaf(_) => Ok(0),
            },
        }
    }

    /// In a leaf: the first item whose key is not less than `key`, and whether it is equal.
    fn search(&self, snapshot: &'a Snapshot, key: &[u8]) -> Result<(usize, bool), Error> {
        match self {
            Place::Page(page) => page.search(key),
            Place::Node(node) => match &node.items {
                Items::Leaf(items) => Ok(match leaf_position(items, snapshot, key) {
                    Ok(at) => (at, true),
                    Err(at) => (at, false),
                }),
                Items::Branch(_) => Err(snapshot.corrupt(node.page(), "is a branch")),
            },
        }
    }
}

/// A leaf's item, not yet made into an [`Entry`].
enum Raw<'a> {
    Value(&'a [u8]),
    Stored(u64, Span),
    Open(&'a DirtyBucket),
}

impl<'a> Bucket<'a> {
    /// The top bucket of a state.
    pub(crate) fn top(snapshot: &'a Snapshot) -> Bucket<'a> {
        Bucket {
            snapshot,
            root: Root::Page(snapshot.meta.root),
            sequence: snapshot.meta.sequence,
            nesting: 0,
        }
    }

    /// A bucket that a write transaction opened.
    pub(crate) fn dirty(snapshot: &'a Snapshot, bucket: &'a DirtyBucket) -> Bucket<'a> {
        let root = match &bucket.root {
            Child::Page(id) => Root::Page(*id),
            Child::Node(node) => Root::Node(node),
        };
        Bucket { snapshot, root, sequence: bucket.sequence, nesting: bucket.nesting }
    }

    /// A bucket whose value lies at `span` of the file, on page `id`.
    fn stored(
        snapshot: &'a Snapshot,
        id: u64,
        span: Span,
        nesting: usize,
    ) -> Result<Bucket<'a>, Error> {
        if nesting > MAX_NESTING {
            return Err(snapshot.corrupt(id, "buckets are nested too deep"));
        }
        let header = bucket_header(snapshot, id, snapshot.bytes(span.at, span.len))?;
        let root = match header.root {
            Some(root) => Root::Page(root),
            None => Root::Inline {
                page: id,
                span: Span { at: span.at + BUCKET_HEADER, len: span.len - BUCKET_HEADER },
            },
        };
        Ok(Bucket { snapshot, root, sequence: header.sequence, nesting })
    }

    fn place(&self) -> Result<Place<'a>, Error> {
        match self.root {
            Root::Page(id) => Ok(Place::Page(self.snapshot.page(id)?)),
            Root::Inline { page, span } => {
                Ok(Place::Page(self.snapshot.inline(page, span.at, span.len)?))
            }
            Root::Node(node) => Ok(Place::Node(node)),
        }
    }

    /// The root page, or none for a bucket that is inline or changed.
    pub(crate) fn root_page(&self) -> Option<u64> {
        match self.root {
            Root::Page(id) => Some(id),
            Root::Inline { .. } | Root::Node(_) => None,
        }
    }

    fn raw(&self, place: &Place<'a>, at: usize) -> Result<(&'a [u8], Raw<'a>), Error> {
        match place {
            Place::Page(page) => {
                let element = page.leaf_element(at)?;
                let raw = if element.bucket {
                    Raw::Stored(page.id, element.value)
                } else {
                    Raw::Value(page.slice(element.value))
                };
                Ok((page.slice(element.key), raw))
            }
            Place::Node(node) => {
                let Items::Leaf(items) = &node.items else {
                    return Err(self.snapshot.corrupt(node.page(), "is a branch"));
                };
                let Some(item) = items.get(at) else {
                    return Err(self.snapshot.corrupt(node.page(), "has no such element"));
                };
                let raw = match &item.value {
                    Value::Plain(data) => Raw::Value(data.get(self.snapshot)),
                    Value::Open(bucket) => Raw::Open(bucket),
                    Value::Bucket(crate::node::Data::File(span)) => Raw::Stored(node.page(), *span),
                    Value::Bucket(_) | Value::Written(..) => {
                        return Err(self.snapshot.corrupt(node.page(), "is being written"));
                    }
                };
                Ok((item.key.get(self.snapshot), raw))
            }
        }
    }

    fn entry(&self, raw: Raw<'a>) -> Result<Entry<'a>, Error> {
        Ok(match raw {
            Raw::Value(value) => Entry::Value(value),
            Raw::Stored(id, span) => {
                Entry::Bucket(Bucket::stored(self.snapshot, id, span, self.nesting + 1)?)
            }
            Raw::Open(bucket) => Entry::Bucket(Bucket::dirty(self.snapshot, bucket)),
        })
    }

    fn find(&self, key: &[u8]) -> Result<Option<Raw<'a>>, Error> {
        let mut place = self.place()?;
        for _ in 0..MAX_TREE_DEPTH {
            if place.leaf()? {
                let (at, exact) = place.search(self.snapshot, key)?;
                return if exact { Ok(Some(self.raw(&place, at)?.1)) } else { Ok(None) };
            }
            let at = place.child_for(self.snapshot, key)?;
            place = place.child(self.snapshot, at)?;
        }
        Err(self.snapshot.corrupt(place.id(), "tree is too deep"))
    }

    /// What `key` holds.
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub fn entry_at(&self, key: &[u8]) -> Result<Option<Entry<'a>>, Error> {
        self.find(key)?.map(|raw| self.entry(raw)).transpose()
    }

    /// The value at `key`; none if it is absent or a bucket.
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub fn get(&self, key: &[u8]) -> Result<Option<&'a [u8]>, Error> {
        Ok(match self.find(key)? {
            Some(Raw::Value(value)) => Some(value),
            _ => None,
        })
    }

    /// The bucket `name` in this one; none if it is absent or a value.
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub fn bucket(&self, name: &[u8]) -> Result<Option<Bucket<'a>>, Error> {
        Ok(match self.entry_at(name)? {
            Some(Entry::Bucket(bucket)) => Some(bucket),
            _ => None,
        })
    }

    /// The bucket found by going down `names`.
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub fn path(&self, names: &[&[u8]]) -> Result<Option<Bucket<'a>>, Error> {
        let mut bucket = *self;
        for name in names {
            match bucket.bucket(name)? {
                Some(next) => bucket = next,
                None => return Ok(None),
            }
        }
        Ok(Some(bucket))
    }

    /// The bucket's sequence number.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// All entries in the order of their keys.
    #[must_use]
    pub fn iter(&self) -> Iter<'a> {
        let mut iter = Iter::new(*self);
        match self.place() {
            Ok(place) => iter.push(place, 0),
            Err(error) => iter.failed = Some(error),
        }
        iter
    }

    /// The entries from `start` on (the first key that is not less).
    #[must_use]
    pub fn range_from(&self, start: &[u8]) -> Iter<'a> {
        let mut iter = Iter::new(*self);
        if let Err(error) = iter.seek(start) {
            iter.failed = Some(error);
        }
        iter
    }

    /// True if there is neither a value nor a bucket.
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub fn is_empty(&self) -> Result<bool, Error> {
        match self.iter().next() {
            None => Ok(true),
            Some(Ok(_)) => Ok(false),
            Some(Err(error)) => Err(error),
        }
    }
}

impl<'a> IntoIterator for Bucket<'a> {
    type Item = Result<(&'a [u8], Entry<'a>), Error>;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

impl<'a> IntoIterator for &Bucket<'a> {
    type Item = Result<(&'a [u8], Entry<'a>), Error>;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

/// What a key holds.
#[derive(Clone, Copy)]
pub enum Entry<'a> {
    /// A value.
    Value(&'a [u8]),
    /// A nested bucket.
    Bucket(Bucket<'a>),
}

impl<'a> Entry<'a> {
    /// The value, unless it is a bucket.
    #[must_use]
    pub fn value(&self) -> Option<&'a [u8]> {
        match self {
            Entry::Value(value) => Some(value),
            Entry::Bucket(_) => None,
        }
    }

    /// The bucket, unless it is a value.
    #[must_use]
    pub fn bucket(&self) -> Option<Bucket<'a>> {
        match self {
            Entry::Value(_) => None,
            Entry::Bucket(bucket) => Some(*bucket),
        }
    }
}

/// Entries of a bucket in the order of their keys.
///
/// A damaged entry or page is given as an error and left out; what follows it is still given,
/// unless the order of the keys is broken. Always ends: no page is visited more
/// often than the file has pages.
pub struct Iter<'a> {
    bucket: Bucket<'a>,
    /// Where the iteration is, with the next child or item: no small bucket needs the stack.
    here: Option<(Place<'a>, usize)>,
    /// The way down to there: each branch with its next child.
    stack: Vec<(Place<'a>, usize)>,
    last: Option<&'a [u8]>,
    /// Pages that may still be visited.
    budget: usize,
    failed: Option<Error>,
}

impl<'a> Iter<'a> {
    fn new(bucket: Bucket<'a>) -> Iter<'a> {
        let budget = index(bucket.snapshot.meta.high_water);
        Iter { bucket, here: None, stack: Vec::new(), last: None, budget, failed: None }
    }

    fn push(&mut self, place: Place<'a>, at: usize) {
        if let Place::Page(page) = place {
            if self.budget == 0 {
                self.fail(self.bucket.snapshot.corrupt(page.id, "pages form a loop"));
                return;
            }
            self.budget -= 1;
        }
        if let Some(above) = self.here.replace((place, at)) {
            self.stack.push(above);
        }
        if self.stack.len() >= MAX_TREE_DEPTH {
            self.fail(self.bucket.snapshot.corrupt(place.id(), "tree is too deep"));
        }
    }

    /// Ends the iteration with `error`.
    fn fail(&mut self, error: Error) {
        self.here = None;
        self.stack.clear();
        self.failed = Some(error);
    }

    fn seek(&mut self, start: &[u8]) -> Result<(), Error> {
        let snapshot = self.bucket.snapshot;
        let mut place = self.bucket.place()?;
        while self.failed.is_none() {
            if place.leaf()? {
                let (at, _) = place.search(snapshot, start)?;
                self.push(place, at);
                break;
            }
            let at = place.child_for(snapshot, start)?;
            self.push(place, at + 1);
            place = place.child(snapshot, at)?;
        }
        Ok(())
    }
}

impl<'a> Iterator for Iter<'a> {
    type Item = Result<(&'a [u8], Entry<'a>), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(error) = self.failed.take() {
                return Some(Err(error));
            }
            let (place, at) = self.here.as_mut()?;
            let place = *place;
            let now = *at;
            if now >= place.count() {
                self.here = self.stack.pop();
                continue;
            }
            *at += 1;
            match place.leaf() {
                Ok(true) => {}
                Ok(false) => {
                    match place.child(self.bucket.snapshot, now) {
                        Ok(child) => self.push(child, 0),
                        Err(error) => return Some(Err(error)),
                    }
                    continue;
                }
                Err(error) => {
                    self.here = self.stack.pop();
                    return Some(Err(error));
                }
            }
            let (key, raw) = match self.bucket.raw(&place, now) {
                Ok(item) => item,
                Err(error) => return Some(Err(error)),
            };
            if self.last.is_some_and(|last| last >= key) {
                self.fail(self.bucket.snapshot.corrupt(place.id(), "keys are out of order"));
                continue;
            }
            self.last = Some(key);
            return Some(self.bucket.entry(raw).map(|entry| (key, entry)));
        }
    }
}
