//! The second step of a commit: changed nodes are cut to page size and written into one buffer.
//!
//! The pages get their places only when their number is known. Until then they are numbered from 0
//! in the buffer, and every place that holds such a number is remembered.
//!
//! COMPAT: bbolt's rules. A node that does not fit a page is cut where a page is half full, with
//! two items at least on each side. A bucket without buckets that fits a quarter of a page is
//! stored inline in its parent.

use std::sync::Arc;

use crate::Error;
use crate::bucket_mut::Freed;
use crate::layout::{
    BUCKET_HEADER, ELEMENT, ELEMENT_BUCKET, FLAG_BRANCH, FLAG_LEAF, PAGE_HEADER, page_header,
};
use crate::node::{Child, Data, DirtyBucket, Items, LeafItem, Node, Ref, Value};
use crate::snapshot::Snapshot;

/// Fewest items on each side of a cut.
const MIN_ITEMS: usize = 2;

/// Most items of a page: its count has 16 bits.
const MAX_COUNT: usize = 0xFFFF;

/// The pages of a commit, in one buffer.
pub(crate) struct Arena {
    pub(crate) buffer: Vec<u8>,
    page_size: usize,
    /// Length in pages of each run that belongs together.
    pub(crate) runs: Vec<u64>,
    /// First page in the buffer of each run.
    starts: Vec<u64>,
    /// Where in the buffer numbers of pages of the buffer stand.
    patches: Vec<usize>,
}

impl Arena {
    /// An empty one that uses `buffer` again.
    pub(crate) fn new(mut buffer: Vec<u8>, page_size: usize) -> Arena {
        buffer.clear();
        Arena { buffer, page_size, runs: Vec::new(), starts: Vec::new(), patches: Vec::new() }
    }

    /// Adds a run of zeroed pages that holds `len` bytes and writes its header. Returns its number
    /// and where it starts in the buffer.
    pub(crate) fn run(&mut self, len: usize, flags: u16, count: u16) -> (u64, usize) {
        let pages = len.div_ceil(self.page_size).max(1);
        let at = self.buffer.len();
        self.buffer.resize(at + pages * self.page_size, 0);
        let number = (at / self.page_size) as u64;
        self.runs.push(pages as u64);
        self.starts.push(number);
        let overflow = u32::try_from(pages - 1).unwrap_or(u32::MAX);
        let header = page_header(number, flags, count, overflow);
        self.buffer[at..at + PAGE_HEADER].copy_from_slice(&header);
        self.patches.push(at);
        (number, at)
    }

    /// The page of the file for page `number` of the buffer, `places` being where each run went.
    pub(crate) fn place(&self, number: u64, places: &[u64]) -> u64 {
        let run = self.starts.partition_point(|start| *start <= number).saturating_sub(1);
        match (places.get(run), self.starts.get(run)) {
            (Some(place), Some(start)) => place + (number - start),
            _ => number,
        }
    }

    /// Replaces all numbers of the buffer by pages of the file.
    pub(crate) fn patch(&mut self, places: &[u64]) {
        for i in 0..self.patches.len() {
            let at = self.patches[i];
            let Some(number) = crate::layout::u64_at(&self.buffer, at) else { continue };
            let page = self.place(number, places);
            self.buffer[at..at + 8].copy_from_slice(&page.to_le_bytes());
        }
    }

    /// Writes a reference at `at`.
    fn reference(&mut self, at: usize, to: Ref) {
        let (Ref::Page(number) | Ref::New(number)) = to;
        if matches!(to, Ref::New(_)) {
            self.patches.push(at);
        }
        self.buffer[at..at + 8].copy_from_slice(&number.to_le_bytes());
    }
}

/// How a bucket's value looks after the commit.
pub(crate) enum Spilled {
    Unchanged,
    Root(Ref, u64),
    Inline(Vec<u8>),
}

/// Writes what changed in a tree.
pub(crate) struct Spill<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) freed: &'a mut Freed,
    pub(crate) arena: &'a mut Arena,
}

