//! One committed state of the file, and its pages, decoded with every bound checked.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use memmap2::{Mmap, MmapOptions};

use crate::Error;
use crate::layout::{
    ELEMENT, ELEMENT_BUCKET, FIRST_PAGE, FLAG_BRANCH, FLAG_FREELIST, FLAG_LEAF, Meta, PAGE_HEADER,
    index, u16_at, u32_at, u64_at,
};

/// Smallest mapping; address space alone, so that small files are not mapped anew as they grow.
const MIN_MAP: usize = 1 << 20;
/// Above this the mapping grows by steps of this size, not by doubling; as bbolt does.
const MAP_STEP: usize = 1 << 30;

/// The length of the mapping for a file of `len` bytes: more than the file, for its growth.
fn map_length(len: usize) -> usize {
    if len <= MAP_STEP {
        len.next_power_of_two().max(MIN_MAP)
    } else {
        len.checked_next_multiple_of(MAP_STEP).unwrap_or(len)
    }
}

/// Maps `file` for reading, with room for it to grow to at least `len` bytes.
pub(crate) fn map(file: &File, len: u64) -> std::io::Result<Mmap> {
    let len = map_length(index(len));
    // SAFETY: the mapping is read-only, and nobody changes the bytes that are read through it:
    // the engine holds the file's lock, and writes only to pages that no living snapshot reaches.
    // Pages beyond the end of the file are never read: a snapshot reads below its high-water
    // mark, which was checked against the file's length when it was opened, and which commits
    // move only after the pages were written. Cutting the file off under the lock's holder is
    // outside of what any mapping can survive.
    #[expect(unsafe_code, reason = "mapping a file is unsafe by nature")]
    let map = unsafe { MmapOptions::new().len(len).map(file) }?;
    Ok(map)
}

/// A committed state: the mapping, the meta, and what error messages need.
///
/// The writer knows by the count of references which states are still read.
pub(crate) struct Snapshot {
    pub(crate) map: Arc<Mmap>,
    pub(crate) meta: Meta,
    pub(crate) path: Arc<Path>,
    /// The file; stays locked for as long as somebody reads this state.
    pub(crate) file: Arc<File>,
}

impl Snapshot {
    /// Bytes per page.
    pub(crate) fn page_size(&self) -> usize {
        index(u64::from(self.meta.page_size))
    }

    /// An [`Error::Corrupt`] of this file.
    #[cold]
    pub(crate) fn corrupt(&self, page: u64, reason: impl Into<String>) -> Error {
        Error::Corrupt { path: self.path.clone(), page, reason: reason.into() }
    }

    /// The bytes `at..at + len` of the file. The range comes from a decoded element.
    pub(crate) fn bytes(&self, at: usize, len: usize) -> &[u8] {
        at.checked_add(len).and_then(|end| self.map.get(at..end)).unwrap_or_default()
    }

    /// The page `id` with its overflow, checked: it lies in the file, and names itself.
    pub(crate) fn page(&self, id: u64) -> Result<Page<'_>, Error> {
        if id < FIRST_PAGE || id >= self.meta.high_water {
            return Err(self.corrupt(
                id,
                format!("outside of the file, which ends at page {}", self.meta.high_water),
            ));
        }
        let size = self.page_size();
        let base = index(id).saturating_mul(size);
        let Some(first) = base.checked_add(size).and_then(|end| self.map.get(base..end)) else {
            return Err(self.corrupt(id, "outside of the mapping"));
        };
        let (Some(own), Some(overflow)) = (u64_at(first, 0), u32_at(first, 12)) else {
            return Err(self.corrupt(id, "cut off"));
        };
        if own != id {
            return Err(self.corrupt(id, format!("names itself page {own}")));
        }
        let pages = u64::from(overflow) + 1;
        if id + pages > self.meta.high_water {
            return Err(self.corrupt(id, format!("overflow of {overflow} pages leaves the file")));
        }
        let len = index(pages).saturating_mul(size);
        let Some(data) = base.checked_add(len).and_then(|end| self.map.get(base..end)) else {
            return Err(self.corrupt(id, "overflow leaves the mapping"));
        };
        Page::new(self, id, base, data)
    }

    /// The inline page at `base`, of `len` bytes, in the value of a bucket on page `id`.
    pub(crate) fn inline(&self, id: u64, base: usize, len: usize) -> Result<Page<'_>, Error> {
        let data = self.bytes(base, len);
        if data.len() < PAGE_HEADER {
            return Err(self.corrupt(id, "inline bucket is cut off"));
        }
        let page = Page::new(self, id, base, data)?;
        if !page.leaf() {
            return Err(self.corrupt(id, "inline bucket is not a leaf"));
        }
        Ok(page)
    }
}

