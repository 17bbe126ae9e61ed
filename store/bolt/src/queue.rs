//! The queue of updates: who runs them, which of them share a commit, how callers hear of it.
//!
//! One thread at a time leads: it takes all updates that wait, runs them one after the other,
//! commits once, and answers. A blocking caller leads itself if nobody does, which saves two changes of
//! thread; whatever queued up meanwhile goes to a thread that is spawned when it is first needed. A
//! caller on an async runtime does the same only while the disk is so quick ([`LEAD_LIMIT`]) that the
//! changes of thread would cost more than it; else it leaves all to that thread. It gives way once
//! before it leads, so that calls that are ready to run join its commit.

use std::any::Any;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

use crate::bucket_mut::Changes;
use crate::commit::Writer;
use crate::db::Probe;
use crate::snapshot::{Snapshot, map};
use crate::{Error, Options, Stats, WriteTx, file};

/// Most updates that may wait. Callers beyond it wait for room: each holds memory.
const MAX_QUEUE: usize = 1024;
/// Most updates that share a commit: bounds how long the first of them waits.
const MAX_BATCH: usize = 256;
/// Mean time of writing and syncing a commit above which async callers do not lead: what a task may
/// reasonably take without giving way. A disk that flushes takes longer; memory and battery-backed
/// caches do not.
const LEAD_LIMIT: Duration = Duration::from_micros(200);
/// Most batches that an async caller leads at once, its own and what queued up meanwhile.
const LEAD_BATCHES: usize = 4;
/// The newest commit counts for one of so many in the mean.
const MEAN_WEIGHT: u64 = 8;

/// What all handles of an open database share.
pub(crate) struct Shared {
    path: Arc<Path>,
    options: Options,
    current: Mutex<Arc<Snapshot>>,
    writer: Mutex<Writer>,
    queue: Mutex<Queue>,
    /// Jobs came in, or the end.
    work: Condvar,
    /// Room in the queue, for blocking callers and for others.
    room: Condvar,
    room_async: tokio::sync::Notify,
    /// As of the last batch: asking for them never waits for a commit.
    stats: Mutex<Stats>,
    /// Mean time that the disk took for the last commits, in nanoseconds. Unknown is as good as slow.
    pace: AtomicU64,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Box<dyn Job>>,
    closing: bool,
    thread: Option<JoinHandle<()>>,
}

