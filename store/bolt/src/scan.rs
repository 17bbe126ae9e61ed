//! Which pages are in use: the walk over everything that a meta reaches.

use crate::Error;
use crate::layout::{FIRST_PAGE, MAX_NESTING, MAX_TREE_DEPTH, NO_FREELIST, index};
use crate::snapshot::{Page, Snapshot, bucket_header};

/// Hears of each fault; the walk goes on without what is below it.
pub(crate) type Fault<'f> = &'f mut dyn FnMut(Error);

/// Pages in use, one bit each.
pub(crate) struct Used {
    bits: Vec<u64>,
    len: u64,
}

impl Used {
    fn new(len: u64) -> Used {
        Used { bits: vec![0; index(len.div_ceil(64))], len }
    }

    pub(crate) fn has(&self, page: u64) -> bool {
        self.bits.get(index(page / 64)).is_some_and(|bits| bits & (1 << (page % 64)) != 0)
    }

    /// Marks `start..start + len`. Returns the first of them that was marked already.
    pub(crate) fn mark(&mut self, start: u64, len: u64) -> Option<u64> {
        let mut twice = None;
        for page in start..start.saturating_add(len).min(self.len) {
            if self.has(page) {
                twice = twice.or(Some(page));
            } else if let Some(bits) = self.bits.get_mut(index(page / 64)) {
                *bits |= 1 << (page % 64);
            }
        }
        twice
    }

    /// Spans of pages that are not marked.
    pub(crate) fn gaps(&self) -> Vec<(u64, u64)> {
        let mut gaps: Vec<(u64, u64)> = Vec::new();
        for page in FIRST_PAGE..self.len {
            if self.has(page) {
                continue;
            }
            match gaps.last_mut() {
                Some((start, len)) if *start + *len == page => *len += 1,
                _ => gaps.push((page, 1)),
            }
        }
        gaps
    }
}

/// A page that is still to be looked at.
struct Todo<'a> {
    id: u64,
    depth: usize,
    nesting: usize,
    /// Its keys are not below this one, which stands in its parent.
    low: Option<&'a [u8]>,
    /// Its keys are below this one.
    high: Option<&'a [u8]>,
}

/// Walks all trees of `snapshot`. Marks metas and the stored free list as used, too.
pub(crate) fn walk(snapshot: &Snapshot, fault: Fault<'_>) -> Used {
    let mut used = Used::new(snapshot.meta.high_water);
    used.mark(0, FIRST_PAGE);
    if snapshot.meta.freelist != NO_FREELIST {
        match snapshot.page(snapshot.meta.freelist) {
            Ok(page) => {
                used.mark(page.id, page.pages());
            }
            Err(error) => fault(error),
        }
    }
    let root = Todo { id: snapshot.meta.root, depth: 0, nesting: 0, low: None, high: None };
    let mut todo = vec![root];
    while let Some(next) = todo.pop() {
        if let Err(error) = step(snapshot, fault, &mut used, &mut todo, &next) {
            fault(error);
        }
    }
    used
}

fn step<'a>(
    snapshot: &'a Snapshot,
    fault: Fault<'_>,
    used: &mut Used,
    todo: &mut Vec<Todo<'a>>,
    next: &Todo<'a>,
) -> Result<(), Error> {
    let page = snapshot.page(next.id)?;
    if let Some(twice) = used.mark(next.id, page.pages()) {
        return Err(snapshot.corrupt(twice, "is used twice"));
    }
    if next.depth >= MAX_TREE_DEPTH {
        return Err(snapshot.corrupt(next.id, "tree is too deep"));
    }
    let leaf = page.tree()?;
    let mut last: Option<&[u8]> = None;
    for i in 0..page.count {
        let key = match page.key(i) {
            Ok(key) => key,
            Err(error) => {
                fault(error);
                continue;
            }
        };
        let after_last = last.is_none_or(|last| last < key);
        let in_bounds = next.low.is_none_or(|low| i > 0 || low <= key)
            && next.high.is_none_or(|high| key < high);
        if !after_last || !in_bounds {
            fault(snapshot.corrupt(next.id, format!("key {i} is out of order")));
        }
        last = Some(key);
        if leaf {
            match page.leaf_element(i) {
                Ok(element) if element.bucket => {
                    let value = page.slice(element.value);
                    if let Err(error) =
                        bucket(snapshot, fault, todo, &page, value, element.value.at, next.nesting)
                    {
                        fault(error);
                    }
                }
                Ok(_) => {}
                Err(error) => fault(error),
            }
        } else {
            let (_, id) = page.branch_element(i)?;
            let high =
                if i + 1 < page.count { page.key(i + 1).ok().or(next.high) } else { next.high };
            todo.push(Todo {
                id,
                depth: next.depth + 1,
                nesting: next.nesting,
                low: Some(key),
                high,
            });
        }
    }
    Ok(())
}

/// A bucket whose value lies at `at`, within `around`.
fn bucket<'a>(
    snapshot: &'a Snapshot,
    fault: Fault<'_>,
    todo: &mut Vec<Todo<'a>>,
    around: &Page<'a>,
    value: &'a [u8],
    at: usize,
    nesting: usize,
) -> Result<(), Error> {
    let nesting = nesting + 1;
    if nesting > MAX_NESTING {
        return Err(snapshot.corrupt(around.id, "buckets are nested too deep"));
    }
    if let Some(root) = bucket_header(snapshot, around.id, value)?.root {
        todo.push(Todo { id: root, depth: 0, nesting, low: None, high: None });
        return Ok(());
    }
    let skip = crate::layout::BUCKET_HEADER;
    let page = snapshot.inline(around.id, at + skip, value.len() - skip)?;
    let mut last: Option<&[u8]> = None;
    for i in 0..page.count {
        let element = page.leaf_element(i)?;
        let key = page.slice(element.key);
        if last.is_some_and(|last| last >= key) {
            fault(snapshot.corrupt(around.id, format!("inline bucket: key {i} is out of order")));
        }
        last = Some(key);
        if element.bucket {
            let value = page.slice(element.value);
            bucket(snapshot, fault, todo, &page, value, element.value.at, nesting)?;
        }
    }
    Ok(())
}
