//! From a request to a created task: queue, bundle, shim, container.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use api_shim::task::{
    ConnectRequest, ConnectResponse, CreateTaskRequest, CreateTaskResponse, DeleteRequest,
    ShutdownRequest,
};
use api_shim::{Any, types};
use base_errors::ResultExt as _;
use base_ident::{Namespace, validate_identifier};
use kernel_process::PidFd;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::{sleep, timeout};

use crate::adopt::Contact;
use crate::bootstrap::Bootstrap;
use crate::bundle::Bundle;
use crate::checkpoint::Unpack;
use crate::connection::{CallError, Connection};
use crate::operation::OperationGuard;
use crate::resolve::{runtime_options, shim_program, task_options};
use crate::slots::Slot;
use crate::supervisor::{Helper, Inner, Runtime, Supervisor, blocking};
use crate::task::Task;
use crate::{ShimError, TaskError};

/// The most creates that wait for a place; each holds a request in memory.
const MAX_WAITING: usize = 4096;
/// A create that takes longer gives its place to the next one: what it waits for, a mount or a
/// hook, is not what the queue protects, and ten of them must not stop a node.
const PLACE_LIMIT: Duration = Duration::from_secs(10);

/// A task to create.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CreateTask {
    /// Id of the container, which becomes that of the task.
    pub id: String,
    /// The spec from the container's record; its bytes become `config.json`.
    pub spec: Option<Any>,
    /// The runtime from the container's record.
    pub runtime: Runtime,
    /// The sandbox that the container belongs to, if any.
    pub sandbox_id: String,
    /// What the shim mounts on `rootfs`.
    pub rootfs: Vec<types::Mount>,
    /// Fifo or URI, empty for none.
    pub stdin: String,
    /// Fifo or URI, empty for none.
    pub stdout: String,
    /// Fifo or URI, empty for none.
    pub stderr: String,
    /// Whether the process gets a terminal.
    pub terminal: bool,
    /// Folder of a checkpoint to restore from, empty for none.
    pub checkpoint: String,
    /// Makes such a folder for the time until the task runs, in place of `checkpoint`.
    pub unpack: Option<Unpack>,
    /// Options of the task; those of the runtime if there are none.
    pub options: Option<Any>,
    /// Program of the shim, in place of the runtime's name; empty for none.
    pub runtime_path: String,
    /// A task service that is there already, in place of a shim of its own; empty for none.
    pub task_api_address: String,
    /// Version of that service.
    pub task_api_version: u32,
}

/// A shim that can be called, and what there is to know about it.
struct Launched {
    connection: Connection,
    bootstrap: Bootstrap,
    program: PathBuf,
    shared: bool,
    log: Option<Helper>,
}

/// How a create has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    /// The shim has said why.
    Told,
    /// The shim has not answered, or nobody waits for it any more.
    Silent,
    /// Shim or runtime have a container of this name already, which is not this request's.
    Foreign,
}

impl Failure {
    fn of(error: &base_errors::Error) -> Self {
        // Shims have no class for what runtimes say, and runtimes have these words in common.
        let foreign = error.is_already_exists() || error.message().contains("already exists");
        if foreign { Failure::Foreign } else { Failure::Told }
    }
}

impl Supervisor {
    /// Creates a task and gives the pid of its init process, which waits to be started.
    ///
    /// When the future is dropped, a create that has not succeeded yet is undone.
    ///
    /// # Errors
    /// Already exists if there is such a task; what shim and runtime say. A failed create leaves
    /// nothing behind.
    pub async fn create(
        &self,
        namespace: &Namespace,
        mut request: CreateTask,
    ) -> base_errors::Result<u32> {
        request.runtime.options = runtime_options(request.runtime.options);
        let id = request.id.clone();
        validate_identifier(&id).map_err(|source| TaskError::Id { id: id.clone(), source })?;
        let claim = loop {
            match self.inner.slots.claim(namespace, &id, Slot::Creating) {
                Ok(claim) => break claim,
                Err(Slot::Adopting(_)) => {
                    // Settled afterwards, or an error.
                    match self.inner.task(namespace, &id).await {
                        Err(error) if !error.is_not_found() => return Err(error),
                        _ => {}
                    }
                }
                Err(Slot::Creating) => {
                    let error = TaskError::Exists(id.clone());
                    return Err(self.inner.held_up(namespace, &id, error));
                }
                Err(Slot::Live(_)) => return Err(TaskError::Exists(id).into()),
            }
        };
        let inner = Arc::clone(&self.inner);
        let namespace = namespace.clone();
        // Dropped with this future, which tells the work that nobody waits for it.
        let (_caller, gone) = oneshot::channel();
        self.inner
            .owned("create", async move {
                let task = inner.create(&namespace, &request, gone).await?;
                let pid = task.pid();
                claim.give(Arc::clone(&task));
                Inner::watch_task(&inner, &task);
                Ok(pid)
            })
            .await
    }
}

