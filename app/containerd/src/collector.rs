//! When garbage is collected: containerd's scheduler, and the sweep behind it.
//!
//! Marking and removing records is the metadata's part. Here is the time table: a collection runs
//! after enough changes, when a client asks, and when the next lease or image expires; it uses at
//! most `pause_threshold` of the time. Sweeps of backends run beside everything else, so that a
//! backend that hangs delays nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use api_shim::events::{ImageDelete, SnapshotRemove};
use async_trait::async_trait;
use base_errors::{Error, Result};
use base_ident::Namespace;
use serde::{Deserialize, Serialize};
use service_grpc::{Collector, Stores};
use store_metadata::{Collection, Resource};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::config::parse_duration;

/// `[plugins."io.containerd.gc.v1.scheduler"]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct SchedulerConfig {
    /// The share of time that collections may take: 0 to 0.5.
    pub pause_threshold: f64,
    /// Deletions that trigger a collection at once; 0 means never.
    pub deletion_threshold: u64,
    /// Changes after which the next scheduled collection runs.
    pub mutation_threshold: u64,
    /// Delay between a trigger and its collection.
    pub schedule_delay: String,
    /// Delay of the first collection after the start.
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

/// The least time that a collection counts as when the interval is computed; as containerd.
const MIN_COLLECTION: Duration = Duration::from_millis(5);

/// The interval before anything was measured, and what a failed collection adds; as containerd.
const INITIAL_INTERVAL: Duration = Duration::from_secs(1);

/// At the latest after this long a collection looks for what has expired by time alone.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(60);

/// Callers that wait for a collection, at most; each is a client's call.
const MAX_WAITERS: usize = 1024;

type Waiter = oneshot::Sender<std::result::Result<(), String>>;

/// Runs collections by the time table, and on demand.
pub struct Scheduler {
    requests: mpsc::Sender<Waiter>,
}

#[derive(Default)]
struct Changes {
    mutations: AtomicU64,
    deletions: AtomicU64,
    changed: Notify,
}

impl Scheduler {
    /// Starts the schedule over `stores`; it ends with the runtime.
    pub fn start(config: &SchedulerConfig, stores: Stores) -> Result<Scheduler> {
        let duration = |key: &str, text: &str| {
            parse_duration(text)
                .ok_or_else(|| Error::invalid_argument(format!("{key}: {text:?} is no duration")))
        };
        let table = TimeTable {
            pause: config.pause_threshold.clamp(0.0, 0.5),
            deletions: config.deletion_threshold,
            mutations: config.mutation_threshold,
            delay: duration("schedule_delay", &config.schedule_delay)?,
            startup: duration("startup_delay", &config.startup_delay)?,
        };
        let changes = Arc::new(Changes::default());
        let seen = Arc::clone(&changes);
        stores.metadata.on_mutation(move |dirty| {
            seen.mutations.fetch_add(1, Ordering::Relaxed);
            if dirty {
                seen.deletions.fetch_add(1, Ordering::Relaxed);
            }
            seen.changed.notify_one();
        });
        // What a daemon before us did not get to is swept by the first collection.
        stores.metadata.mark_content_dirty();
        for name in stores.snapshots.keys() {
            stores.metadata.mark_snapshotter_dirty(name);
        }
        let (requests, waiters) = mpsc::channel(MAX_WAITERS);
        tokio::spawn(schedule(table, stores, changes, waiters));
        Ok(Scheduler { requests })
    }
}

#[async_trait]
impl Collector for Scheduler {
    async fn collect(&self) -> Result<()> {
        let stopped = || Error::unavailable("the garbage collector has stopped");
        let (waiter, done) = oneshot::channel();
        self.requests.send(waiter).await.map_err(|_| stopped())?;
        done.await
            .map_err(|_| stopped())?
            .map_err(|text| Error::unknown(format!("gc failed: {text}")))
    }
}