impl Spill<'_> {
    /// Writes what changed below `bucket`; `top` is the bucket of the meta.
    pub(crate) fn bucket(&mut self, bucket: &mut DirtyBucket, top: bool) -> Result<Spilled, Error> {
        let known = bucket.raw.is_some() || top;
        let sequence = bucket.sequence;
        let root = match &mut bucket.root {
            Child::Page(_) if known && !bucket.changed => return Ok(Spilled::Unchanged),
            Child::Page(id) => return Ok(Spilled::Root(Ref::Page(*id), sequence)),
            Child::Node(node) => Arc::make_mut(node),
        };
        if known && !bucket.changed && !changed(root) {
            return Ok(Spilled::Unchanged);
        }
        if !top
            && let Items::Leaf(items) = &root.items
            && fits_inline(self.snapshot, items)
        {
            self.free(root);
            return Ok(Spilled::Inline(self.inline(items, sequence)?));
        }
        let Some(mut level) = self.node(root)? else {
            let page = root.page();
            return Ok(Spilled::Root(Ref::Page(page), sequence));
        };
        while level.len() > 1 {
            level = self.branches(&level)?;
        }
        match level.first() {
            Some((_, root)) => Ok(Spilled::Root(*root, sequence)),
            None => Err(self.snapshot.corrupt(root.page(), "tree has no root")),
        }
    }

    fn free(&mut self, node: &Node) {
        if let Some(origin) = node.origin {
            self.freed.push((origin.page, origin.pages));
        }
    }

    /// Writes what changed at and below `node`: what takes its place in the parent, or none if
    /// it stays as it is.
    fn node(&mut self, node: &mut Node) -> Result<Option<Vec<(Data, Ref)>>, Error> {
        let mut dirty = node.changed || node.origin.is_none();
        match &mut node.items {
            Items::Leaf(items) => {
                for item in &mut *items {
                    let Value::Open(open) = &mut item.value else { continue };
                    let spilled = self.bucket(Arc::make_mut(open), false)?;
                    dirty |= !matches!(spilled, Spilled::Unchanged);
                    item.value = match (spilled, &open.raw) {
                        (Spilled::Unchanged, Some(raw)) => Value::Bucket(raw.clone()),
                        (Spilled::Root(root, sequence), _) => Value::Written(root, sequence),
                        (Spilled::Inline(value), _) => Value::Bucket(Data::Heap(value.into())),
                        (Spilled::Unchanged, None) => {
                            return Err(self.snapshot.corrupt(0, "a new bucket was not written"));
                        }
                    };
                }
                if !dirty {
                    return Ok(None);
                }
                let sizes: Vec<usize> = items.iter().map(LeafItem::size).collect();
                let mut level = Vec::new();
                for group in groups(&sizes, self.snapshot.page_size()) {
                    let key = items.get(group.start).map(|item| item.key.clone());
                    let len = sizes[group.clone()].iter().sum::<usize>() + PAGE_HEADER;
                    let number = self.leaf(&items[group], len)?;
                    level.push((key.unwrap_or(Data::Heap([].into())), Ref::New(number)));
                }
                self.free(node);
                Ok(Some(level))
            }
            Items::Branch(items) => {
                let mut children = Vec::with_capacity(items.len());
                for item in &mut *items {
                    match &mut item.child {
                        Child::Page(id) => children.push((item.key.clone(), Ref::Page(*id))),
                        Child::Node(child) => match self.node(Arc::make_mut(child))? {
                            Some(level) => {
                                dirty = true;
                                children.extend(level);
                            }
                            None => {
                                children.push((item.key.clone(), Ref::Page(child.page())));
                            }
                        },
                    }
                }
                if !dirty {
                    return Ok(None);
                }
                self.free(node);
                self.branches(&children).map(Some)
            }
        }
    }

    /// Writes a leaf of `len` bytes.
    fn leaf(&mut self, items: &[LeafItem], len: usize) -> Result<u64, Error> {
        let (number, at) = self.arena.run(len, FLAG_LEAF, self.count(items.len())?);
        let mut element = at + PAGE_HEADER;
        let mut data = element + items.len() * ELEMENT;
        for item in items {
            let key = item.key.get(self.snapshot);
            let flags = if matches!(item.value, Value::Plain(_)) { 0 } else { ELEMENT_BUCKET };
            let buffer = &mut self.arena.buffer;
            buffer[data..data + key.len()].copy_from_slice(key);
            let value = data + key.len();
            let vsize = match &item.value {
                Value::Plain(bytes) | Value::Bucket(bytes) => {
                    let bytes = bytes.get(self.snapshot);
                    buffer[value..value + bytes.len()].copy_from_slice(bytes);
                    bytes.len()
                }
                Value::Written(root, sequence) => {
                    buffer[value + 8..value + 16].copy_from_slice(&sequence.to_le_bytes());
                    self.arena.reference(value, *root);
                    BUCKET_HEADER
                }
                Value::Open(_) => {
                    return Err(self.snapshot.corrupt(0, "an open bucket was not written"));
                }
            };
            let fields = leaf_fields(flags, data - element, key.len(), vsize);
            self.arena.buffer[element..element + ELEMENT].copy_from_slice(&fields);
            element += ELEMENT;
            data = value + vsize;
        }
        Ok(number)
    }

    /// Writes one level of branches above `children`.
    fn branches(&mut self, children: &[(Data, Ref)]) -> Result<Vec<(Data, Ref)>, Error> {
        let sizes: Vec<usize> = children.iter().map(|(key, _)| ELEMENT + key.len()).collect();
        let mut level = Vec::new();
        for group in groups(&sizes, self.snapshot.page_size()) {
            let len = sizes[group.clone()].iter().sum::<usize>() + PAGE_HEADER;
            let children = &children[group];
            let (number, at) = self.arena.run(len, FLAG_BRANCH, self.count(children.len())?);
            let mut element = at + PAGE_HEADER;
            let mut data = element + children.len() * ELEMENT;
            for (key, child) in children {
                let key = key.get(self.snapshot);
                let buffer = &mut self.arena.buffer;
                buffer[element..element + 4].copy_from_slice(&small(data - element));
                buffer[element + 4..element + 8].copy_from_slice(&small(key.len()));
                buffer[data..data + key.len()].copy_from_slice(key);
                self.arena.reference(element + 8, *child);
                element += ELEMENT;
                data += key.len();
            }
            if let Some((key, _)) = children.first() {
                level.push((key.clone(), Ref::New(number)));
            }
        }
        Ok(level)
    }

    /// A bucket's value with its only page inside.
    fn inline(&self, items: &[LeafItem], sequence: u64) -> Result<Vec<u8>, Error> {
        let page = BUCKET_HEADER;
        let mut value = Vec::with_capacity(self.snapshot.page_size() / 2);
        value.resize(page + PAGE_HEADER + items.len() * ELEMENT, 0);
        value[8..16].copy_from_slice(&sequence.to_le_bytes());
        let header = page_header(0, FLAG_LEAF, self.count(items.len())?, 0);
        value[page..page + PAGE_HEADER].copy_from_slice(&header);
        let mut element = page + PAGE_HEADER;
        for item in items {
            let Value::Plain(data) = &item.value else {
                return Err(self.snapshot.corrupt(0, "a bucket with buckets is not inline"));
            };
            let (key, data) = (item.key.get(self.snapshot), data.get(self.snapshot));
            let fields = leaf_fields(0, value.len() - element, key.len(), data.len());
            value[element..element + ELEMENT].copy_from_slice(&fields);
            value.extend_from_slice(key);
            value.extend_from_slice(data);
            element += ELEMENT;
        }
        Ok(value)
    }

    fn count(&self, items: usize) -> Result<u16, Error> {
        u16::try_from(items).map_err(|_| self.snapshot.corrupt(0, "too many items for a page"))
    }
}

