//! The owner of all task state.

use std::fs::DirBuilder;
use std::future::Future;
use std::os::unix::fs::DirBuilderExt as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use api_shim::Any;
use base_ident::Namespace;
use futures_util::future::BoxFuture;
use runtime_event::Exchange;
use tokio::sync::{Semaphore, broadcast, oneshot};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, timeout};

use crate::bundle::Bundle;
use crate::event::Returning;
use crate::operation::{OperationGuard, Operations, Starts};
use crate::program::Programs;
use crate::reconcile::Memory;
use crate::slots::{Slot, Slots};
use crate::task::Task;
use crate::{BundleError, Config, Operation, TaskError, shim_log};

/// Mode of the plugin's folders.
const FOLDER_MODE: u32 = 0o711;
/// How long the end of the daemon waits for cleanups; they bound themselves, this bounds their sum.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(10);
/// Dead shims that wait to be noticed; whoever is slower looks at everything.
const MAX_DEATHS: usize = 256;

/// The runtime of a container, as its record names it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Runtime {
    /// `io.containerd.runc.v2`, or the path of a shim program.
    pub name: String,
    /// Options for the runtime.
    pub options: Option<Any>,
}

/// What the supervisor asks about the records of containers. It asks only while it adopts.
pub trait Containers: Send + Sync + 'static {
    /// The runtime of a container, `None` if there is no record.
    fn runtime<'a>(
        &'a self,
        namespace: &'a Namespace,
        id: &'a str,
    ) -> BoxFuture<'a, Option<Runtime>>;
}

/// No records at all: every shim is taken for one of the default runtime.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoContainers;

impl Containers for NoContainers {
    fn runtime<'a>(
        &'a self,
        _namespace: &'a Namespace,
        _id: &'a str,
    ) -> BoxFuture<'a, Option<Runtime>> {
        Box::pin(std::future::ready(None))
    }
}

/// The owner of all tasks. Cheap to clone; all clones are one supervisor.
///
/// When the last clone is dropped, or after [`shutdown`](Self::shutdown), nothing is watched any
/// more; the shims and their containers live on.
#[derive(Clone)]
pub struct Supervisor {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) config: Arc<Config>,
    pub(crate) exchange: Exchange,
    pub(crate) returning: Returning,
    pub(crate) containers: Arc<dyn Containers>,
    pub(crate) programs: Programs,
    pub(crate) slots: Slots,
    pub(crate) operations: Operations,
    /// Places for creates.
    pub(crate) starts: Arc<Semaphore>,
    /// Creates that wait for a place.
    pub(crate) waiting: AtomicUsize,
    /// When a shim was adopted last, or the adoption began.
    pub(crate) settled: tokio::sync::watch::Sender<Instant>,
    /// Tells of the tasks whose shims have died, when they are cleaned up.
    pub(crate) deaths: broadcast::Sender<(Namespace, String)>,
    /// What the rounds of reconciliation remember.
    pub(crate) memory: Mutex<Memory>,
    /// Work that is finished even if nobody waits for it.
    jobs: Mutex<JoinSet<()>>,
    /// Watchers of shims; they end with the supervisor.
    watchers: Mutex<JoinSet<()>>,
}

impl Supervisor {
    /// A supervisor without tasks; makes its folders. [`adopt_all`](Self::adopt_all) finds the tasks
    /// that live already. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`BundleError`] if a folder cannot be made.
    pub fn new(
        config: Config,
        exchange: Exchange,
        containers: Arc<dyn Containers>,
    ) -> base_errors::Result<Self> {
        for folder in [config.bundles(), config.work()] {
            DirBuilder::new()
                .recursive(true)
                .mode(FOLDER_MODE)
                .create(&folder)
                .map_err(|error| BundleError::path("mkdir", folder, error))?;
        }
        let config = Arc::new(config);
        Ok(Supervisor {
            inner: Arc::new(Inner {
                programs: Programs::new(Arc::clone(&config)),
                starts: Arc::new(Semaphore::new(config.max_concurrent_starts.max(1))),
                config,
                exchange,
                returning: Returning::default(),
                containers,
                slots: Slots::default(),
                operations: Operations::default(),
                waiting: AtomicUsize::new(0),
                settled: tokio::sync::watch::Sender::new(Instant::now()),
                deaths: broadcast::Sender::new(MAX_DEATHS),
                memory: Mutex::default(),
                jobs: Mutex::default(),
                watchers: Mutex::default(),
            }),
        })
    }

    /// All operations in flight, the oldest first.
    #[must_use]
    pub fn operations(&self) -> Vec<Operation> {
        self.inner.operations.list()
    }

    /// How the start queue stands.
    #[must_use]
    pub fn starts(&self) -> Starts {
        let places = self.inner.config.max_concurrent_starts.max(1);
        let running = places.saturating_sub(self.inner.starts.available_permits());
        Starts { places, running, waiting: self.inner.waiting.load(Ordering::Relaxed) }
    }

