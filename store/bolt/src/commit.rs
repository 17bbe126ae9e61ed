//! The commit: from changed nodes to a durable meta.
//!
//! Pages are written where no state that can still be read has any, made durable, and then the meta
//! that reaches them replaces the older of the two. A crash at any point leaves one of two whole states.

use std::collections::VecDeque;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use base_fs::failpoint;

use crate::bucket_mut::{Changes, Freed};
use crate::db::{Probe, Step};
use crate::free::{FreeList, Placement};
use crate::layout::{FIRST_PAGE, FLAG_FREELIST, META, Meta, NO_FREELIST, PAGE_HEADER, index};
use crate::node::Ref;
use crate::scan;
use crate::snapshot::{Snapshot, map};
use crate::spill::{Arena, Spill, Spilled};
use crate::{Error, Options, Stats, file, rebalance};

/// A commit's buffer is kept for the next one up to this size.
const KEEP_BUFFER: usize = 1 << 20;

/// Pages at the end of the file that only commits may use which free as many pages as they write:
/// so that a full disk does not keep anybody from deleting. A deletion writes the path to what it
/// removes, in each of a few nested buckets, and the free list.
const SPARE: u64 = 16;

/// What only the leader of the queue touches.
pub(crate) struct Writer {
    store_freelist: bool,
    sync: bool,
    probe: Option<Probe>,
    /// Length of the file in bytes.
    file_len: u64,
    /// None until the first update: reading it may take a walk over the whole file.
    free: Option<FreeList>,
    /// Pages freed by a commit, which states before it still reach.
    pending: VecDeque<(u64, Freed)>,
    /// States before the current one that are still read.
    read: Vec<(u64, Weak<Snapshot>)>,
    /// A commit failed after its meta may have been written: the slot must be overwritten with the
    /// current meta before pages that it used are used again.
    restore: bool,
    buffer: Vec<u8>,
    commits: u64,
    pages_written: u64,
    page_writes: u64,
    /// The disk was full when the file should have grown: pages are taken wherever they are free, and
    /// each update has its own commit, so that one that needs room does not fail another that frees
    /// some.
    tight: bool,
    /// How long the last commit was at the disk.
    disk_time: Option<Duration>,
}

impl Writer {
    /// The writer of a file of `file_len` bytes.
    pub(crate) fn new(options: &Options, probe: Option<Probe>, file_len: u64) -> Writer {
        Writer {
            store_freelist: options.store_freelist,
            sync: !options.no_sync,
            probe,
            file_len,
            free: None,
            pending: VecDeque::new(),
            read: Vec::new(),
            restore: false,
            buffer: Vec::new(),
            commits: 0,
            pages_written: 0,
            page_writes: 0,
            tight: false,
            disk_time: None,
        }
    }

    pub(crate) fn stats(&self) -> Stats {
        Stats {
            commits: self.commits,
            pages_written: self.pages_written,
            page_writes: self.page_writes,
            free_pages: self.free.as_ref().map_or(0, FreeList::total),
            pending_pages: self.pending.iter().map(|(_, freed)| pages(freed)).sum(),
            ..Stats::default()
        }
    }

    /// True while the file cannot grow.
    pub(crate) fn tight(&self) -> bool {
        self.tight
    }

    /// How long the commit since the last call was at the disk; none if there was none.
    pub(crate) fn take_disk_time(&mut self) -> Option<Duration> {
        self.disk_time.take()
    }

    /// Makes ready for a transaction on `snapshot`, the current state.
    pub(crate) fn prepare(&mut self, snapshot: &Snapshot) -> Result<(), Error> {
        if self.restore {
            self.restore_meta(snapshot)?;
        }
        if self.free.is_none() {
            self.free = Some(load_free(snapshot));
        }
        Ok(())
    }

    /// Notes that `old` is no longer the current state; readers may still hold it.
    pub(crate) fn retire(&mut self, old: &Arc<Snapshot>) {
        self.read.push((old.meta.txid, Arc::downgrade(old)));
    }

