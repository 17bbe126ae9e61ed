//! CreateContainer: from a bundle to a running container.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use api_grpc::v0;
use api_shim::events::{ContainerCreate, container_create};
use api_shim::typeurl;
use base_errors::{Class, Coded as _};
use runtime_supervisor::{CreateTask, Runtime};
use rustix::io::Errno;
use store_metadata::Container as Record;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};

use crate::container::{Container, Note};
use crate::engine::{BUNDLE_LABEL, Engine, blocking};
use crate::process::{OciProcess, Stdio, StoredProcess};
use crate::state::{INIT, StoredContainer};
use crate::{ApiError, Kind, checkpoint, runtime, spec, state};

/// The shim that runs containers of this API.
const RUNTIME_NAME: &str = "io.containerd.runc.v2";

/// How long the supervisor may take to take a start back that was given up.
const UNDO_LIMIT: Duration = Duration::from_secs(60);
/// Between two looks whether it has.
const UNDO_PACE: Duration = Duration::from_millis(20);

type Answer = oneshot::Sender<Result<v0::Container, ApiError>>;

impl Engine {
    /// Creates and starts a container. It goes on when the caller leaves, as in 0.2.
    pub(crate) async fn create_container(
        self: &Arc<Self>,
        request: v0::CreateContainerRequest,
    ) -> Result<v0::Container, ApiError> {
        if request.bundle_path.is_empty() {
            return Err(ApiError::BundleEmpty);
        }
        self.listen()?;
        let (answer, answered) = oneshot::channel();
        let engine = Arc::clone(self);
        self.job(async move { engine.run_container(request, answer).await });
        answered.await.unwrap_or(Err(ApiError::Stopping))
    }

    /// The life of a container, from the claim on its name to its last event.
    async fn run_container(self: Arc<Self>, request: v0::CreateContainerRequest, answer: Answer) {
        let begin = Instant::now();
        let (container, noted) = match self.claim(&request) {
            Ok(claimed) => claimed,
            Err(error) => {
                // An error of a send means that the caller has left.
                let _ = answer.send(Err(error));
                return;
            }
        };
        self.timers.create.since(begin);
        // Never closed.
        let mut place = Arc::clone(&self.workers).acquire_owned().await.ok();
        match self.start(&container, &request, &mut place).await {
            Ok(()) => {
                container.set_started();
                self.timers.start.since(begin);
                self.log.append(Kind::StartContainer, &container.id, "", 0);
                self.state.write_pid(&container.id, INIT, container.pid());
                let _ = answer.send(Ok(describe(&container, "running", Vec::new())));
                self.watch(&container, noted).await;
            }
            Err(ApiError::StartTimeout) => {
                // What hangs may hang for longer; its caller need not. The place comes free with
                // the supervisor's, so that the next one's time is its own.
                let _ = answer.send(Err(ApiError::StartTimeout));
                self.discard(&container, true).await;
            }
            Err(error) => {
                // A task of that name that was made through a newer service stays.
                let ours = error.class() != Class::AlreadyExists;
                self.discard(&container, ours).await;
                let _ = answer.send(Err(error));
            }
        }
    }

    /// Takes the name of a container, in the map and on disk.
    fn claim(
        &self,
        request: &v0::CreateContainerRequest,
    ) -> Result<(Arc<Container>, mpsc::Receiver<Note>), ApiError> {
        let own = !request.runtime.is_empty();
        let runtime = if own { &request.runtime } else { &self.config.runtime };
        // COMPAT: a runtime of its own takes the daemon's arguments away.
        let arguments = if own || !request.runtime_args.is_empty() {
            &request.runtime_args
        } else {
            &self.config.runtime_args
        };
        let stdio = Stdio::new(&request.stdin, &request.stdout, &request.stderr);
        let stored = StoredContainer {
            bundle: request.bundle_path.clone(),
            labels: Some(request.labels.clone()),
            stdin: stdio.stdin,
            stdout: stdio.stdout,
            stderr: stdio.stderr,
            runtime: runtime.clone(),
            runtime_args: Some(arguments.clone()),
            shim: String::new(),
            no_pivot_root: request.no_pivot_root,
        };
        let (container, noted) = Container::new(&request.id, stored, runtime.clone());
        let mut containers = self.containers();
        if containers.contains_key(&request.id) {
            return Err(ApiError::file("mkdir", self.state.container(&request.id), Errno::EXIST));
        }
        self.state.make_container(&request.id, &container.stored)?;
        containers.insert(request.id.clone(), Arc::clone(&container));
        Ok((container, noted))
    }

