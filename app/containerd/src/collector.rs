//! When garbage is collected: containerd's scheduler, and the sweeps behind it.
//!
//! Marking and removing records is the metadata's part. Here is the time table ([`plan`]), and the
//! sweeps of backends ([`sweeps`]), which run beside everything else.

mod plan;
mod sweeps;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use api_shim::events::{ImageDelete, SnapshotRemove};
use async_trait::async_trait;
use base_errors::{Error, Result};
use base_ident::Namespace;
use base_telemetry::metrics::{Family, Registry, SECONDS};
use serde::{Deserialize, Serialize};
use service_grpc::{Collector, Stores};
use store_metadata::{Collection, Resource};
use tokio::sync::{Notify, mpsc, oneshot};

use self::plan::{Plan, Table};
use self::sweeps::{Asked, SWEEP_PATIENCE, Sweeps};
use crate::config::parse_duration;

/// `[plugins."io.containerd.gc.v1.scheduler"]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct SchedulerConfig {
    /// The share of time that collections may take: 0 to 0.5.
    pub pause_threshold: f64,
    /// Deletions that trigger a collection at once; 0 means never.
    pub deletion_threshold: u64,
    /// Changes after which the next tick collects; 0 means never.
    pub mutation_threshold: u64,
    /// Delay between a request or the deletion threshold, and the collection.
    pub schedule_delay: String,
    /// Delay of the first collection after the start; 0 leaves it to the first trigger.
    pub startup_delay: String,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        SchedulerConfig {
            pause_threshold: 0.02,
            deletion_threshold: 0,
            mutation_threshold: 100,
            schedule_delay: "0s".to_owned(),
            startup_delay: "100ms".to_owned(),
        }
    }
}

/// How long to wait at most for an expiry before the clock is read again: it may have been set.
const CLOCK_CHECK: Duration = Duration::from_secs(60);

/// Callers that wait for a collection, at most; each is a client's call.
const MAX_WAITERS: usize = 1024;

/// Hears the sweeps that the collection asked for, or why it failed.
type Waiter = oneshot::Sender<std::result::Result<Asked, String>>;

/// Runs collections by the time table, and on demand.
pub struct Scheduler {
    requests: mpsc::Sender<Waiter>,
    /// How long a caller waits for sweeps.
    patience: Duration,
}

/// What commits tell the schedule.
#[derive(Default)]
struct Changes {
    mutations: AtomicU64,
    deletions: AtomicU64,
    /// Whether no tick is planned, so that one may have to be.
    parked: AtomicBool,
    changed: Notify,
}

impl Scheduler {
    /// Starts the schedule over `stores`; it ends with the runtime.
    ///
    /// # Errors
    /// InvalidArgument for a delay that is no duration.
    pub fn start(
        config: &SchedulerConfig,
        stores: Stores,
        metrics: &Registry,
    ) -> Result<Scheduler> {
        let duration = |key: &str, text: &str| {
            parse_duration(text)
                .ok_or_else(|| Error::invalid_argument(format!("{key}: {text:?} is no duration")))
        };
        let table = Table {
            pause: config.pause_threshold.clamp(0.0, 0.5),
            deletions: config.deletion_threshold,
            mutations: config.mutation_threshold,
            delay: duration("schedule_delay", &config.schedule_delay)?,
            startup: duration("startup_delay", &config.startup_delay)?,
        };
        let changes = Arc::new(Changes::default());
        let seen = Arc::clone(&changes);
        let (deletions, mutations) = (table.deletions, table.mutations);
        stores.metadata.on_change(move |mutation| {
            let changed = seen.mutations.fetch_add(1, Ordering::SeqCst) + 1;
            if mutation.deleted {
                seen.deletions.fetch_add(1, Ordering::SeqCst);
            }
            let worth = mutation.deleted || mutations > 0 && changed >= mutations;
            let planned = deletions == 0 && !seen.parked.load(Ordering::SeqCst);
            if worth && !planned || mutation.expires.is_some() {
                seen.changed.notify_one();
            }
        });
        // What a daemon before us did not get to is swept by the first collection.
        stores.metadata.mark_content_dirty();
        for name in stores.snapshots.keys() {
            stores.metadata.mark_snapshotter_dirty(name);
        }
        let (requests, waiters) = mpsc::channel(MAX_WAITERS);
        let run = Run {
            plan: Plan::new(table, Instant::now()),
            sweeps: Sweeps::new(stores.clone()),
            stores,
            changes,
            requests: waiters,
            collections: metrics.counter(
                "containerd_gc_collections_total",
                "counter of gc finished or failed",
                &["status"],
            ),
            seconds: metrics.histogram(
                "containerd_gc_gc_seconds",
                "The amount of time in seconds that garbage collection took",
                &[],
                &SECONDS,
            ),
        };
        tokio::spawn(run.schedule());
        Ok(Scheduler { requests, patience: SWEEP_PATIENCE })
    }
}