struct TimeTable {
    pause: f64,
    deletions: u64,
    mutations: u64,
    delay: Duration,
    startup: Duration,
}

/// Waits for reasons to collect, and collects.
async fn schedule(
    table: TimeTable,
    stores: Stores,
    changes: Arc<Changes>,
    mut requests: mpsc::Receiver<Waiter>,
) {
    let mut interval = INITIAL_INTERVAL;
    let (mut total, mut collections) = (Duration::ZERO, 0_u32);
    let mut next = Instant::now() + table.startup;
    let mut last = Instant::now();
    loop {
        let mut waiters = Vec::new();
        let due = tokio::select! {
            request = requests.recv() => match request {
                Some(waiter) => { waiters.push(waiter); true }
                None => return,
            },
            () = tokio::time::sleep_until(next.into()) => {
                next = Instant::now() + interval;
                let deleted = changes.deletions.load(Ordering::Relaxed) > 0;
                let mutated = changes.mutations.load(Ordering::Relaxed) >= table.mutations;
                collections == 0 || deleted || mutated || last.elapsed() >= EXPIRY_INTERVAL
            }
            () = changes.changed.notified(), if table.deletions > 0 => {
                changes.deletions.load(Ordering::Relaxed) >= table.deletions
            }
        };
        if !due {
            continue;
        }
        if !table.delay.is_zero() {
            tokio::time::sleep(table.delay).await;
        }
        while let Ok(waiter) = requests.try_recv() {
            waiters.push(waiter);
        }
        changes.mutations.store(0, Ordering::Relaxed);
        changes.deletions.store(0, Ordering::Relaxed);
        last = Instant::now();
        // The clients that wait want the space back, so they wait for the sweep as well.
        let outcome = collect(&stores, !waiters.is_empty()).await;
        match &outcome {
            Ok(elapsed) => {
                collections = collections.saturating_add(1);
                total += (*elapsed).max(MIN_COLLECTION);
                let average = total / collections;
                interval = if table.pause > 0.0 {
                    average.div_f64(table.pause).saturating_sub(average)
                } else {
                    EXPIRY_INTERVAL
                };
            }
            Err(error) => {
                tracing::error!(%error, "garbage collection failed");
                interval += INITIAL_INTERVAL;
            }
        }
        next = Instant::now() + interval;
        for waiter in waiters {
            let outcome = outcome.as_ref().map(|_| ()).map_err(ToString::to_string);
            let _ = waiter.send(outcome);
        }
    }
}

/// One collection; gives the time that marking and removing took.
async fn collect(stores: &Stores, wait_for_sweep: bool) -> Result<Duration> {
    let collection = stores.metadata.collect().await?;
    let elapsed = collection.elapsed;
    if !collection.removed.is_empty() {
        tracing::debug!(removed = collection.removed.len(), ?elapsed, "garbage collected");
    }
    tell(stores, &collection);
    let sweep = tokio::spawn(sweep(stores.clone(), collection));
    if wait_for_sweep {
        sweep.await.map_err(|error| Error::internal(error.to_string()))?;
    }
    Ok(elapsed)
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

/// Removes from the backends what no record names. Each backend by itself; a failure is tried
/// again with the next collection.
async fn sweep(stores: Stores, collection: Collection) {
    let content = async {
        if collection.sweep_content
            && let Err(error) = stores.content.sweep().await
        {
            tracing::error!(%error, "sweep of the content store failed");
            stores.metadata.mark_content_dirty();
        }
    };
    let snapshots =
        futures_util::future::join_all(collection.sweep_snapshotters.iter().map(async |name| {
            let Some(snapshots) = stores.snapshots.get(name) else { return };
            if let Err(error) = snapshots.sweep().await {
                tracing::error!(snapshotter = name, %error, "sweep of a snapshotter failed");
                stores.metadata.mark_snapshotter_dirty(name);
            }
        }));
    futures_util::join!(content, snapshots);
}
