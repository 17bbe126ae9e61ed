//! The tree as a write transaction changes it: pages taken into memory, shared until written.
//!
//! Nodes hang on `Arc`s. A savepoint is a second reference to the root; a change copies the nodes
//! on its path that a savepoint shares, and nothing else. Opened buckets hang in the leaf of
//! their parent, so one root holds all that a transaction changed.

use std::sync::Arc;

use crate::Error;
use crate::layout::{BUCKET_HEADER, ELEMENT, MAX_NESTING, MAX_TREE_DEPTH, PAGE_HEADER};
use crate::snapshot::{Page, Snapshot, Span, bucket_header};

/// A node of more items is cut in two at once, so that an insert never moves more than this.
const MAX_ITEMS: usize = 1024;

/// Bytes of the file or of the heap.
#[derive(Clone)]
pub(crate) enum Data {
    File(Span),
    Heap(Arc<[u8]>),
}

impl Data {
    pub(crate) fn get<'a>(&'a self, snapshot: &'a Snapshot) -> &'a [u8] {
        match self {
            Data::File(span) => snapshot.bytes(span.at, span.len),
            Data::Heap(bytes) => bytes,
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Data::File(span) => span.len,
            Data::Heap(bytes) => bytes.len(),
        }
    }
}

/// The pages from which a node came; freed when the node is written elsewhere.
#[derive(Clone, Copy)]
pub(crate) struct Origin {
    pub(crate) page: u64,
    pub(crate) pages: u64,
}

/// A page in memory.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) origin: Option<Origin>,
    /// The node itself differs from its origin; says nothing about what is below.
    pub(crate) changed: bool,
    /// It lost items: it may be too small now.
    pub(crate) shrunk: bool,
    pub(crate) items: Items,
}

#[derive(Clone)]
pub(crate) enum Items {
    Leaf(Vec<LeafItem>),
    Branch(Vec<BranchItem>),
}

#[derive(Clone)]
pub(crate) struct LeafItem {
    pub(crate) key: Data,
    pub(crate) value: Value,
}

/// What a leaf's item holds.
#[derive(Clone)]
pub(crate) enum Value {
    Plain(Data),
    /// A bucket that was not opened: its value as stored.
    Bucket(Data),
    /// A bucket opened for writing.
    Open(Arc<DirtyBucket>),
    /// A bucket that was just written: only while a commit runs.
    Written(Ref, u64),
}

#[derive(Clone)]
pub(crate) struct BranchItem {
    pub(crate) key: Data,
    pub(crate) child: Child,
}

/// A page, or the node that replaces it.
#[derive(Clone)]
pub(crate) enum Child {
    Page(u64),
    Node(Arc<Node>),
}

/// A page of the file, or one of the commit that is being made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ref {
    Page(u64),
    New(u64),
}

/// A bucket opened for writing.
#[derive(Clone)]
pub(crate) struct DirtyBucket {
    /// Its value as stored; none if it is new.
    pub(crate) raw: Option<Data>,
    pub(crate) sequence: u64,
    /// The header differs from `raw`; says nothing about the tree.
    pub(crate) changed: bool,
    pub(crate) root: Child,
    /// How many buckets are around it.
    pub(crate) nesting: usize,
}

impl Node {
    /// A leaf without items.
    pub(crate) fn empty() -> Node {
        Node { origin: None, changed: true, shrunk: false, items: Items::Leaf(Vec::new()) }
    }

    /// Takes `page` into memory. `stored` is false for an inline page, which has no origin.
    fn load(page: &Page<'_>, stored: bool) -> Result<Node, Error> {
        let items = if page.tree()? {
            let mut items = Vec::with_capacity(page.count + 1);
            for i in 0..page.count {
                let element = page.leaf_element(i)?;
                let value = Data::File(element.value);
                let value = if element.bucket { Value::Bucket(value) } else { Value::Plain(value) };
                items.push(LeafItem { key: Data::File(element.key), value });
            }
            Items::Leaf(items)
        } else {
            let mut items = Vec::with_capacity(page.count + 1);
            for i in 0..page.count {
                let (key, child) = page.branch_element(i)?;
                items.push(BranchItem { key: Data::File(key), child: Child::Page(child) });
            }
            Items::Branch(items)
        };
        let origin = stored.then(|| Origin { page: page.id, pages: page.pages() });
        Ok(Node { origin, changed: false, shrunk: false, items })
    }