    /// True if there is such a task, or one is being created or adopted under that name.
    #[must_use]
    pub fn exists(&self, namespace: &Namespace, id: &str) -> bool {
        self.inner.slots.get(namespace, id).is_some()
    }

    /// Stops to watch, and waits a bounded time for creates, deletes and cleanups in flight. Shims
    /// and containers live on.
    pub async fn shutdown(&self) {
        self.inner.watchers.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
        for task in self.inner.slots.live() {
            task.abort_helpers();
        }
        let mut jobs =
            std::mem::take(&mut *self.inner.jobs.lock().unwrap_or_else(PoisonError::into_inner));
        let all = async { while jobs.join_next().await.is_some() {} };
        if timeout(SHUTDOWN_LIMIT, all).await.is_err() {
            tracing::warn!(left = jobs.len(), "cleanups did not end before the daemon");
        }
    }
}

impl Inner {
    /// Enters an operation on a task into the table.
    pub(crate) fn operation(
        &self,
        kind: &'static str,
        namespace: &Namespace,
        id: &str,
        deadline: Option<Duration>,
    ) -> OperationGuard {
        self.operations.begin(kind, format!("{namespace}/{id}"), deadline)
    }

    /// `error` with the operations on a task that are in flight: what its caller waited for.
    pub(crate) fn held_up(
        &self,
        namespace: &Namespace,
        id: &str,
        error: impl Into<base_errors::Error>,
    ) -> base_errors::Error {
        let error = error.into();
        let holders = self.operations.on(&format!("{namespace}/{id}"));
        if holders.is_empty() {
            return error;
        }
        error.context(format!("in flight: {holders}"))
    }

    /// Runs work that is finished even if nobody waits for it.
    pub(crate) fn job(&self, work: impl Future<Output = ()> + Send + 'static) {
        spawn_in(&self.jobs, work);
    }

    /// Runs work that is finished even if the caller goes away, and waits for its answer.
    pub(crate) async fn owned<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl Future<Output = base_errors::Result<T>> + Send + 'static,
    ) -> base_errors::Result<T> {
        let (answer, answered) = oneshot::channel();
        self.job(async move {
            // An error means that the caller went away.
            let _ = answer.send(work.await);
        });
        answered.await.unwrap_or_else(|_| Err(TaskError::Interrupted(name).into()))
    }

    /// Copies the log of a shim until the handle is dropped.
    pub(crate) fn copy_log(&self, bundle: &Bundle) -> Result<Helper, BundleError> {
        let fifo = shim_log::open(&bundle.log())?;
        Ok(Helper(spawn_in(&self.watchers, shim_log::copy(fifo))))
    }

    /// Runs a watcher that belongs to no task and must not keep the supervisor alive.
    pub(crate) fn watch_forever<F: Future<Output = ()> + Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(Weak<Inner>) -> F,
    ) {
        spawn_in(&self.watchers, work(Arc::downgrade(self)));
    }

    /// The task of that name. Waits a bounded time for one that is being adopted.
    pub(crate) async fn task(
        &self,
        namespace: &Namespace,
        id: &str,
    ) -> base_errors::Result<Arc<Task>> {
        let not_found = || TaskError::NotFound(id.to_owned()).into();
        match self.slots.get(namespace, id) {
            Some(Slot::Live(task)) => Ok(task),
            None | Some(Slot::Creating) => Err(not_found()),
            Some(Slot::Adopting(mut settled)) => {
                let wait = async { while settled.changed().await.is_ok() {} };
                if timeout(self.config.timeouts.task_state, wait).await.is_err() {
                    let error = TaskError::Reconnecting(id.to_owned());
                    return Err(self.held_up(namespace, id, error));
                }
                match self.slots.get(namespace, id) {
                    Some(Slot::Live(task)) => Ok(task),
                    _ => Err(not_found()),
                }
            }
        }
    }
}

/// Work that ends when this is dropped.
pub(crate) struct Helper(AbortHandle);

impl Drop for Helper {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Runs a watcher that must not keep the supervisor alive.
pub(crate) fn watch<F: Future<Output = ()> + Send + 'static>(
    inner: &Arc<Inner>,
    work: impl FnOnce(Weak<Inner>) -> F,
) -> Helper {
    Helper(spawn_in(&inner.watchers, work(Arc::downgrade(inner))))
}

fn spawn_in(
    set: &Mutex<JoinSet<()>>,
    work: impl Future<Output = ()> + Send + 'static,
) -> AbortHandle {
    let mut set = set.lock().unwrap_or_else(PoisonError::into_inner);
    // What has ended leaves the set, so that it stays as small as the work in flight.
    while set.try_join_next().is_some() {}
    set.spawn(work)
}

/// Runs blocking work on a thread for it.
pub(crate) async fn blocking<T: Send + 'static>(
    name: &'static str,
    work: impl FnOnce() -> base_errors::Result<T> + Send + 'static,
) -> base_errors::Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(TaskError::Interrupted(name).into()),
    }
}