#[async_trait]
impl Collector for Scheduler {
    async fn collect(&self) -> Result<()> {
        let stopped = || Error::unavailable("the garbage collector has stopped");
        let (waiter, done) = oneshot::channel();
        self.requests.send(waiter).await.map_err(|_| stopped())?;
        let asked = done
            .await
            .map_err(|_| stopped())?
            .map_err(|text| Error::unknown(format!("gc failed: {text}")))?;
        // The client wants the space back.
        asked.wait(self.patience).await;
        Ok(())
    }
}

/// Collects nothing: records are missing, and what they named would be taken for garbage.
pub struct Withheld;

#[async_trait]
impl Collector for Withheld {
    async fn collect(&self) -> Result<()> {
        Err(Error::unavailable(
            "nothing is collected: this start could not make all records anew that are missing; \
             see its log, make room on the disk and start the daemon again",
        ))
    }
}

/// The schedule at work.
struct Run {
    plan: Plan,
    sweeps: Sweeps,
    stores: Stores,
    changes: Arc<Changes>,
    requests: mpsc::Receiver<Waiter>,
    collections: Family,
    seconds: Family,
}

impl Run {
    /// Waits for reasons to collect, and collects; until nobody can ask any more.
    async fn schedule(mut self) {
        let mut waiters = Vec::new();
        loop {
            let wake = self.look();
            tokio::select! {
                request = self.requests.recv() => match request {
                    Some(waiter) => {
                        waiters.push(waiter);
                        self.plan.requested(Instant::now());
                    }
                    None => return,
                },
                () = sleep_until(wake) => {}
                () = self.changes.changed.notified() => continue,
            }
            if self.plan.due(Instant::now()) {
                // Whoever has asked by now is served by this collection.
                while let Ok(waiter) = self.requests.try_recv() {
                    waiters.push(waiter);
                }
                self.collect(std::mem::take(&mut waiters)).await;
            }
        }
    }

    /// Brings the plan up to date; gives the time of the next look, if there is one.
    fn look(&mut self) -> Option<Instant> {
        // First parked, then the counts: a commit in between sees the one or is in the other.
        self.changes.parked.store(self.plan.next().is_none(), Ordering::SeqCst);
        let deletions = self.changes.deletions.load(Ordering::SeqCst);
        let mutations = self.changes.mutations.load(Ordering::SeqCst);
        let now = Instant::now();
        self.plan.changed(deletions, mutations, now);
        let mut clock = None;
        if let Some(expiry) = self.stores.metadata.next_expiry() {
            match expiry.duration_since(SystemTime::now()) {
                Ok(wait) if !wait.is_zero() => clock = Some(now + wait.min(CLOCK_CHECK)),
                _ => self.plan.expired(now),
            }
        }
        let next = self.plan.next();
        self.changes.parked.store(next.is_none(), Ordering::SeqCst);
        match (next, clock) {
            (Some(next), Some(clock)) => Some(next.min(clock)),
            (next, clock) => next.or(clock),
        }
    }

    async fn collect(&mut self, waiters: Vec<Waiter>) {
        self.changes.mutations.store(0, Ordering::SeqCst);
        self.changes.deletions.store(0, Ordering::SeqCst);
        let collection = match self.stores.metadata.collect().await {
            Ok(collection) => collection,
            Err(error) => Collection { failed: Some(error.to_string()), ..Collection::default() },
        };
        let now = Instant::now();
        if !collection.removed.is_empty() {
            let (removed, elapsed) = (collection.removed.len(), collection.elapsed);
            tracing::debug!(removed, ?elapsed, "garbage collected");
        }
        if collection.again {
            self.changes.deletions.fetch_add(1, Ordering::SeqCst);
        }
        tell(&self.stores, &collection);
        let asked = self.sweeps.ask(&collection);
        match &collection.failed {
            None => {
                self.plan.collected(collection.elapsed, now);
                self.collections.with(&["success"]).increment();
                self.seconds.observe(&[], collection.elapsed.as_secs_f64());
            }
            Some(error) => {
                tracing::error!(error, "garbage collection failed");
                self.plan.failed(now);
                self.collections.with(&["fail"]).increment();
            }
        }
        for waiter in waiters {
            let outcome = match &collection.failed {
                None => Ok(asked.clone()),
                Some(error) => Err(error.clone()),
            };
            // A client that has gone does not wait.
            let _ = waiter.send(outcome);
        }
    }
}

/// Sleeps for ever without a time.
async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// Publishes what clients are told of a collection: removed images and snapshots.
fn tell(stores: &Stores, collection: &Collection) {
    for removed in &collection.removed {
        let Ok(namespace) = Namespace::new(&removed.namespace) else { continue };
        match &removed.resource {
            Resource::Image(name) => {
                let event = ImageDelete { name: name.clone() };
                stores.notifier.publish(&namespace, "/images/delete", &event);
            }
            Resource::Snapshot { snapshotter, key } => {
                let event = SnapshotRemove { key: key.clone(), snapshotter: snapshotter.clone() };
                stores.notifier.publish(&namespace, "/snapshot/remove", &event);
            }
            Resource::Blob(_) | Resource::Lease(_) | Resource::Ingest(_) => {}
        }
    }
}