impl Inner {
    async fn create(
        &self,
        namespace: &Namespace,
        request: &CreateTask,
        mut gone: oneshot::Receiver<()>,
    ) -> base_errors::Result<Arc<Task>> {
        let operation = self.operation("create", namespace, &request.id, None);
        operation.phase("waiting for a place in the start queue");
        let place = self.place(&request.id, &mut gone).await?;
        let mut work = std::pin::pin!(self.build(namespace, request, &operation, gone));
        tokio::select! {
            result = &mut work => result,
            () = sleep(PLACE_LIMIT) => {
                drop(place);
                work.await
            }
        }
    }

    async fn place(
        &self,
        id: &str,
        gone: &mut oneshot::Receiver<()>,
    ) -> base_errors::Result<OwnedSemaphorePermit> {
        if let Ok(place) = Arc::clone(&self.starts).try_acquire_owned() {
            return Ok(place);
        }
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let result = if before >= MAX_WAITING {
            Err(TaskError::QueueFull(before).into())
        } else {
            let cancelled = || TaskError::Cancelled(id.to_owned()).into();
            tokio::select! {
                place = Arc::clone(&self.starts).acquire_owned() => place.map_err(|_| cancelled()),
                _ = gone => Err(cancelled()),
            }
        };
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        result
    }

    async fn build(
        &self,
        namespace: &Namespace,
        request: &CreateTask,
        operation: &OperationGuard,
        gone: oneshot::Receiver<()>,
    ) -> base_errors::Result<Arc<Task>> {
        operation.phase("making the bundle");
        let bundle = Bundle::new(&self.config, namespace, &request.id);
        self.make_bundle(&bundle, request.spec.clone()).await?;

        let checkpoint = match &request.unpack {
            None => request.checkpoint.clone(),
            Some(unpack) => {
                operation.phase("unpacking the checkpoint");
                match self.unpack_checkpoint(&bundle, unpack).await {
                    Ok(folder) => folder,
                    Err(error) => {
                        self.remove_bundle(&bundle).await;
                        return Err(error);
                    }
                }
            }
        };

        operation.phase("starting the shim");
        let launched = match self.launch(&bundle, request).await {
            Ok(launched) => launched,
            Err(error) => {
                operation.phase("undoing");
                self.undo_launch(&bundle, request).await;
                return Err(error.context("failed to start shim"));
            }
        };

        operation.phase("creating the container");
        let options = task_options(request.options.clone(), request.runtime.options.as_ref());
        let message = CreateTaskRequest {
            id: request.id.clone(),
            bundle: bundle.path.to_string_lossy().into_owned(),
            rootfs: request.rootfs.clone(),
            terminal: request.terminal,
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            checkpoint,
            parent_checkpoint: String::new(),
            options,
        };
        let limit = Some(self.config.timeouts.long_call);
        let mut failure = Failure::Told;
        let created: base_errors::Result<CreateTaskResponse> = tokio::select! {
            created = launched.connection.call_any_version("Create", &message, limit) => {
                created.map_err(|error| {
                    let silent = error.is_timeout();
                    let error = base_errors::Error::from(error);
                    failure = if silent { Failure::Silent } else { Failure::of(&error) };
                    error
                })
            }
            _ = gone => {
                failure = Failure::Silent;
                Err(TaskError::Cancelled(request.id.clone()).into())
            }
        };
        match created {
            Ok(created) => {
                if launched.connection.version() != launched.bootstrap.version {
                    let mut bootstrap = launched.bootstrap.clone();
                    bootstrap.version = launched.connection.version();
                    if let Err(error) = bundle.write_bootstrap(&bootstrap, &launched.program) {
                        tracing::warn!(task = %bundle.object(), %error, "bootstrap.json");
                    }
                }
                let Launched { connection, program, shared, log, .. } = launched;
                let options = request.runtime.options.clone();
                let task = Task::new(bundle, connection, program, options, shared, created.pid);
                if let Some(log) = log {
                    task.add_helper(log);
                }
                Ok(Arc::new(task))
            }
            Err(error) => {
                operation.phase("undoing");
                self.undo_create(&bundle, &launched, request, failure).await;
                Err(error.context("failed to create shim task"))
            }
        }
    }