    /// Frees what no living state reaches any more.
    fn release(&mut self) {
        self.read.retain(|(_, snapshot)| snapshot.strong_count() > 0);
        let oldest = self.read.iter().map(|(txid, _)| *txid).min().unwrap_or(u64::MAX);
        while self.pending.front().is_some_and(|(txid, _)| *txid <= oldest) {
            if let (Some((_, freed)), Some(free)) = (self.pending.pop_front(), &mut self.free) {
                for (start, len) in freed {
                    free.add(start, len);
                }
            }
        }
    }

    /// Writes `changes` and makes them durable. Returns the new state, or none if there was
    /// nothing to write. After an error the old state is as it was.
    pub(crate) fn commit(&mut self, mut changes: Changes) -> Result<Option<Arc<Snapshot>>, Error> {
        let snapshot = changes.snapshot;
        let mut freed = std::mem::take(&mut changes.freed);
        let root = Arc::make_mut(&mut changes.root);
        rebalance::bucket(&snapshot, &mut freed, root);
        let mut arena = Arena::new(std::mem::take(&mut self.buffer), snapshot.page_size());
        let mut spill = Spill { snapshot: &snapshot, freed: &mut freed, arena: &mut arena };
        let (root, sequence) = match spill.bucket(root, true)? {
            Spilled::Root(root, sequence) => (root, sequence),
            Spilled::Unchanged | Spilled::Inline(_) => {
                self.keep(arena.buffer);
                return Ok(None);
            }
        };
        let mut meta = Meta { txid: snapshot.meta.txid + 1, sequence, ..snapshot.meta };
        if meta.freelist != NO_FREELIST
            && let Ok(page) = snapshot.page(meta.freelist)
        {
            freed.push((page.id, page.pages()));
        }
        self.release();
        let list = self.store_freelist.then(|| self.list_page(&mut arena, &freed));
        let growing = arena.runs.iter().sum::<u64>() > pages(&freed);
        let placement = self.place(&snapshot, &arena.runs, &mut meta, growing)?;
        arena.patch(&placement.starts);
        meta.root = match root {
            Ref::Page(page) => page,
            Ref::New(number) => arena.place(number, &placement.starts),
        };
        meta.freelist = NO_FREELIST;
        if let Some((number, at)) = list {
            meta.freelist = arena.place(number, &placement.starts);
            self.fill_list(&mut arena, at, &freed);
        }
        let begin = Instant::now();
        let written = self.write(&snapshot, &arena, &placement, meta);
        self.disk_time = Some(begin.elapsed());
        let runs = arena.runs.iter().sum::<u64>();
        self.keep(arena.buffer);
        match written {
            Ok(committed) => {
                self.commits += 1;
                self.pages_written += runs;
                self.pending.push_back((meta.txid, freed));
                Ok(Some(Arc::new(committed)))
            }
            Err(error) => {
                if let Some(free) = &mut self.free {
                    free.give_back(&placement);
                }
                if let Ok(len) = file::length(&snapshot.file, &snapshot.path) {
                    self.file_len = len;
                }
                if self.restore && self.restore_meta(&snapshot).is_err() {
                    tracing::error!(
                        path = %snapshot.path.display(), %error,
                        "a commit failed, and its meta could not be taken back yet"
                    );
                }
                Err(error)
            }
        }
    }

    /// Finds pages for `runs`, and has the file be long enough for them. A commit that is `growing`
    /// leaves the spare pages to others.
    fn place(
        &mut self,
        snapshot: &Snapshot,
        runs: &[u64],
        meta: &mut Meta,
        growing: bool,
    ) -> Result<Placement, Error> {
        loop {
            let tight = self.tight;
            let Some(free) = &mut self.free else { return Err(Error::Closed) };
            meta.high_water = snapshot.meta.high_water;
            let placement = free.take_all(runs, &mut meta.high_water, tight);
            let Err(error) = self.make_room(snapshot, meta.high_water, growing) else {
                return Ok(placement);
            };
            if let Some(free) = &mut self.free {
                free.give_back(&placement);
            }
            let full = Some(rustix::io::Errno::NOSPC.raw_os_error());
            self.tight |= error.raw_os_error() == full;
            // The first time that the disk is full, there may be pages here and there.
            if tight || !self.tight {
                return Err(Error::io("grow", &snapshot.path, error));
            }
        }
    }