/// A decoded page: what kind it is, how many elements it has, and its bytes.
#[derive(Clone, Copy)]
pub(crate) struct Page<'a> {
    snapshot: &'a Snapshot,
    /// Its id; for an inline page the id of the page around it.
    pub(crate) id: u64,
    pub(crate) flags: u16,
    pub(crate) count: usize,
    /// Where it starts in the file.
    base: usize,
    /// All of it, header and overflow included.
    data: &'a [u8],
}

/// Where bytes lie in the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) at: usize,
    pub(crate) len: usize,
}

/// An element of a leaf.
#[derive(Clone, Copy)]
pub(crate) struct LeafElement {
    pub(crate) bucket: bool,
    pub(crate) key: Span,
    pub(crate) value: Span,
}

impl<'a> Page<'a> {
    fn new(snapshot: &'a Snapshot, id: u64, base: usize, data: &'a [u8]) -> Result<Self, Error> {
        let (Some(flags), Some(count)) = (u16_at(data, 8), u16_at(data, 10)) else {
            return Err(snapshot.corrupt(id, "header is cut off"));
        };
        let count = usize::from(count);
        if flags & (FLAG_LEAF | FLAG_BRANCH) != 0 && PAGE_HEADER + count * ELEMENT > data.len() {
            return Err(snapshot.corrupt(id, format!("has no room for its {count} elements")));
        }
        Ok(Page { snapshot, id, flags, count, base, data })
    }

    /// True for a leaf.
    pub(crate) fn leaf(&self) -> bool {
        self.flags == FLAG_LEAF
    }

    /// The number of pages, overflow included.
    pub(crate) fn pages(&self) -> u64 {
        (self.data.len() / self.snapshot.page_size()) as u64
    }

    /// True for a leaf, false for a branch, an error for anything else: it is part of a tree.
    pub(crate) fn tree(&self) -> Result<bool, Error> {
        match self.flags {
            FLAG_LEAF => Ok(true),
            FLAG_BRANCH if self.count > 0 => Ok(false),
            FLAG_BRANCH => Err(self.snapshot.corrupt(self.id, "branch has no children")),
            flags => Err(self
                .snapshot
                .corrupt(self.id, format!("flags {flags:#x} are neither leaf nor branch"))),
        }
    }

    fn element(&self, i: usize) -> (usize, &'a [u8]) {
        let at = PAGE_HEADER + i * ELEMENT;
        (at, self.data.get(at..at + ELEMENT).unwrap_or_default())
    }

    #[cold]
    fn outside(&self, i: usize) -> Error {
        self.snapshot.corrupt(self.id, format!("element {i} points outside of its page"))
    }

    /// The span at `from` + `pos` in this page, `len` bytes long.
    fn span(&self, i: usize, from: usize, pos: u32, len: u32) -> Result<Span, Error> {
        let at = from.saturating_add(index(u64::from(pos)));
        let len = index(u64::from(len));
        match at.checked_add(len) {
            Some(end) if end <= self.data.len() => Ok(Span { at: self.base + at, len }),
            _ => Err(self.outside(i)),
        }
    }