    /// Makes the bundle. One that is there belongs to no task any more: its removal failed once.
    async fn make_bundle(&self, bundle: &Bundle, spec: Option<Any>) -> base_errors::Result<()> {
        if bundle.exists() && !matches!(self.contact(bundle).await, Contact::Dead) {
            // Somebody lives there whom nobody has adopted.
            return Err(TaskError::Exists(bundle.id.clone()).into());
        }
        let ours = bundle.clone();
        blocking("bundle", move || {
            if ours.exists() {
                ours.remove()?;
            }
            Ok(ours.create(spec.as_ref())?)
        })
        .await
    }

    /// Finds or starts the shim, connects, and records it in the bundle.
    async fn launch(&self, bundle: &Bundle, request: &CreateTask) -> base_errors::Result<Launched> {
        let program = self.program_of(request)?;
        let limit = self.config.timeouts.shim_load;
        if let Some(bootstrap) = self.existing_service(bundle, request)? {
            bundle.write_sandbox(&request.sandbox_id)?;
            bundle.write_bootstrap(&bootstrap, &program)?;
            let connection = Connection::open(&bootstrap, &bundle.namespace, limit).await?;
            return Ok(Launched { connection, bootstrap, program, shared: true, log: None });
        }
        // A shim opens its log before it serves, and waits until somebody reads it.
        let log = self.copy_log(bundle)?;
        let options = request.runtime.options.as_ref();
        let bootstrap =
            self.programs.start(&program, bundle, options).await.context("start failed")?;
        let connection = Connection::open(&bootstrap, &bundle.namespace, limit).await?;
        bundle.write_bootstrap(&bootstrap, &program)?;
        Ok(Launched { connection, bootstrap, program, shared: false, log: Some(log) })
    }

    /// The program of the shim that the request asks for.
    fn program_of(&self, request: &CreateTask) -> Result<PathBuf, ShimError> {
        let runtime = match request.runtime_path.as_str() {
            "" => &request.runtime.name,
            path => path,
        };
        shim_program(runtime, &self.config.containerd_binary)
    }

    /// The task service that the request names, or the one of its sandbox if that can be shared.
    fn existing_service(
        &self,
        bundle: &Bundle,
        request: &CreateTask,
    ) -> base_errors::Result<Option<Bootstrap>> {
        if !request.task_api_address.is_empty() {
            let version = request.task_api_version;
            return Ok(Some(Bootstrap::new(version, &request.task_api_address, "").checked()?));
        }
        if request.sandbox_id.is_empty() || request.sandbox_id == request.id {
            return Ok(None);
        }
        let sandbox = self.slots.get(&bundle.namespace, &request.sandbox_id);
        // Only services of version 3 know that they are shared; the others are asked by `start`,
        // which groups containers by an annotation of their spec.
        Ok(match sandbox {
            Some(Slot::Live(task)) if task.connection.version() >= 3 => {
                task.bundle.read_bootstrap()
            }
            _ => None,
        })
    }

    /// After a shim that did not come up.
    async fn undo_launch(&self, bundle: &Bundle, request: &CreateTask) {
        if !bundle.shares_shim() {
            self.end_abandoned(bundle).await;
        }
        // It may have come up all the same, too late or without a readable answer.
        if bundle.read_bootstrap().is_some()
            && !bundle.shares_shim()
            && let Ok(program) = self.program_of(request)
            && let Err(error) =
                self.programs.delete(&program, bundle, request.runtime.options.as_ref()).await
        {
            tracing::warn!(task = %bundle.object(), %error, "failed to clean up after shim start");
        }
        if !bundle.shares_shim() {
            self.remove_dead_socket(bundle).await;
        }
        self.remove_cgroup(bundle).await;
        self.remove_bundle(bundle).await;
    }