/// True if `node` or anything below it has to be written.
fn changed(node: &Node) -> bool {
    node.changed
        || match &node.items {
            Items::Leaf(items) => items.iter().any(|item| match &item.value {
                Value::Open(open) => {
                    open.changed
                        || open.raw.is_none()
                        || matches!(&open.root, Child::Node(root) if changed(root))
                }
                _ => false,
            }),
            Items::Branch(items) => {
                items.iter().any(|item| matches!(&item.child, Child::Node(node) if changed(node)))
            }
        }
}

/// COMPAT: bbolt's limit for inline buckets: a quarter of a page, and no buckets inside.
fn fits_inline(snapshot: &Snapshot, items: &[LeafItem]) -> bool {
    let most = snapshot.page_size() / 4;
    let mut size = PAGE_HEADER;
    items.iter().all(|item| {
        size += item.size();
        matches!(item.value, Value::Plain(_)) && size <= most
    })
}

fn leaf_fields(flags: u32, pos: usize, ksize: usize, vsize: usize) -> [u8; ELEMENT] {
    let mut fields = [0; ELEMENT];
    fields[0..4].copy_from_slice(&flags.to_le_bytes());
    fields[4..8].copy_from_slice(&small(pos));
    fields[8..12].copy_from_slice(&small(ksize));
    fields[12..16].copy_from_slice(&small(vsize));
    fields
}

/// A length within a page as stored. Keys and values are checked when they are put, so that a node
/// of at most a few of them stays below 4 GiB.
fn small(number: usize) -> [u8; 4] {
    u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes()
}

/// Cuts items of `sizes` into groups, one for each page.
fn groups(sizes: &[usize], page_size: usize) -> Vec<std::ops::Range<usize>> {
    let mut groups = Vec::new();
    let mut start = 0;
    let mut rest: usize = PAGE_HEADER + sizes.iter().sum::<usize>();
    loop {
        let left = &sizes[start..];
        if left.len() <= MIN_ITEMS * 2 || (rest < page_size && left.len() <= MAX_COUNT) {
            groups.push(start..sizes.len());
            return groups;
        }
        let mut size = PAGE_HEADER;
        let mut cut = 0;
        for (i, item) in left[..left.len() - MIN_ITEMS].iter().enumerate() {
            cut = i;
            if i >= MIN_ITEMS && (size + item > page_size / 2 || i == MAX_COUNT) {
                break;
            }
            size += item;
        }
        rest -= left[..cut].iter().sum::<usize>();
        groups.push(start..start + cut);
        start += cut;
    }
}
