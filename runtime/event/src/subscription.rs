//! One subscriber: its filters and its bounded queue.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use base_ident::filter::Filter;
use futures_util::Stream;
use futures_util::future::poll_fn;

use crate::Envelope;
use crate::exchange::Registry;

/// The most events that wait for one subscriber. A collection of garbage may emit many thousands
/// of events before any subscriber runs; the queue holds pointers, so it costs 128 KiB at most.
pub const MAX_QUEUED: usize = 16_384;

/// The first dropped event warns, and after it each one that makes the count a power of two.
fn worth_a_warning(dropped: u64) -> bool {
    dropped.is_power_of_two()
}

/// What the exchange and the subscriber share.
pub(crate) struct Queue {
    filter: Filter,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    events: VecDeque<Arc<Envelope>>,
    waker: Option<Waker>,
    dropped: u64,
}

impl Queue {
    pub(crate) fn new(filter: Filter) -> Self {
        Queue { filter, inner: Mutex::default() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues `event` if it matches. Never waits; a full queue loses its oldest event.
    pub(crate) fn offer(&self, event: &Arc<Envelope>) {
        if !self.filter.matches(&**event) {
            return;
        }
        let (waker, dropped) = {
            let mut inner = self.lock();
            let mut dropped = None;
            if inner.events.len() >= MAX_QUEUED {
                inner.events.pop_front();
                inner.dropped += 1;
                dropped = Some(inner.dropped);
            }
            inner.events.push_back(Arc::clone(event));
            (inner.waker.take(), dropped)
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        if let Some(dropped) = dropped.filter(|count| worth_a_warning(*count)) {
            tracing::warn!(dropped, "event subscriber is too slow, its oldest events are dropped");
        }
    }
}

/// A running subscription: a stream of events that never ends by itself. Dropping it unsubscribes.
pub struct Subscription {
    queue: Arc<Queue>,
    registry: Arc<Registry>,
}

impl Subscription {
    pub(crate) fn new(queue: Arc<Queue>, registry: Arc<Registry>) -> Self {
        Subscription { queue, registry }
    }

    /// Waits for the next event. Cancel-safe: no event is lost when the future is dropped.
    pub async fn next(&mut self) -> Arc<Envelope> {
        poll_fn(|context| self.poll_event(context)).await
    }

    /// The next event if one is waiting.
    pub fn try_next(&mut self) -> Option<Arc<Envelope>> {
        self.queue.lock().events.pop_front()
    }

    /// How many events this subscriber has lost because it was too slow.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.queue.lock().dropped
    }

    fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Arc<Envelope>> {
        let mut inner = self.queue.lock();
        match inner.events.pop_front() {
            Some(event) => Poll::Ready(event),
            None => {
                inner.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Stream for Subscription {
    type Item = Arc<Envelope>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_event(context).map(Some)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.registry.remove(&self.queue);
    }
}
