//! The free list in memory: spans of pages that a commit may use.

use std::collections::{BTreeMap, BTreeSet};

/// While fewer pages than this are free, a commit that finds no contiguous run takes a new one from
/// the end of the file, so that commits settle into runs that take one write each. Bounds
/// what this costs a small file: 256 KiB at 4 KiB pages.
const SLACK: u64 = 64;

/// Free pages, as disjoint spans that do not touch.
#[derive(Default)]
pub(crate) struct FreeList {
    /// First page of a span to its length.
    spans: BTreeMap<u64, u64>,
    /// Length and first page, to find the best fit.
    sizes: BTreeSet<(u64, u64)>,
    /// Pages in all spans.
    total: u64,
}

impl FreeList {
    /// Pages that are free.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// The spans, ascending.
    pub(crate) fn spans(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.spans.iter().map(|(start, len)| (*start, *len))
    }

    fn add_span(&mut self, start: u64, len: u64) {
        self.spans.insert(start, len);
        self.sizes.insert((len, start));
        self.total += len;
    }

    fn remove_span(&mut self, start: u64, len: u64) {
        self.spans.remove(&start);
        self.sizes.remove(&(len, start));
        self.total -= len;
    }

    /// Adds the pages `start..start + len`. Pages that are free already stay so: a damaged file
    /// may free a page twice.
    pub(crate) fn add(&mut self, start: u64, len: u64) {
        let (mut low, mut high) = (start, start.saturating_add(len));
        if low == high {
            return;
        }
        // Spans that overlap or touch are taken out and joined.
        while let Some((&s, &l)) = self.spans.range(..=high).next_back() {
            if s + l < low {
                break;
            }
            self.remove_span(s, l);
            low = low.min(s);
            high = high.max(s + l);
        }
        self.add_span(low, high - low);
    }

    /// Takes `len` contiguous pages out of the smallest span that has them.
    pub(crate) fn take(&mut self, len: u64) -> Option<u64> {
        let &(span, start) = self.sizes.range((len, 0)..).next()?;
        self.cut(start, span, len);
        Some(start)
    }

    fn cut(&mut self, start: u64, span: u64, len: u64) {
        self.remove_span(start, span);
        if span > len {
            self.add_span(start + len, span - len);
        }
    }

    /// Takes room for all of `runs` (lengths in pages), in their order, as few separate spans as
    /// can be had cheaply. Pages that are not free come from `high_water`, which moves.
    ///
    /// With `scatter` it is more important that the file does not grow. Returns the first page of
    /// each run.
    pub(crate) fn take_all(
        &mut self,
        runs: &[u64],
        high_water: &mut u64,
        scatter: bool,
    ) -> Placement {
        let mut placement = Placement { starts: Vec::with_capacity(runs.len()), taken: Vec::new() };
        let whole: u64 = runs.iter().sum();
        let mut rest = runs;
        if let Some(start) = self.take(whole) {
            placement.taken.push((start, whole));
            placement.fill(&mut rest, start, whole);
        } else if scatter || self.total > SLACK {
            // Piece by piece, largest span first.
            while let Some(next) = rest.first()
                && let Some(&(span, start)) = self.sizes.last()
                && span >= *next
            {
                let used = placement.fill(&mut rest, start, span);
                self.cut(start, span, used);
                placement.taken.push((start, used));
            }
        }
        let left: u64 = rest.iter().sum();
        let start = *high_water;
        *high_water += left;
        placement.fill(&mut rest, start, left);
        placement
    }

    /// Gives back what a commit that failed had taken.
    pub(crate) fn give_back(&mut self, placement: &Placement) {
        for &(start, len) in &placement.taken {
            self.add(start, len);
        }
    }
}

/// Where a commit's pages go.
pub(crate) struct Placement {
    /// First page of each run.
    pub(crate) starts: Vec<u64>,
    /// What was taken out of the free list.
    taken: Vec<(u64, u64)>,
}

impl Placement {
    /// Places as many of `runs` as fit into `room` pages from `start` on; returns the pages used.
    fn fill(&mut self, runs: &mut &[u64], start: u64, room: u64) -> u64 {
        let mut used = 0;
        while let Some((first, rest)) = runs.split_first()
            && used + first <= room
        {
            self.starts.push(start + used);
            used += first;
            *runs = rest;
        }
        used
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(spans: &[(u64, u64)]) -> FreeList {
        let mut free = FreeList::default();
        for &(start, len) in spans {
            free.add(start, len);
        }
        free
    }

    #[test]
    fn spans_that_touch_or_overlap_become_one() {
        let free = list(&[(10, 2), (14, 2), (12, 2), (5, 1), (11, 4)]);
        assert_eq!(free.spans().collect::<Vec<_>>(), [(5, 1), (10, 6)]);
        assert_eq!(free.total(), 7);
    }

    #[test]
    fn the_smallest_span_that_fits_is_cut() {
        let mut free = list(&[(10, 8), (30, 3), (50, 4)]);
        assert_eq!(free.take(3), Some(30));
        assert_eq!(free.take(3), Some(50));
        assert_eq!(free.take(9), None);
        assert_eq!(free.spans().collect::<Vec<_>>(), [(10, 8), (53, 1)]);
    }

    #[test]
    fn runs_stay_whole_and_a_failed_commit_changes_nothing() {
        let spans: Vec<_> = (0..40).map(|i| (100 + i * 4, 2)).collect();
        let mut free = list(&spans);
        let before: Vec<_> = free.spans().collect();
        let mut high_water = 1000;
        let placement = free.take_all(&[1, 1, 1, 3, 2], &mut high_water, false);
        assert_eq!(placement.starts.len(), 5);
        // The run of three fits nowhere: it and what follows come from the end.
        assert_eq!(high_water, 1005);
        assert_eq!(placement.starts[3..], [1000, 1003]);
        assert_eq!(free.total(), 80 - 3);
        free.give_back(&placement);
        assert_eq!(free.spans().collect::<Vec<_>>(), before);
    }

    #[test]
    fn a_small_file_grows_rather_than_scatter() {
        let mut free = list(&[(10, 1), (12, 1), (14, 1)]);
        let mut high_water = 20;
        let placement = free.take_all(&[1, 1, 1], &mut high_water, false);
        assert_eq!(placement.starts, [20, 21, 22]);
        assert_eq!(high_water, 23);
        let placement = free.take_all(&[1, 1, 1], &mut high_water, true);
        assert_eq!(placement.starts, [14, 12, 10]);
        assert_eq!(high_water, 23);
    }
}
