//! The API's own state, and what all of its work needs.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api_shim::events::{ContainerDelete, TaskExit, TaskOom, TaskPaused, TaskResumed};
use api_shim::{Any, Name, typeurl};
use base_ident::Namespace;
use runtime_event::{Envelope, Exchange};
use runtime_supervisor::Supervisor;
use service_grpc::Notifier;
use store_metadata::{Metadata, Scope};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::container::{Container, Note};
use crate::linger::{Ends, Linger};
use crate::metrics::Timers;
use crate::state::StateDir;
use crate::{ApiError, Config, EventLog};

/// The label of a record that belongs to this API: the client's bundle.
pub(crate) const BUNDLE_LABEL: &str = "io.containerd.v0.bundle";

/// How long a call waits for containers of an earlier daemon to be found.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// What the API calls.
#[derive(Clone)]
pub struct Parts {
    /// The owner of all tasks.
    pub supervisor: Supervisor,
    /// The records of containers.
    pub metadata: Metadata,
    /// What happens to tasks, and who is told.
    pub exchange: Exchange,
}

/// The service `types.API` of 0.2. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Api(pub(crate) Arc<Engine>);

pub(crate) struct Engine {
    pub(crate) config: Config,
    pub(crate) supervisor: Supervisor,
    pub(crate) metadata: Metadata,
    pub(crate) notifier: Notifier,
    pub(crate) state: StateDir,
    pub(crate) log: EventLog,
    pub(crate) timers: Timers,
    pub(crate) linger: Linger,
    /// Places for starts.
    pub(crate) workers: Arc<Semaphore>,
    pub(crate) containers: Mutex<BTreeMap<String, Arc<Container>>>,
    /// False while containers of an earlier daemon are being found.
    pub(crate) ready: watch::Sender<bool>,
    exchange: Exchange,
    listening: AtomicBool,
    /// The lives of containers, which nobody's departure ends.
    jobs: Mutex<JoinSet<()>>,
}

impl Api {
    /// The service over `parts`. Nothing is made on disk before the first container.
    ///
    /// # Errors
    /// [`ApiError::File`] if the log of events cannot be read.
    pub fn new(config: Config, parts: Parts) -> Result<Self, ApiError> {
        let log = EventLog::open(&config.state_dir, config.retain_count)?;
        Ok(Api(Arc::new(Engine {
            supervisor: parts.supervisor,
            metadata: parts.metadata,
            notifier: Notifier::new(parts.exchange.clone()),
            state: StateDir::new(config.state_dir.clone()),
            log,
            timers: Timers::default(),
            linger: Linger::default(),
            workers: Arc::new(Semaphore::new(config.max_concurrent_starts.max(1))),
            containers: Mutex::default(),
            ready: watch::Sender::new(true),
            exchange: parts.exchange,
            listening: AtomicBool::new(false),
            jobs: Mutex::default(),
            config,
        })))
    }

    /// Finds the containers of an earlier daemon. Call it after the supervisor has begun to adopt
    /// its tasks, and before that has come anywhere; must be called inside a tokio runtime. Calls
    /// wait until it is done, which is bounded.
    pub fn restore(&self) {
        Engine::restore(&self.0);
    }
}

impl Engine {
    pub(crate) fn namespace(&self) -> &Namespace {
        &self.config.namespace
    }

    pub(crate) fn scope(&self) -> Scope {
        Scope::new(self.config.namespace.clone())
    }

    pub(crate) fn containers(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Container>>> {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the containers of an earlier daemon are known.
    pub(crate) async fn settled(&self) {
        let mut ready = self.ready.subscribe();
        let settled = ready.wait_for(|ready| *ready);
        if tokio::time::timeout(READY_LIMIT, settled).await.is_err() {
            tracing::warn!("containers of an earlier daemon are still being looked for");
        }
    }

    /// A container that was started.
    ///
    /// # Errors
    /// [`ApiError::ContainerNotFound`].
    pub(crate) fn container(&self, id: &str) -> Result<Arc<Container>, ApiError> {
        let container = self.containers().get(id).cloned();
        container.filter(|container| container.is_started()).ok_or(ApiError::ContainerNotFound)
    }

    /// Runs work to its end, whoever waits for it.
    pub(crate) fn job(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        while jobs.try_join_next().is_some() {}
        jobs.spawn(work);
    }

    /// Keeps output that nobody has read.
    pub(crate) fn hold(&self, ends: Ends) {
        if let Some(work) = self.linger.hold(ends) {
            self.job(work);
        }
    }

    /// Listens to what happens to the tasks of the namespace; once.
    ///
    /// # Errors
    /// [`ApiError::Other`] if there are too many subscribers.
    pub(crate) fn listen(self: &Arc<Self>) -> Result<(), ApiError> {
        if self.listening.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let filter = format!("namespace=={:?}", self.config.namespace.as_str());
        let mut events = match self.exchange.subscribe(&[filter]) {
            Ok(events) => events,
            Err(error) => {
                self.listening.store(false, Ordering::Release);
                return Err(ApiError::Other(error.to_string()));
            }
        };
        let engine = Arc::clone(self);
        self.job(async move {
            loop {
                let event = events.next().await;
                engine.hear(&event);
            }
        });
        Ok(())
    }

    /// Passes an event on to the container that it is about.
    fn hear(&self, event: &Envelope) {
        let Some((id, note)) = note(&event.event) else { return };
        let Some(container) = self.containers().get(&id).cloned() else { return };
        if container.notes.try_send(note).is_err() {
            tracing::warn!(id, ?note, "a container does not keep up with its events");
        }
    }

    /// Removes the record of a container, if it is ours.
    pub(crate) async fn delete_record(&self, id: &str) {
        let scope = self.scope();
        let name = id.to_owned();
        let deleted = self
            .metadata
            .update(move |tx| {
                let record = tx.view().container(&scope.namespace, &name)?;
                if !record.labels.contains_key(BUNDLE_LABEL) {
                    return Ok(false);
                }
                tx.delete_container(&scope, &name)?;
                Ok(true)
            })
            .await;
        match deleted {
            Ok(true) => {
                let event = ContainerDelete { id: id.to_owned() };
                self.notifier.publish(self.namespace(), "/containers/delete", &event);
            }
            Ok(false) => {}
            Err(error) if error.is_not_found() => {}
            Err(error) => tracing::error!(id, %error, "removing the record of a container"),
        }
    }
}

/// What an event means to a container, and to which.
fn note(event: &Any) -> Option<(String, Note)> {
    let name = typeurl::name(&event.type_url);
    if name == TaskExit::full_name() {
        let exit = typeurl::decode::<TaskExit>(event).ok()?;
        // The ends of execs are waited for.
        if exit.id != exit.container_id {
            return None;
        }
        Some((exit.container_id, Note::Exit { pid: exit.pid, status: exit.exit_status }))
    } else if name == TaskPaused::full_name() {
        Some((typeurl::decode::<TaskPaused>(event).ok()?.container_id, Note::Paused))
    } else if name == TaskResumed::full_name() {
        Some((typeurl::decode::<TaskResumed>(event).ok()?.container_id, Note::Resumed))
    } else if name == TaskOom::full_name() {
        Some((typeurl::decode::<TaskOom>(event).ok()?.container_id, Note::Oom))
    } else {
        None
    }
}

/// Runs what blocks on the file system on a thread for it.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(ApiError::Stopping))
}