    /// After a container that could not be created, or that nobody waits for any more. A shim that
    /// has not answered may still be creating it, whatever it says about it.
    ///
    /// What was there before under this name stays as it is: nobody kills on doubt.
    async fn undo_create(
        &self,
        bundle: &Bundle,
        launched: &Launched,
        request: &CreateTask,
        failure: Failure,
    ) {
        let limit = Some(self.config.timeouts.shim_cleanup);
        let connection = &launched.connection;
        let mut clean = match failure {
            Failure::Foreign => true,
            Failure::Told | Failure::Silent => {
                let delete = DeleteRequest { id: bundle.id.clone(), exec_id: String::new() };
                let deleted: Result<api_shim::task::DeleteResponse, CallError> =
                    connection.call("Delete", &delete, limit).await;
                match deleted {
                    Ok(_) => true,
                    Err(error) => failure == Failure::Told && error.is_not_found(),
                }
            }
        };
        if !launched.shared {
            // One that has a container stays.
            clean &= self.shut_down_shim(connection, bundle).await || failure == Failure::Foreign;
            if failure == Failure::Silent {
                self.end_silent_shim(connection, &bundle.id).await;
            }
        }
        if !clean
            && !launched.shared
            && let Err(error) = self
                .programs
                .delete(&launched.program, bundle, request.runtime.options.as_ref())
                .await
        {
            tracing::warn!(task = %bundle.object(), %error, "failed to clean up after create");
        }
        if !launched.shared {
            self.remove_dead_socket(bundle).await;
        }
        if failure != Failure::Foreign {
            self.remove_cgroup(bundle).await;
        }
        self.remove_bundle(bundle).await;
    }

    /// Ends a shim that may hang in a create which nobody waits for any more.
    async fn end_silent_shim(&self, connection: &Connection, id: &str) {
        if timeout(self.config.timeouts.shim_shutdown, connection.closed()).await.is_ok() {
            return;
        }
        let request = ConnectRequest { id: id.to_owned() };
        let limit = Some(self.config.timeouts.task_state);
        let answer: Result<ConnectResponse, CallError> =
            connection.call("Connect", &request, limit).await;
        let pid = answer.ok().and_then(|answer| i32::try_from(answer.shim_pid).ok());
        let Some(pid) = pid.filter(|pid| *pid > 0) else {
            tracing::warn!(id, "a shim hangs and does not say who it is");
            return;
        };
        // INVARIANT: it answered, and is still connected once it is opened: the pid is its own.
        if let Ok(shim) = PidFd::open(pid)
            && !connection.is_closed()
            && let Err(error) = shim.kill()
        {
            tracing::warn!(id, %error, "killing a shim that hangs");
        }
    }

    /// Asks the shim of a bundle to end; true if it agreed or has ended.
    pub(crate) async fn shut_down_shim(&self, connection: &Connection, bundle: &Bundle) -> bool {
        let id = bundle.id.clone();
        let request = ShutdownRequest { id: id.clone(), now: false };
        let limit = Some(self.config.timeouts.shim_shutdown);
        match connection.call::<_, ()>("Shutdown", &request, limit).await {
            Ok(()) => true,
            Err(CallError::Closed) => {
                // It died, or had just left.
                self.remove_dead_socket(bundle).await;
                true
            }
            Err(CallError::Failed(error)) => {
                tracing::error!(id, %error, "failed to shutdown shim task and the shim might be leaked");
                false
            }
        }
    }

    /// Removes the bundle; what stays is logged, and removed when the name is used again.
    pub(crate) async fn remove_bundle(&self, bundle: &Bundle) {
        let ours = bundle.clone();
        if let Err(error) = blocking("bundle removal", move || ours.remove()).await {
            tracing::error!(task = %bundle.object(), %error, "failed to delete bundle");
        }
    }
}