    /// Element `i` of a leaf.
    pub(crate) fn leaf_element(&self, i: usize) -> Result<LeafElement, Error> {
        let (at, element) = self.element(i);
        let (Some(flags), Some(pos), Some(ksize), Some(vsize)) =
            (u32_at(element, 0), u32_at(element, 4), u32_at(element, 8), u32_at(element, 12))
        else {
            return Err(self.outside(i));
        };
        let key = self.span(i, at, pos, ksize)?;
        let value = self.span(i, at, pos.saturating_add(ksize), vsize)?;
        Ok(LeafElement { bucket: flags & ELEMENT_BUCKET != 0, key, value })
    }

    /// Element `i` of a branch: its key, and the page below.
    pub(crate) fn branch_element(&self, i: usize) -> Result<(Span, u64), Error> {
        let (at, element) = self.element(i);
        let (Some(pos), Some(ksize), Some(child)) =
            (u32_at(element, 0), u32_at(element, 4), u64_at(element, 8))
        else {
            return Err(self.outside(i));
        };
        Ok((self.span(i, at, pos, ksize)?, child))
    }

    /// The bytes of `span`, which came from this page.
    pub(crate) fn slice(&self, span: Span) -> &'a [u8] {
        self.snapshot.bytes(span.at, span.len)
    }

    /// The key of element `i`.
    pub(crate) fn key(&self, i: usize) -> Result<&'a [u8], Error> {
        let (at, element) = self.element(i);
        let (pos, ksize) = if self.leaf() {
            (u32_at(element, 4), u32_at(element, 8))
        } else {
            (u32_at(element, 0), u32_at(element, 4))
        };
        let (Some(pos), Some(ksize)) = (pos, ksize) else { return Err(self.outside(i)) };
        Ok(self.slice(self.span(i, at, pos, ksize)?))
    }

    /// The first element whose key is not less than `key`, and whether it is equal.
    pub(crate) fn search(&self, key: &[u8]) -> Result<(usize, bool), Error> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.key(middle)?.cmp(key) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return Ok((middle, true)),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Ok((low, false))
    }

    /// Which child of a branch may hold `key`.
    pub(crate) fn child_for(&self, key: &[u8]) -> Result<usize, Error> {
        let (at, exact) = self.search(key)?;
        Ok(if exact { at } else { at.saturating_sub(1) })
    }

    /// The ids in a free list page.
    pub(crate) fn free_ids(&self) -> Result<impl Iterator<Item = u64> + use<'a>, Error> {
        if self.flags != FLAG_FREELIST {
            return Err(self.snapshot.corrupt(self.id, "is not a free list"));
        }
        let body = &self.data[PAGE_HEADER..];
        // COMPAT: a count that does not fit stands in the place of the first id.
        let (skip, count) = if self.count == 0xFFFF {
            (1, u64_at(body, 0).map_or(usize::MAX, index))
        } else {
            (0, self.count)
        };
        if count.saturating_add(skip).saturating_mul(8) > body.len() {
            return Err(self.snapshot.corrupt(self.id, format!("has no room for {count} ids")));
        }
        let data = self.data;
        Ok((0..count).filter_map(move |i| u64_at(data, PAGE_HEADER + (i + skip) * 8)))
    }
}

/// The header in a bucket's value.
pub(crate) struct BucketHeader {
    /// The root page, or none for an inline bucket.
    pub(crate) root: Option<u64>,
    pub(crate) sequence: u64,
}

/// Decodes the header of the bucket whose value is `value`, on page `id`.
pub(crate) fn bucket_header(
    snapshot: &Snapshot,
    id: u64,
    value: &[u8],
) -> Result<BucketHeader, Error> {
    match (u64_at(value, 0), u64_at(value, 8)) {
        (Some(root), Some(sequence)) => {
            Ok(BucketHeader { root: (root != 0).then_some(root), sequence })
        }
        _ => Err(snapshot.corrupt(id, "bucket is cut off")),
    }
}