    pub(crate) fn len(&self) -> usize {
        match &self.items {
            Items::Leaf(items) => items.len(),
            Items::Branch(items) => items.len(),
        }
    }

    pub(crate) fn leaf(&self) -> bool {
        matches!(self.items, Items::Leaf(_))
    }

    /// The page to name in an error about this node.
    pub(crate) fn page(&self) -> u64 {
        self.origin.map_or(0, |origin| origin.page)
    }

    /// Bytes that this node takes as a page.
    pub(crate) fn size(&self) -> usize {
        let items: usize = match &self.items {
            Items::Leaf(items) => items.iter().map(LeafItem::size).sum(),
            Items::Branch(items) => items.iter().map(|item| ELEMENT + item.key.len()).sum(),
        };
        PAGE_HEADER + items
    }

    /// Takes the upper half into a node of its own.
    fn halve(&mut self) -> Node {
        let middle = self.len() / 2;
        let items = match &mut self.items {
            Items::Leaf(items) => Items::Leaf(items.split_off(middle)),
            Items::Branch(items) => Items::Branch(items.split_off(middle)),
        };
        self.changed = true;
        Node { origin: None, changed: true, shrunk: false, items }
    }
}

impl LeafItem {
    /// Bytes that this item takes in a page.
    pub(crate) fn size(&self) -> usize {
        let value = match &self.value {
            Value::Plain(value) | Value::Bucket(value) => value.len(),
            Value::Open(bucket) => bucket.raw.as_ref().map_or(BUCKET_HEADER, Data::len),
            Value::Written(..) => BUCKET_HEADER,
        };
        ELEMENT + self.key.len() + value
    }
}

/// The position of `key`, or where it would be.
pub(crate) fn leaf_position(
    items: &[LeafItem],
    snapshot: &Snapshot,
    key: &[u8],
) -> Result<usize, usize> {
    items.binary_search_by(|item| item.key.get(snapshot).cmp(key))
}

/// Which child may hold `key`; none if there are no children.
pub(crate) fn branch_position(items: &[BranchItem], snapshot: &Snapshot, key: &[u8]) -> usize {
    match items.binary_search_by(|item| item.key.get(snapshot).cmp(key)) {
        Ok(at) => at,
        Err(at) => at.saturating_sub(1),
    }
}

impl Child {
    /// The node, taken into memory if it is still a page, and made our own if a savepoint shares
    /// it.
    pub(crate) fn node_mut(&mut self, snapshot: &Snapshot) -> Result<&mut Node, Error> {
        if let Child::Page(id) = self {
            *self = Child::Node(Arc::new(Node::load(&snapshot.page(*id)?, true)?));
        }
        match self {
            Child::Node(node) => Ok(Arc::make_mut(node)),
            Child::Page(id) => Err(snapshot.corrupt(*id, "not in memory")),
        }
    }

    /// The leaf that holds `key` or would hold it.
    pub(crate) fn leaf_mut(
        &mut self,
        snapshot: &Snapshot,
        key: &[u8],
        depth: usize,
    ) -> Result<(&mut Node, usize), Error> {
        let node = self.node_mut(snapshot)?;
        check_depth(snapshot, node, depth)?;
        let at = match &node.items {
            Items::Leaf(items) => {
                let (Ok(at) | Err(at)) = leaf_position(items, snapshot, key);
                return Ok((node, at));
            }
            Items::Branch(items) => branch_position(items, snapshot, key),
        };
        let page = node.page();
        match &mut node.items {
            Items::Branch(items) => match items.get_mut(at) {
                Some(item) => item.child.leaf_mut(snapshot, key, depth + 1),
                None => Err(snapshot.corrupt(page, "branch has no children")),
            },
            Items::Leaf(_) => Err(snapshot.corrupt(page, "changed its kind")),
        }
    }