    async fn start(
        &self,
        container: &Arc<Container>,
        request: &v0::CreateContainerRequest,
        place: &mut Option<OwnedSemaphorePermit>,
    ) -> Result<(), ApiError> {
        self.check_free(&container.id)?;
        let path = request.bundle_path.clone();
        let bundle = blocking(move || spec::read(&path)).await?;
        let stored = &container.stored;
        let arguments = stored.runtime_args.clone().unwrap_or_default();
        let options =
            runtime::options(&stored.runtime, &arguments, stored.no_pivot_root, &self.config.root)?;
        let stdio = Stdio::new(&stored.stdin, &stored.stdout, &stored.stderr);
        self.add_init(container, &bundle.process, &stdio, request)?;

        let runtime =
            Runtime { name: RUNTIME_NAME.to_owned(), options: Some(typeurl::encode(&options)) };
        let image = if request.checkpoint.is_empty() {
            String::new()
        } else {
            let folder = checkpoint::folder(&stored.bundle, &request.checkpoint_dir);
            checkpoint::image(&folder, &request.checkpoint)?.to_string_lossy().into_owned()
        };
        let record = record(container, &runtime, bundle.spec.clone());
        let task = CreateTask {
            id: container.id.clone(),
            spec: Some(bundle.spec),
            runtime,
            stdin: Stdio::for_shim(&stdio.stdin),
            stdout: Stdio::for_shim(&stdio.stdout),
            stderr: Stdio::for_shim(&stdio.stderr),
            terminal: bundle.process.terminal,
            checkpoint: image,
            ..CreateTask::default()
        };
        let limit = self.config.start_timeout;
        // The record takes a write to disk, the task a few processes: neither waits for the other.
        let (created, recorded) = tokio::join!(
            timeout(limit, self.supervisor.create(self.namespace(), task)),
            self.make_record(record),
        );
        let created = created.map_err(|_| ApiError::StartTimeout)?;
        let pid = created.map_err(|error| self.failed_start(&container.id, &error))?;
        // What is left is quick: the next one can begin.
        place.take();
        recorded?;
        container.set_pid(INIT, pid);
        // The supervisor waits for the exit from here on: a fast one is not missed.
        let started =
            timeout(limit, self.supervisor.start(self.namespace(), &container.id, "")).await;
        let started = started.map_err(|_| ApiError::StartTimeout)?;
        let pid = started.map_err(|error| self.failed_start(&container.id, &error))?;
        container.set_pid(INIT, pid);
        Ok(())
    }

    /// Refuses a name that a newer service has given away.
    fn check_free(&self, id: &str) -> Result<(), ApiError> {
        let recorded = self.metadata.view(|tx| Ok(tx.container(self.namespace(), id)?)).is_ok();
        if recorded || self.supervisor.exists(self.namespace(), id) {
            return Err(ApiError::file("mkdir", self.state.container(id), Errno::EXIST));
        }
        Ok(())
    }

    fn failed_start(&self, id: &str, error: &base_errors::Error) -> ApiError {
        if error.is_already_exists() {
            // A task that was made through a newer service.
            return ApiError::file("mkdir", self.state.container(id), Errno::EXIST);
        }
        ApiError::of_start(error)
    }

