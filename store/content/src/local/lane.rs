//! A bounded queue of chunks with one worker at a time, which holds a thread only while there is
//! something to do.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use base_errors::{Class, Error};
use bytes::Bytes;
use tokio::sync::Notify;

use super::lock::lock;

/// Bytes that may wait in a lane: enough that hashing and writing overlap with the transport,
/// little enough that a hundred writers stay below half a gigabyte.
const LANE_BYTES: usize = 4 << 20;

/// What a lane does with each chunk.
pub(crate) trait Work: Send + 'static {
    /// Handles the next chunk. May block.
    fn process(&mut self, chunk: &[u8]) -> Result<(), Error>;
}

/// The queue and its worker.
pub(crate) struct Lane<W> {
    queue: Mutex<Queue>,
    /// INVARIANT: chunks are taken from the queue only by who holds this, so their order is kept.
    work: Mutex<W>,
    room: Notify,
}

struct Queue {
    chunks: VecDeque<Bytes>,
    /// Bytes in `chunks` and in the chunk that is being processed.
    bytes: usize,
    /// True while a drain is scheduled or runs; it ends only after it saw the queue empty.
    running: bool,
    /// The first failure; everything after it is refused.
    failed: Option<(Class, String)>,
}

impl Queue {
    fn check(&self) -> Result<(), Error> {
        match &self.failed {
            Some((class, message)) => Err(Error::new(*class, message.clone())),
            None => Ok(()),
        }
    }
}

impl<W: Work> Lane<W> {
    pub(crate) fn new(work: W) -> Arc<Self> {
        Arc::new(Lane {
            queue: Mutex::new(Queue {
                chunks: VecDeque::new(),
                bytes: 0,
                running: false,
                failed: None,
            }),
            work: Mutex::new(work),
            room: Notify::new(),
        })
    }

    /// Waits until the lane has room.
    ///
    /// # Errors
    /// The failure of an earlier chunk.
    pub(crate) async fn room(&self) -> Result<(), Error> {
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            {
                let queue = lock(&self.queue);
                queue.check()?;
                if queue.bytes < LANE_BYTES {
                    return Ok(());
                }
            }
            room.await;
        }
    }

    /// Appends a chunk, whether or not there is room, and sees to it that it is processed.
    pub(crate) fn push(self: &Arc<Self>, chunk: Bytes) {
        let mut queue = lock(&self.queue);
        if queue.failed.is_some() {
            return;
        }
        queue.bytes += chunk.len();
        queue.chunks.push_back(chunk);
        if !queue.running {
            queue.running = true;
            let lane = Arc::clone(self);
            // Not waited for: whoever needs the result drains the lane himself.
            drop(tokio::task::spawn_blocking(move || lane.run()));
        }
    }

    fn run(&self) {
        loop {
            self.drain();
            let mut queue = lock(&self.queue);
            if queue.chunks.is_empty() {
                queue.running = false;
                return;
            }
        }
    }

    /// Processes what is queued on this thread, after what another thread is at.
    pub(crate) fn drain(&self) {
        loop {
            let mut work = lock(&self.work);
            let Some(chunk) = lock(&self.queue).chunks.pop_front() else { return };
            let result = work.process(&chunk);
            drop(work);
            let mut queue = lock(&self.queue);
            queue.bytes -= chunk.len();
            if let Err(error) = result {
                queue.failed = Some((error.class(), error.message().to_owned()));
                queue.chunks.clear();
                queue.bytes = 0;
            }
            drop(queue);
            self.room.notify_waiters();
        }
    }

    /// Drains the lane and gives its worker to `take`. May block.
    ///
    /// # Errors
    /// The failure of a chunk.
    pub(crate) fn finish<T>(
        &self,
        take: impl FnOnce(&mut W) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.drain();
        let mut work = lock(&self.work);
        lock(&self.queue).check()?;
        take(&mut work)
    }

    /// Forgets a failure: the work begins anew.
    pub(crate) fn reset(
        &self,
        reset: impl FnOnce(&mut W) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.drain();
        let mut work = lock(&self.work);
        reset(&mut work)?;
        lock(&self.queue).failed = None;
        Ok(())
    }
}
