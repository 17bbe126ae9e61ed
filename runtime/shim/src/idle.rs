//! When a shim that nobody needs any more leaves by itself.
//!
//! A daemon ends its shims with `Shutdown`. One that died at the wrong moment, or lost its records,
//! does not; then the shim would stay for ever. So it leaves
//!
//! - a minute after its last task and its last sandbox have gone, once the daemon has their events;
//! - ten minutes after all of its tasks have ended and nothing is left in their control groups, if
//!   no daemon is connected. The exits are recorded in the bundles, where the next daemon and
//!   `delete` find them.
//!
//! A call or a connection begins the time anew. `IRONHULL_SHIM_IDLE`, a number of seconds in the
//! environment, replaces both times.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api_ttrpc::{Context, MethodKind, ServerStream, Service as Rpc, Status};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::events::Publisher;
use crate::lock;
use crate::service::Service;

/// How long a shim without tasks and sandboxes stays: a daemon that has just asked for its address
/// needs moments to send its first task.
const EMPTY_LIMIT: Duration = Duration::from_secs(60);

/// How long a shim whose tasks have all ended waits for a daemon: longer than an upgrade takes.
const STOPPED_LIMIT: Duration = Duration::from_secs(10 * 60);

/// The variable that replaces both.
const VARIABLE: &str = "IRONHULL_SHIM_IDLE";

/// What a shim is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Something runs, or is being made.
    Wanted,
    /// There is nothing.
    Empty,
    /// All tasks have ended, and wait to be deleted.
    Stopped,
}

/// How long a shim stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) empty: Duration,
    pub(crate) stopped: Duration,
}

/// When something happened the last time, and who is there.
pub(crate) struct Idle {
    last: Mutex<Instant>,
    connections: AtomicUsize,
    changed: Notify,
}

/// A connection, as long as it lives.
pub(crate) struct Connected(Arc<Idle>);

/// A service whose calls are noticed.
pub(crate) struct Noticed<S> {
    service: Arc<S>,
    idle: Arc<Idle>,
}

// === impl Limits ===

impl Limits {
    /// The usual limits, or what the environment says.
    pub(crate) fn from_environment() -> Self {
        match seconds(VARIABLE) {
            Some(limit) => Limits { empty: limit, stopped: limit },
            None => Limits { empty: EMPTY_LIMIT, stopped: STOPPED_LIMIT },
        }
    }
}

/// A number of seconds in the environment, more than none.
pub(crate) fn seconds(variable: &str) -> Option<Duration> {
    let text = std::env::var(variable).ok()?;
    text.parse().ok().filter(|seconds| *seconds > 0).map(Duration::from_secs)
}

// === impl Idle ===

impl Idle {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Idle {
            last: Mutex::new(Instant::now()),
            connections: AtomicUsize::new(0),
            changed: Notify::new(),
        })
    }

    /// Something happened.
    pub(crate) fn touch(&self) {
        *lock(&self.last) = Instant::now();
        self.changed.notify_one();
    }

    /// A connection has come.
    pub(crate) fn connected(self: &Arc<Self>) -> Connected {
        self.connections.fetch_add(1, Ordering::Relaxed);
        self.touch();
        Connected(Arc::clone(self))
    }

    /// When the shim is to leave as things are; `None`: not at all.
    fn deadline(&self, need: Need, limits: Limits) -> Option<Instant> {
        let last = *lock(&self.last);
        match need {
            Need::Empty => Some(last + limits.empty),
            Need::Stopped if self.connections.load(Ordering::Relaxed) == 0 => {
                Some(last + limits.stopped)
            }
            Need::Stopped | Need::Wanted => None,
        }
    }

    /// Waits until the shim is not needed any more.
    pub(crate) async fn outlived(&self, service: &Service, publisher: &Publisher, limits: Limits) {
        loop {
            let Some(at) = self.deadline(service.need(), limits) else {
                self.changed.notified().await;
                continue;
            };
            let now = Instant::now();
            let again = if now < at {
                at
            } else {
                // A daemon that is down gets its events when it is back, within reason.
                let told = publisher.is_empty() || now >= at + limits.stopped;
                if told && service.is_over() {
                    return;
                }
                now + limits.empty
            };
            tokio::select! {
                () = tokio::time::sleep_until(again) => {}
                () = self.changed.notified() => {}
            }
        }
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
        self.0.touch();
    }
}

// === impl Noticed ===

impl<S> Noticed<S> {
    pub(crate) fn new(service: S, idle: &Arc<Idle>) -> Self {
        Noticed { service: Arc::new(service), idle: Arc::clone(idle) }
    }
}

impl<S: Rpc> Rpc for Noticed<S> {
    fn kind(&self, method: &str) -> Option<MethodKind> {
        self.service.kind(method)
    }

    fn call(
        &self,
        context: Context,
        method: &str,
        payload: Bytes,
    ) -> BoxFuture<'static, Result<Vec<u8>, Status>> {
        self.idle.touch();
        let call = self.service.call(context, method, payload);
        let idle = Arc::clone(&self.idle);
        Box::pin(async move {
            let answer = call.await;
            idle.touch();
            answer
        })
    }

    fn stream(
        &self,
        context: Context,
        method: &str,
        stream: ServerStream,
    ) -> BoxFuture<'static, Result<Vec<u8>, Status>> {
        self.service.stream(context, method, stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_stays() {
        let limits = Limits { empty: Duration::from_secs(60), stopped: Duration::from_secs(600) };
        let runtime = crate::serve::runtime().unwrap();
        runtime.block_on(async {
            let idle = Idle::new();
            let start = *lock(&idle.last);
            assert_eq!(idle.deadline(Need::Wanted, limits), None);
            assert_eq!(idle.deadline(Need::Empty, limits), Some(start + limits.empty));
            assert_eq!(idle.deadline(Need::Stopped, limits), Some(start + limits.stopped));
            let connection = idle.connected();
            assert_eq!(idle.deadline(Need::Stopped, limits), None, "a daemon is there");
            assert!(idle.deadline(Need::Empty, limits) >= Some(start + limits.empty));
            drop(connection);
            assert!(idle.deadline(Need::Stopped, limits) >= Some(start + limits.stopped));
        });
    }
}