    /// Records the first process.
    fn add_init(
        &self,
        container: &Container,
        process: &OciProcess,
        stdio: &Stdio,
        request: &v0::CreateContainerRequest,
    ) -> Result<(), ApiError> {
        let stored = StoredProcess {
            process: process.clone(),
            exec: false,
            stdin: stdio.stdin.clone(),
            stdout: stdio.stdout.clone(),
            stderr: stdio.stderr.clone(),
            runtime_args: container.stored.runtime_args.clone(),
            no_pivot_root: container.stored.no_pivot_root,
            checkpoint: request.checkpoint.clone(),
            ..StoredProcess::default()
        };
        self.state.make_process(&container.id, INIT, &stored)?;
        container.add(INIT, process.message(INIT, stdio), stdio.clone())
    }

    async fn make_record(&self, record: Record) -> Result<(), ApiError> {
        let scope = self.scope();
        let created = self.metadata.update(move |tx| tx.create_container(&scope, record)).await;
        let created = created.map_err(|error| {
            // A container that was made through a newer service.
            ApiError::Other(error.to_string())
        })?;
        let event = ContainerCreate {
            id: created.id,
            image: created.image,
            runtime: Some(container_create::Runtime {
                name: created.runtime.name,
                options: created.runtime.options,
            }),
        };
        self.notifier.publish(self.namespace(), "/containers/create", &event);
        Ok(())
    }

    /// Takes back what there is of a container that was not started. No event tells of it.
    pub(crate) async fn discard(&self, container: &Container, with_task: bool) {
        let id = &container.id;
        if with_task {
            self.end_task(id).await;
        }
        self.delete_record(id).await;
        let gone = {
            let mut containers = self.containers();
            containers.remove(id);
            self.state.retire(id, None)
        };
        if let Some(gone) = gone {
            state::remove(&gone);
        }
    }

    /// Ends a task that was created, or waits until the supervisor has taken it back.
    async fn end_task(&self, id: &str) {
        let end = Instant::now() + UNDO_LIMIT;
        while self.supervisor.exists(self.namespace(), id) && Instant::now() < end {
            let _ = self.supervisor.kill(self.namespace(), id, "", 9, true).await;
            let _ = self.supervisor.delete(self.namespace(), id).await;
            sleep(UNDO_PACE).await;
        }
    }
}

/// The record of a container for the newer services.
fn record(container: &Container, runtime: &Runtime, spec: api_shim::Any) -> Record {
    let mut labels = BTreeMap::from([(BUNDLE_LABEL.to_owned(), container.stored.bundle.clone())]);
    for label in container.stored.labels.iter().flatten() {
        // COMPAT: a label of 0.2 is any text.
        let (key, value) = label.split_once('=').unwrap_or((label, ""));
        if !key.is_empty() && base_ident::validate_label(key, value).is_ok() {
            labels.entry(key.to_owned()).or_insert_with(|| value.to_owned());
        }
    }
    Record {
        id: container.id.clone(),
        labels,
        image: String::new(),
        runtime: store_metadata::Runtime {
            name: runtime.name.clone(),
            options: runtime.options.clone(),
        },
        spec: Some(spec),
        snapshotter: String::new(),
        snapshot_key: String::new(),
        created_at: SystemTime::UNIX_EPOCH,
        updated_at: SystemTime::UNIX_EPOCH,
        extensions: BTreeMap::new(),
        sandbox_id: String::new(),
    }
}

/// The message of a container.
pub(crate) fn describe(container: &Container, status: &str, pids: Vec<u32>) -> v0::Container {
    v0::Container {
        id: container.id.clone(),
        bundle_path: container.stored.bundle.clone(),
        processes: container.processes(),
        status: status.to_owned(),
        labels: container.stored.labels.clone().unwrap_or_default(),
        pids,
        runtime: container.runtime.clone(),
    }
}