/// An update with its types erased.
trait Job: Send {
    /// Runs the closure; false if its changes must be undone.
    fn run(&mut self, tx: &mut WriteTx<'_>) -> bool;
    /// Answers the caller: with `failure`, or with what the closure returned.
    fn finish(self: Box<Self>, failure: Option<Error>);
}

struct Task<F, T, E: From<Error>> {
    f: Option<F>,
    outcome: Option<Result<T, E>>,
    reply: Option<Reply<Result<T, E>>>,
}

/// How a caller hears of the outcome.
enum Reply<R> {
    Slot(Arc<Slot<R>>),
    Channel(tokio::sync::oneshot::Sender<R>),
}

/// Where a blocking caller waits, parked.
struct Slot<R> {
    value: Mutex<Option<R>>,
    caller: Thread,
}

impl<T: Send, E: From<Error> + Send, F> Job for Task<F, T, E>
where
    F: FnOnce(&mut WriteTx<'_>) -> Result<T, E> + Send,
{
    fn run(&mut self, tx: &mut WriteTx<'_>) -> bool {
        let Some(f) = self.f.take() else { return false };
        let outcome = catch_unwind(AssertUnwindSafe(|| f(tx)))
            .unwrap_or_else(|panic| Err(Error::Panicked { message: message(&*panic) }.into()));
        let good = outcome.is_ok();
        self.outcome = Some(outcome);
        good
    }

    fn finish(mut self: Box<Self>, failure: Option<Error>) {
        if let Some(failure) = failure
            && !matches!(self.outcome, Some(Err(_)))
        {
            self.outcome = Some(Err(failure.into()));
        }
    }
}

impl<F, T, E: From<Error>> Drop for Task<F, T, E> {
    /// The answer goes out here, so that nobody waits for ever for a job that got lost.
    fn drop(&mut self) {
        let outcome = self.outcome.take().unwrap_or_else(|| Err(Error::Closed.into()));
        match self.reply.take() {
            Some(Reply::Slot(slot)) => {
                *lock(&slot.value) = Some(outcome);
                slot.caller.unpark();
            }
            // An error is a caller that went away.
            Some(Reply::Channel(channel)) => drop(channel.send(outcome)),
            None => {}
        }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// What a panic said.
fn message(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "unknown panic".to_owned())
}

/// Wakes the thread when it is dropped.
struct LeftAlone<'a>(&'a Arc<Shared>);

impl Drop for LeftAlone<'_> {
    fn drop(&mut self) {
        self.0.hand_over();
    }
}

/// Locks; a panic of another holder is no reason to stop, as closures' panics are caught.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

thread_local! {
    /// The databases whose updates this thread is running, by their addresses.
    static RUNNING: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

impl Shared {
    /// Opens the file, creating the database if it is empty.
    pub(crate) fn open(
        path: &Path,
        options: Options,
        probe: Option<Probe>,
    ) -> Result<Shared, Error> {
        let file = file::open(path, &options)?;
        let mut len = file::length(&file, path)?;
        if len == 0 && !options.read_only {
            file::create(&file, path, &options)?;
            len = file::length(&file, path)?;
        }
        let snapshot = Arc::new(load(path, Arc::new(file), len)?);
        let writer = Writer::new(&options, probe, len);
        Ok(Shared {
            path: snapshot.path.clone(),
            options,
            current: Mutex::new(snapshot),
            writer: Mutex::new(writer),
            queue: Mutex::default(),
            work: Condvar::new(),
            room: Condvar::new(),
            room_async: tokio::sync::Notify::new(),
            stats: Mutex::default(),
            pace: AtomicU64::new(2 * nanoseconds(LEAD_LIMIT)),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The last committed state.
    pub(crate) fn current(&self) -> Arc<Snapshot> {
        lock(&self.current).clone()
    }

    pub(crate) fn stats(&self) -> Stats {
        let mut stats = *lock(&self.stats);
        let current = self.current();
        stats.pages = current.meta.high_water;
        stats.txid = current.meta.txid;
        stats
    }

    /// Ends the thread after it has run what is queued.
    pub(crate) fn close(&self) {
        let thread = {
            let mut queue = lock(&self.queue);
            queue.closing = true;
            queue.thread.take()
        };
        self.work.notify_all();
        if let Some(thread) = thread
            && thread.thread().id() != std::thread::current().id()
        {
            // An error is a panic of the thread, which has been reported by its jobs.
            let _ = thread.join();
        }
    }

    fn admit(&self) -> Result<(), Error> {
        if self.options.read_only {
            return Err(Error::ReadOnly { path: self.path.to_path_buf() });
        }
        let address = std::ptr::from_ref(self).addr();
        if RUNNING.with_borrow(|running| running.contains(&address)) {
            return Err(Error::Nested);
        }
        Ok(())
    }

    pub(crate) fn update<T, E, F>(self: &Arc<Self>, f: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
        F: FnOnce(&mut WriteTx<'_>) -> Result<T, E> + Send + 'static,
    {
        self.admit()?;
        let slot = Arc::new(Slot { value: Mutex::new(None), caller: std::thread::current() });
        let reply = Some(Reply::Slot(slot.clone()));
        let job = Box::new(Task { f: Some(f), outcome: None, reply });
        {
            let mut queue = lock(&self.queue);
            while queue.jobs.len() >= MAX_QUEUE {
                queue = self.room.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
            queue.jobs.push_back(job);
        }
        loop {
            let leading = match self.writer.try_lock() {
                Ok(writer) => Some(writer),
                Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
                // Whoever holds it looks at the queue again after letting go.
                Err(TryLockError::WouldBlock) => None,
            };
            if let Some(mut writer) = leading {
                self.batch(&mut writer);
                drop(writer);
                let value = lock(&slot.value).take();
                if let Some(value) = value {
                    self.hand_over();
                    return value;
                }
                continue;
            }
            loop {
                let value = lock(&slot.value).take();
                if let Some(value) = value {
                    return value;
                }
                std::thread::park();
            }
        }
    }

    pub(crate) async fn update_async<T, E, F>(this: &Arc<Self>, f: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
        F: FnOnce(&mut WriteTx<'_>) -> Result<T, E> + Send + 'static,
    {
        this.admit()?;
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let reply = Some(Reply::Channel(sender));
        let mut job: Option<Box<dyn Job>> =
            Some(Box::new(Task { f: Some(f), outcome: None, reply }));
        loop {
            let mut room = std::pin::pin!(this.room_async.notified());
            room.as_mut().enable();
            {
                let mut queue = lock(&this.queue);
                if queue.jobs.len() < MAX_QUEUE {
                    queue.jobs.extend(job.take());
                }
            }
            if job.is_none() {
                break;
            }
            room.await;
        }
        if this.pace.load(Ordering::Relaxed) > nanoseconds(LEAD_LIMIT) {
            this.wake()?;
        } else {
            // CANCEL: a job whose caller went away while giving way is left to the thread.
            let left = LeftAlone(this);
            tokio::task::yield_now().await;
            std::mem::forget(left);
            this.lead_briefly();
        }
        receiver.await.unwrap_or_else(|_| Err(Error::Closed.into()))
    }

    /// Runs what is queued, if nobody else does.
    fn lead_briefly(self: &Arc<Self>) {
        for _ in 0..LEAD_BATCHES {
            match self.writer.try_lock() {
                Ok(mut writer) => self.batch(&mut writer),
                Err(TryLockError::Poisoned(poisoned)) => self.batch(&mut poisoned.into_inner()),
                // Whoever holds it looks at the queue again after letting go.
                Err(TryLockError::WouldBlock) => return,
            }
            if lock(&self.queue).jobs.is_empty() {
                return;
            }
        }
        self.hand_over();
    }

    /// Takes the time of a commit into the mean. One that was interrupted counts only so much.
    fn note_pace(&self, taken: Duration) {
        let limit = nanoseconds(LEAD_LIMIT);
        let sample = nanoseconds(taken).min(4 * limit);
        let mean = self.pace.load(Ordering::Relaxed);
        // Only the holder of the writer's lock comes here.
        self.pace.store(mean - mean / MEAN_WEIGHT + sample / MEAN_WEIGHT, Ordering::Relaxed);
    }

    /// Leaves what is queued to the thread.
    fn hand_over(self: &Arc<Self>) {
        if lock(&self.queue).jobs.is_empty() || self.wake().is_ok() {
            return;
        }
        // No thread to be had: this one goes on until nothing is left.
        while !lock(&self.queue).jobs.is_empty() {
            self.batch(&mut lock(&self.writer));
        }
    }

    /// Wakes the thread, or spawns it.
    fn wake(self: &Arc<Self>) -> Result<(), Error> {
        let mut queue = lock(&self.queue);
        if queue.thread.is_none() && !queue.closing {
            let shared = self.clone();
            let thread = std::thread::Builder::new()
                .name("bolt-writer".to_owned())
                .spawn(move || shared.work())
                .map_err(|error| Error::io("start the writer of", &self.path, error))?;
            queue.thread = Some(thread);
        }
        drop(queue);
        self.work.notify_one();
        Ok(())
    }

    /// The thread: runs batches until the database is closed.
    fn work(&self) {
        loop {
            {
                let mut queue = lock(&self.queue);
                while queue.jobs.is_empty() {
                    if queue.closing {
                        return;
                    }
                    queue = self.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
                }
            }
            self.batch(&mut lock(&self.writer));
        }
    }

    /// Runs what is queued as one commit, and answers.
    fn batch(&self, writer: &mut Writer) {
        let (mut jobs, full): (Vec<Box<dyn Job>>, bool) = {
            let mut queue = lock(&self.queue);
            let waiting = queue.jobs.len();
            let most = if writer.tight() { 1 } else { MAX_BATCH };
            (queue.jobs.drain(..waiting.min(most)).collect(), waiting >= MAX_QUEUE)
        };
        if jobs.is_empty() {
            return;
        }
        // Callers wait for room only while the queue is full.
        if full {
            self.room.notify_all();
            self.room_async.notify_waiters();
        }
        RUNNING.with_borrow_mut(|running| running.push(std::ptr::from_ref(self).addr()));
        let failure = self.transaction(writer, &mut jobs).err();
        if let Some(taken) = writer.take_disk_time() {
            self.note_pace(taken);
        }
        RUNNING.with_borrow_mut(Vec::pop);
        {
            let mut stats = lock(&self.stats);
            *stats = Stats { updates: stats.updates + jobs.len() as u64, ..writer.stats() };
        }
        for job in jobs {
            job.finish(failure.clone());
        }
    }

    fn transaction(&self, writer: &mut Writer, jobs: &mut [Box<dyn Job>]) -> Result<(), Error> {
        let snapshot = self.current();
        writer.prepare(&snapshot)?;
        let mut changes = Changes::new(snapshot);
        let mut dirty = false;
        for job in jobs {
            // The first closure's savepoint is the committed state itself, and costs nothing.
            let savepoint = dirty.then(|| changes.savepoint());
            let good = job.run(&mut WriteTx::new(&mut changes));
            match (good, savepoint) {
                (true, _) => dirty = true,
                (false, Some(savepoint)) => changes.undo(savepoint),
                (false, None) => changes.reset(),
            }
        }
        let hooks = std::mem::take(&mut changes.hooks);
        if let Some(committed) = writer.commit(changes)? {
            let old = std::mem::replace(&mut *lock(&self.current), committed);
            writer.retire(&old);
        }
        for hook in hooks {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(hook)) {
                tracing::error!(
                    path = %self.path.display(),
                    panic = message(&*panic),
                    "a hook after the commit panicked"
                );
            }
        }
        Ok(())
    }
}

/// The last committed state of `file`, which is `len` bytes long.
pub(crate) fn load(path: &Path, file: Arc<File>, len: u64) -> Result<Snapshot, Error> {
    let meta = file::choose_meta(&file, path, len)?;
    let map = map(&file, len).map_err(|error| Error::io("map", path, error))?;
    Ok(Snapshot { map: Arc::new(map), meta, path: Arc::from(path), file })
}