    /// Makes the file long enough for `high_water` pages.
    fn make_room(&mut self, old: &Snapshot, high_water: u64, growing: bool) -> std::io::Result<()> {
        if high_water <= old.meta.high_water {
            return Ok(());
        }
        let wanted = high_water.saturating_add(if growing { SPARE } else { 0 });
        let needed = wanted.saturating_mul(old.page_size() as u64);
        if needed > self.file_len {
            self.step(Step::Grow)?;
            self.file_len = file::grow(&old.file, self.file_len, needed)?;
            self.tight = false;
        }
        Ok(())
    }

    fn keep(&mut self, buffer: Vec<u8>) {
        if buffer.capacity() <= KEEP_BUFFER {
            self.buffer = buffer;
        }
    }

    /// Adds a page for the free list, large enough for what will be free at the most.
    fn list_page(&self, arena: &mut Arena, freed: &Freed) -> (u64, usize) {
        let pending: u64 = self.pending.iter().map(|(_, freed)| pages(freed)).sum();
        let free = self.free.as_ref().map_or(0, FreeList::total);
        // One more for the count, where it does not fit the header.
        let most = index(free + pending + pages(freed) + 1);
        arena.run(PAGE_HEADER + most * 8, FLAG_FREELIST, 0)
    }

    /// Writes the ids of all pages that the state after this commit does not use.
    fn fill_list(&self, arena: &mut Arena, at: usize, freed: &Freed) {
        let mut all = FreeList::default();
        let spans = self.free.iter().flat_map(FreeList::spans);
        let pending = self.pending.iter().flat_map(|(_, freed)| freed.iter().copied());
        for (start, len) in spans.chain(pending).chain(freed.iter().copied()) {
            all.add(start, len);
        }
        let count = all.total();
        let mut next = at + PAGE_HEADER;
        let small = u16::try_from(count).ok().filter(|count| *count < 0xFFFF);
        if small.is_none() {
            arena.buffer[next..next + 8].copy_from_slice(&count.to_le_bytes());
            next += 8;
        }
        arena.buffer[at + 10..at + 12].copy_from_slice(&small.unwrap_or(0xFFFF).to_le_bytes());
        for id in all.spans().flat_map(|(start, len)| start..start + len) {
            arena.buffer[next..next + 8].copy_from_slice(&id.to_le_bytes());
            next += 8;
        }
    }

    /// The steps on the disk, in the order that makes a crash harmless.
    fn write(
        &mut self,
        old: &Snapshot,
        arena: &Arena,
        placement: &Placement,
        meta: Meta,
    ) -> Result<Snapshot, Error> {
        let io = |action| move |error| Error::io(action, &old.path, error);
        let size = old.page_size();
        let needed = meta.high_water.saturating_mul(size as u64);
        // The mapping comes before the commit can succeed, because it can fail.
        let map = if needed > old.map.len() as u64 {
            Arc::new(map(&old.file, needed).map_err(io("map"))?)
        } else {
            old.map.clone()
        };
        self.step(Step::WritePages).map_err(io("write"))?;
        let mut run = 0;
        let mut at = 0;
        while let Some(&place) = placement.starts.get(run) {
            // Runs that lie side by side are one write.
            let mut pages = 0;
            while placement.starts.get(run) == Some(&(place + pages)) {
                pages += arena.runs[run];
                run += 1;
            }
            let bytes = index(pages) * size;
            let offset = place.saturating_mul(size as u64);
            old.file.write_all_at(&arena.buffer[at..at + bytes], offset).map_err(io("write"))?;
            self.page_writes += 1;
            at += bytes;
        }
        // DURABILITY: pages before the meta that reaches them.
        self.sync(old, Step::SyncPages).map_err(io("sync"))?;
        self.step(Step::WriteMeta).map_err(io("write"))?;
        // From here on the disk may have the new meta, whatever the calls return.
        self.restore = true;
        write_meta(old, &meta, meta.txid % FIRST_PAGE).map_err(io("write"))?;
        // DURABILITY: the commit is a record when its meta is.
        self.sync(old, Step::SyncMeta).map_err(io("sync"))?;
        failpoint::hit_io("bolt.committed").map_err(io("sync"))?;
        self.restore = false;
        Ok(Snapshot { map, meta, path: old.path.clone(), file: old.file.clone() })
    }