    /// Sets `key` to `value`. Returns the right half if the node had to be cut in two.
    pub(crate) fn insert(
        &mut self,
        snapshot: &Snapshot,
        key: Data,
        value: Value,
        depth: usize,
    ) -> Result<Option<BranchItem>, Error> {
        let node = self.node_mut(snapshot)?;
        check_depth(snapshot, node, depth)?;
        let page = node.page();
        match &mut node.items {
            Items::Leaf(items) => match leaf_position(items, snapshot, key.get(snapshot)) {
                Ok(at) => {
                    items[at].value = value;
                    node.changed = true;
                }
                Err(at) => {
                    items.insert(at, LeafItem { key, value });
                    node.changed = true;
                }
            },
            Items::Branch(items) => {
                let at = branch_position(items, snapshot, key.get(snapshot));
                let Some(item) = items.get_mut(at) else {
                    return Err(snapshot.corrupt(page, "branch has no children"));
                };
                if let Some(right) = item.child.insert(snapshot, key, value, depth + 1)? {
                    items.insert(at + 1, right);
                    node.changed = true;
                }
            }
        }
        if node.len() <= MAX_ITEMS {
            return Ok(None);
        }
        let right = node.halve();
        let key = match &right.items {
            Items::Leaf(items) => items[0].key.clone(),
            Items::Branch(items) => items[0].key.clone(),
        };
        Ok(Some(BranchItem { key, child: Child::Node(Arc::new(right)) }))
    }
}

fn check_depth(snapshot: &Snapshot, node: &Node, depth: usize) -> Result<(), Error> {
    if depth >= MAX_TREE_DEPTH {
        return Err(snapshot.corrupt(node.page(), "tree is too deep"));
    }
    Ok(())
}

impl DirtyBucket {
    /// A bucket that does not exist yet.
    pub(crate) fn new(nesting: usize) -> DirtyBucket {
        DirtyBucket {
            raw: None,
            sequence: 0,
            changed: true,
            root: Child::Node(Arc::new(Node::empty())),
            nesting,
        }
    }

    /// The bucket whose stored value is `raw`, found on `page`.
    pub(crate) fn load(
        snapshot: &Snapshot,
        page: u64,
        raw: &Data,
        nesting: usize,
    ) -> Result<DirtyBucket, Error> {
        if nesting > MAX_NESTING {
            return Err(snapshot.corrupt(page, "buckets are nested too deep"));
        }
        let header = bucket_header(snapshot, page, raw.get(snapshot))?;
        let root = match (header.root, raw) {
            (Some(root), _) => Child::Page(root),
            (None, Data::File(span)) => {
                let inline =
                    snapshot.inline(page, span.at + BUCKET_HEADER, span.len - BUCKET_HEADER)?;
                Child::Node(Arc::new(Node::load(&inline, false)?))
            }
            // Only a commit makes inline buckets on the heap, and nothing is opened during it.
            (None, Data::Heap(_)) => return Err(snapshot.corrupt(page, "bucket is not stored")),
        };
        Ok(DirtyBucket {
            raw: Some(raw.clone()),
            sequence: header.sequence,
            changed: false,
            root,
            nesting,
        })
    }

    /// Sets `key` to `value`.
    pub(crate) fn insert(
        &mut self,
        snapshot: &Snapshot,
        key: &[u8],
        value: Value,
    ) -> Result<(), Error> {
        let key = Data::Heap(Arc::from(key));
        if let Some(right) = self.root.insert(snapshot, key, value, 0)? {
            // The first key of a branch is set when it is written; until then it is the least.
            let left = BranchItem {
                key: Data::Heap(Arc::from(&b""[..])),
                child: std::mem::replace(&mut self.root, Child::Page(0)),
            };
            self.root = Child::Node(Arc::new(Node {
                origin: None,
                changed: true,
                shrunk: false,
                items: Items::Branch(vec![left, right]),
            }));
        }
        Ok(())
    }
}