    fn step(&self, step: Step) -> std::io::Result<()> {
        match step {
            Step::Grow => failpoint::hit_io("bolt.grow")?,
            Step::WritePages => failpoint::hit_io("bolt.pages.write")?,
            Step::SyncPages => failpoint::hit_io("bolt.pages.sync")?,
            Step::WriteMeta => failpoint::hit_io("bolt.meta.write")?,
            Step::SyncMeta => failpoint::hit_io("bolt.meta.sync")?,
        }
        self.probe.as_ref().map_or(Ok(()), |probe| probe(step))
    }

    fn sync(&self, snapshot: &Snapshot, step: Step) -> std::io::Result<()> {
        self.step(step)?;
        if self.sync {
            rustix::fs::fdatasync(&snapshot.file)?;
        }
        Ok(())
    }

    /// Overwrites the meta of a commit that failed with the current one.
    fn restore_meta(&mut self, current: &Snapshot) -> Result<(), Error> {
        let io = |error| Error::io("take back a failed commit of", &current.path, error);
        self.step(Step::WriteMeta).map_err(io)?;
        write_meta(current, &current.meta, (current.meta.txid + 1) % FIRST_PAGE).map_err(io)?;
        self.sync(current, Step::SyncMeta).map_err(io)?;
        self.restore = false;
        Ok(())
    }
}

/// Pages in `freed`.
fn pages(freed: &Freed) -> u64 {
    freed.iter().map(|(_, len)| len).sum()
}

fn write_meta(snapshot: &Snapshot, meta: &Meta, page: u64) -> std::io::Result<()> {
    let mut bytes = [0; PAGE_HEADER + META];
    meta.encode(&mut bytes, page);
    snapshot.file.write_all_at(&bytes, page * u64::from(meta.page_size))
}

/// The free pages of `snapshot`: those of its stored list, or else those that it does not reach.
///
/// A file too damaged to know them has none: then commits only add to its end, so that nothing that
/// might be salvaged is overwritten.
fn load_free(snapshot: &Snapshot) -> FreeList {
    if snapshot.meta.freelist != NO_FREELIST {
        match stored_free(snapshot) {
            Ok(free) => return free,
            Err(error) => tracing::warn!(
                %error, "the stored free list is damaged: looking for free pages instead"
            ),
        }
    }
    let mut faults = Vec::new();
    let used = scan::walk(snapshot, &mut |error| faults.push(error));
    let mut free = FreeList::default();
    if let Some(error) = faults.first() {
        tracing::error!(
            %error, faults = faults.len(),
            "the database is damaged: no page of it will be used again"
        );
        return free;
    }
    for (start, len) in used.gaps() {
        free.add(start, len);
    }
    free
}

fn stored_free(snapshot: &Snapshot) -> Result<FreeList, Error> {
    let page = snapshot.page(snapshot.meta.freelist)?;
    let mut free = FreeList::default();
    let mut last = FIRST_PAGE - 1;
    for id in page.free_ids()? {
        if id <= last || id >= snapshot.meta.high_water {
            return Err(snapshot.corrupt(page.id, format!("free page {id} is out of order")));
        }
        last = id;
        free.add(id, 1);
    }
    Ok(free)
}
