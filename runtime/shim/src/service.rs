//! The task service: requests to containers, containers to responses and events.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use api_shim::events::{
    TaskCheckpointed, TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskIo, TaskPaused,
    TaskResumed, TaskStart,
};
use api_shim::process::ProcessInfo;
use api_shim::task::{
    CheckpointTaskRequest, CloseIoRequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
    CreateTaskResponse, DeleteRequest, DeleteResponse, ExecProcessRequest, KillRequest,
    PauseRequest, PidsRequest, PidsResponse, ResizePtyRequest, ResumeRequest, ShutdownRequest,
    StartRequest, StartResponse, StateRequest, StateResponse, StatsRequest, StatsResponse, Task,
    UpdateTaskRequest, WaitRequest, WaitResponse,
};
use api_shim::{Any, Timestamp, linux_runc, runc, typeurl};
use api_ttrpc::{Context, Status};
use base_errors::{Error, Result};
use base_ident::validate_identifier;
use runtime_runc::{CheckpointOptions, ExitWatch, Reaper};
use tokio::sync::{Notify, watch};

use crate::bootstrap::socket::Own;
use crate::container::{Container, SIGKILL};
use crate::events::Publisher;
use crate::idle::{Idle, Need};
use crate::process::{Ended, Process};
use crate::stdio::{Endpoints, Remainders};
use crate::{create, lock, supervise};

/// Go's zero time, the year 1: a process that has not ended.
const ZERO_TIME: Timestamp = Timestamp { seconds: -62_135_596_800, nanos: 0 };

/// The shim's state, and its service.
pub(crate) struct Service {
    namespace: String,
    /// Where this shim is found.
    socket: Arc<Own>,
    reaper: Reaper,
    publisher: Publisher,
    containers: Mutex<Containers>,
    /// Tells that a creation has ended.
    settled: Notify,
    /// Becomes true when the shim is to leave.
    leave: watch::Sender<bool>,
    idle: Arc<Idle>,
    /// Output of deleted processes that is still being read.
    pub(crate) remainders: Remainders,
}

#[derive(Default)]
struct Containers {
    made: BTreeMap<String, Arc<Container>>,
    /// Ids whose creation is under way.
    reserved: BTreeSet<String>,
    /// How many sandboxes there are; each keeps the shim.
    sandboxes: usize,
}

/// Frees a reserved id.
struct Reservation<'a> {
    service: &'a Service,
    id: String,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        lock(&self.service.containers).reserved.remove(&self.id);
        self.service.settled.notify_waiters();
    }
}

impl Service {
    pub(crate) fn new(
        namespace: &str,
        socket: Arc<Own>,
        reaper: Reaper,
        publisher: Publisher,
        idle: Arc<Idle>,
    ) -> Self {
        Service {
            namespace: namespace.to_owned(),
            socket,
            reaper,
            publisher,
            containers: Mutex::default(),
            settled: Notify::new(),
            leave: watch::Sender::new(false),
            idle,
            remainders: Remainders::default(),
        }
    }

    /// Tells when the shim is to leave.
    pub(crate) fn leaving(&self) -> watch::Receiver<bool> {
        self.leave.subscribe()
    }

    /// Leaves, unless there is a container or a sandbox.
    pub(crate) fn leave_if_empty(&self) {
        let containers = lock(&self.containers);
        if containers.made.is_empty() && containers.reserved.is_empty() && containers.sandboxes == 0
        {
            // Before anybody is answered: the next shim of this name may be started at once, and
            // must neither find this one nor lose its own socket.
            self.socket.remove();
            self.leave.send_replace(true);
        }
    }

    /// What this shim is needed for.
    pub(crate) fn need(&self) -> Need {
        let containers = lock(&self.containers);
        if !containers.reserved.is_empty() {
            return Need::Wanted;
        }
        if containers.made.is_empty() {
            return if containers.sandboxes == 0 { Need::Empty } else { Need::Wanted };
        }
        let ended = containers.made.values().all(|container| container.init.ended().is_some());
        if ended { Need::Stopped } else { Need::Wanted }
    }

    /// True if nothing is left in the control groups of the containers.
    pub(crate) fn is_over(&self) -> bool {
        self.all().iter().all(|container| container.is_over())
    }

    /// Notes how many sandboxes there are.
    pub(crate) fn set_sandboxes(&self, count: usize) {
        lock(&self.containers).sandboxes = count;
    }

    /// All containers.
    pub(crate) fn all(&self) -> Vec<Arc<Container>> {
        lock(&self.containers).made.values().cloned().collect()
    }

    /// Kills all containers and waits until they have ended.
    ///
    /// # Errors
    /// Deadline exceeded if one does not end within `limit`.
    pub(crate) async fn kill_all(&self, limit: Duration) -> Result<()> {
        let all = self.all();
        let ends = all.iter().map(|container| async move {
            // One that was never restored has no process.
            if container.init.pid() == 0 || container.init.ended().is_some() {
                return;
            }
            if let Err(error) = container.kill("", SIGKILL, true).await
                && !error.is_not_found()
            {
                tracing::warn!(%error, container = container.id, "failed to kill a container");
            }
            container.init.wait().await;
        });
        tokio::time::timeout(limit, futures_util::future::join_all(ends))
            .await
            .map(drop)
            .map_err(|_| Error::deadline_exceeded("containers of the sandbox do not end"))
    }

    /// Deletes all containers that have ended.
    pub(crate) async fn delete_all(&self) {
        for container in self.all() {
            let request = DeleteRequest { id: container.id.clone(), exec_id: String::new() };
            if let Err(error) = self.delete_process(&request).await {
                tracing::warn!(%error, container = container.id, "failed to delete a container");
            }
        }
    }

    fn container(&self, id: &str) -> Result<Arc<Container>> {
        let missing = || Error::not_found("container not created");
        lock(&self.containers).made.get(id).cloned().ok_or_else(missing)
    }

    /// Waits while a container of this id is being created.
    ///
    /// A daemon that begins to ask while the create of a dead one is under way must not be told that
    /// there is no container, or nobody would know of it afterwards.
    async fn settle(&self, id: &str) {
        loop {
            let settled = self.settled.notified();
            if !lock(&self.containers).reserved.contains(id) {
                return;
            }
            settled.await;
        }
    }

    fn reserve(&self, id: &str) -> Result<Reservation<'_>> {
        let mut containers = lock(&self.containers);
        if containers.made.contains_key(id) || !containers.reserved.insert(id.to_owned()) {
            return Err(Error::already_exists(format!("container {id}")));
        }
        Ok(Reservation { service: self, id: id.to_owned() })
    }

    async fn create_container(&self, request: CreateTaskRequest) -> Result<u32> {
        let reservation = self.reserve(&request.id)?;
        let mut event = TaskCreate {
            container_id: request.id.clone(),
            bundle: request.bundle.clone(),
            rootfs: request.rootfs.clone(),
            io: Some(TaskIo {
                stdin: request.stdin.clone(),
                stdout: request.stdout.clone(),
                stderr: request.stderr.clone(),
                terminal: request.terminal,
            }),
            checkpoint: request.checkpoint.clone(),
            pid: 0,
        };
        let (container, exit) = create::create(&self.namespace, &self.reaper, request).await?;
        let container = Arc::new(container);
        event.pid = container.init.wire_pid();
        lock(&self.containers).made.insert(container.id.clone(), Arc::clone(&container));
        drop(reservation);
        self.publisher.publish(&event);
        if let Some(exit) = exit {
            self.supervise(container, exit);
        }
        Ok(event.pid)
    }

    /// Follows a container whose init process is there from now on.
    fn supervise(&self, container: Arc<Container>, exit: ExitWatch) {
        let watch = supervise::watch_memory(&container);
        let (publisher, idle) = (self.publisher.clone(), Arc::clone(&self.idle));
        tokio::spawn(async move {
            supervise::init(container, exit, watch, publisher).await;
            idle.touch();
        });
    }

    async fn start_process(&self, request: &StartRequest) -> Result<u32> {
        let container = self.container(&request.id)?;
        let process = container.process(&request.exec_id)?;
        // Its exit is announced after its start, however fast it comes.
        let starting = process.starting.lock().await;
        let pid;
        if request.exec_id.is_empty() {
            let exit = container.start_init().await?;
            pid = process.wire_pid();
            self.publisher.publish(&TaskStart { container_id: request.id.clone(), pid });
            if let Some(exit) = exit {
                self.supervise(Arc::clone(&container), exit);
            }
        } else {
            let exit = container.start_exec(&process).await?;
            pid = process.wire_pid();
            self.publisher.publish(&TaskExecStarted {
                container_id: request.id.clone(),
                exec_id: request.exec_id.clone(),
                pid,
            });
            let (exec, publisher) = (Arc::clone(&process), self.publisher.clone());
            tokio::spawn(supervise::exec(Arc::clone(&container), exec, exit, publisher));
        }
        drop(starting);
        Ok(pid)
    }

    async fn delete_process(&self, request: &DeleteRequest) -> Result<DeleteResponse> {
        let container = self.container(&request.id)?;
        let process = container.delete(&request.exec_id, &self.remainders).await?;
        let (exit_status, exited_at) = wire_end(process.ended());
        let pid = process.wire_pid();
        if request.exec_id.is_empty() {
            lock(&self.containers).made.remove(&request.id);
            self.publisher.publish(&TaskDelete {
                container_id: request.id.clone(),
                pid,
                exit_status,
                exited_at: Some(exited_at),
                ..Default::default()
            });
        }
        Ok(DeleteResponse { pid, exit_status, exited_at: Some(exited_at) })
    }

    fn add_exec(&self, request: ExecProcessRequest) -> Result<()> {
        let container = self.container(&request.id)?;
        validate_identifier(&request.exec_id)?;
        let spec = exec_spec(request.spec.as_ref(), request.terminal)?;
        let endpoints = Endpoints {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.terminal,
        };
        container.add_exec(Process::new(request.exec_id.clone(), endpoints, spec))?;
        self.publisher
            .publish(&TaskExecAdded { container_id: request.id, exec_id: request.exec_id });
        Ok(())
    }

    async fn list_pids(&self, id: &str) -> Result<PidsResponse> {
        let container = self.container(id)?;
        let pids = container.pids().await?;
        let execs: BTreeMap<u32, String> =
            container.execs().iter().map(|exec| (exec.wire_pid(), exec.id.clone())).collect();
        let processes = pids.into_iter().map(|pid| {
            let info = execs
                .get(&pid)
                .map(|exec_id| typeurl::encode(&runc::ProcessDetails { exec_id: exec_id.clone() }));
            ProcessInfo { pid, info }
        });
        Ok(PidsResponse { processes: processes.collect() })
    }

    async fn write_checkpoint(&self, request: CheckpointTaskRequest) -> Result<()> {
        let container = self.container(&request.id)?;
        let options = checkpoint_options(&request.path, request.options.as_ref())?;
        container.checkpoint(options).await?;
        self.publisher
            .publish(&TaskCheckpointed { container_id: request.id, checkpoint: request.path });
        Ok(())
    }
}

impl Task for Service {
    async fn state(&self, _: &Context, request: StateRequest) -> Result<StateResponse, Status> {
        self.settle(&request.id).await;
        let container = self.container(&request.id)?;
        let process = container.process(&request.exec_id)?;
        let (exit_status, exited_at) = wire_end(process.ended());
        let endpoints = process.endpoints.clone();
        Ok(StateResponse {
            id: process.id.clone(),
            bundle: container.bundle.to_string_lossy().into_owned(),
            pid: process.wire_pid(),
            status: process.status().into(),
            stdin: endpoints.stdin,
            stdout: endpoints.stdout,
            stderr: endpoints.stderr,
            terminal: endpoints.terminal,
            exit_status,
            exited_at: Some(exited_at),
            exec_id: request.exec_id,
        })
    }

    async fn create(
        &self,
        _: &Context,
        request: CreateTaskRequest,
    ) -> Result<CreateTaskResponse, Status> {
        let pid = self.create_container(request).await?;
        Ok(CreateTaskResponse { pid })
    }

    async fn start(&self, _: &Context, request: StartRequest) -> Result<StartResponse, Status> {
        let pid = self.start_process(&request).await?;
        Ok(StartResponse { pid })
    }

    async fn delete(&self, _: &Context, request: DeleteRequest) -> Result<DeleteResponse, Status> {
        Ok(self.delete_process(&request).await?)
    }

    async fn pids(&self, _: &Context, request: PidsRequest) -> Result<PidsResponse, Status> {
        Ok(self.list_pids(&request.id).await?)
    }

    async fn pause(&self, _: &Context, request: PauseRequest) -> Result<(), Status> {
        self.container(&request.id)?.pause().await?;
        self.publisher.publish(&TaskPaused { container_id: request.id });
        Ok(())
    }

    async fn resume(&self, _: &Context, request: ResumeRequest) -> Result<(), Status> {
        self.container(&request.id)?.resume().await?;
        self.publisher.publish(&TaskResumed { container_id: request.id });
        Ok(())
    }

    async fn checkpoint(&self, _: &Context, request: CheckpointTaskRequest) -> Result<(), Status> {
        Ok(self.write_checkpoint(request).await?)
    }

    async fn kill(&self, _: &Context, request: KillRequest) -> Result<(), Status> {
        let container = self.container(&request.id)?;
        Ok(container.kill(&request.exec_id, request.signal, request.all).await?)
    }

    async fn exec(&self, _: &Context, request: ExecProcessRequest) -> Result<(), Status> {
        self.publisher.room().await;
        Ok(self.add_exec(request)?)
    }

    async fn resize_pty(&self, _: &Context, request: ResizePtyRequest) -> Result<(), Status> {
        let process = self.container(&request.id)?.process(&request.exec_id)?;
        let resized = process.with_io(|io| io.resize(request.width, request.height));
        Ok(resized.unwrap_or(Ok(()))?)
    }

    async fn close_io(&self, _: &Context, request: CloseIoRequest) -> Result<(), Status> {
        let process = self.container(&request.id)?.process(&request.exec_id)?;
        // COMPAT: containerd closes the input whether `stdin` is set or not.
        process.close_stdin();
        Ok(())
    }

    async fn update(&self, _: &Context, request: UpdateTaskRequest) -> Result<(), Status> {
        let container = self.container(&request.id)?;
        let resources = request.resources.unwrap_or_default();
        Ok(container.update(&resources.value).await?)
    }

    async fn wait(&self, context: &Context, request: WaitRequest) -> Result<WaitResponse, Status> {
        let process = self.container(&request.id)?.process(&request.exec_id)?;
        let ended = tokio::select! {
            ended = process.wait() => ended,
            () = context.cancelled() => return Err(Status::closed()),
        };
        let (exit_status, exited_at) = wire_end(Some(ended));
        Ok(WaitResponse { exit_status, exited_at: Some(exited_at) })
    }

    async fn stats(&self, _: &Context, request: StatsRequest) -> Result<StatsResponse, Status> {
        let stats = self.container(&request.id)?.metrics()?;
        Ok(StatsResponse { stats: Some(stats) })
    }

    async fn connect(
        &self,
        _: &Context,
        request: ConnectRequest,
    ) -> Result<ConnectResponse, Status> {
        let container = self.container(&request.id).ok();
        Ok(ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: container.map_or(0, |container| container.init.wire_pid()),
            version: String::new(),
        })
    }

    async fn shutdown(&self, _: &Context, _: ShutdownRequest) -> Result<(), Status> {
        self.leave_if_empty();
        Ok(())
    }
}

/// Status and time of an end as they go over the wire; zero values for a process that has none.
fn wire_end(ended: Option<Ended>) -> (u32, Timestamp) {
    let time = |at: SystemTime| Timestamp::from(at);
    match ended {
        Some(Ended { status, at }) => (status, at.map_or(ZERO_TIME, time)),
        None => (0, ZERO_TIME),
    }
}

/// The OCI process of an exec with its terminal as asked, as JSON.
fn exec_spec(spec: Option<&Any>, terminal: bool) -> Result<Vec<u8>> {
    let invalid = |reason: String| Error::invalid_argument(format!("exec spec: {reason}"));
    let spec = spec.ok_or_else(|| invalid("missing".to_owned()))?;
    let mut process: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&spec.value).map_err(|error| invalid(error.to_string()))?;
    if terminal {
        process.insert("terminal".to_owned(), true.into());
    } else {
        process.remove("terminal");
    }
    serde_json::to_vec(&process).map_err(|error| invalid(error.to_string()))
}

/// The options of a checkpoint, of either package.
fn checkpoint_options(path: &str, any: Option<&Any>) -> Result<CheckpointOptions> {
    let mut options = CheckpointOptions {
        image_path: path.into(),
        leave_running: true,
        ..CheckpointOptions::default()
    };
    let Some(any) = any.filter(|any| !any.type_url.is_empty()) else { return Ok(options) };
    let damaged = |error: typeurl::TypeUrlError| {
        Error::invalid_argument(format!("checkpoint options: {error}"))
    };
    if typeurl::is::<runc::CheckpointOptions>(any) {
        let told = typeurl::decode::<runc::CheckpointOptions>(any).map_err(damaged)?;
        options.leave_running = !told.exit;
        options.open_tcp = told.open_tcp;
        options.external_unix_sockets = told.external_unix_sockets;
        options.terminal = told.terminal;
        options.file_locks = told.file_locks;
        options.empty_namespaces = told.empty_namespaces;
        options.cgroups_mode = told.cgroups_mode;
        options.work_path = told.work_path.into();
        if !told.image_path.is_empty() {
            options.image_path = told.image_path.into();
        }
    } else {
        let told = typeurl::decode::<linux_runc::CheckpointOptions>(any).map_err(damaged)?;
        options.leave_running = !told.exit;
        options.open_tcp = told.open_tcp;
        options.external_unix_sockets = told.external_unix_sockets;
        options.terminal = told.terminal;
        options.file_locks = told.file_locks;
        options.empty_namespaces = told.empty_namespaces;
        options.cgroups_mode = told.cgroups_mode;
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_checkpoints_come_in_two_packages() {
        let options = checkpoint_options("/image", None).unwrap();
        assert!(options.leave_running);
        assert_eq!(options.image_path.to_str(), Some("/image"));
        let today = runc::CheckpointOptions {
            exit: true,
            open_tcp: true,
            image_path: "/other".to_owned(),
            work_path: "/work".to_owned(),
            ..Default::default()
        };
        let options = checkpoint_options("/image", Some(&typeurl::encode(&today))).unwrap();
        assert!(!options.leave_running && options.open_tcp);
        assert_eq!(options.image_path.to_str(), Some("/other"));
        assert_eq!(options.work_path.to_str(), Some("/work"));
        let old = linux_runc::CheckpointOptions {
            exit: true,
            file_locks: true,
            empty_namespaces: vec!["network".to_owned()],
            cgroups_mode: "soft".to_owned(),
            ..Default::default()
        };
        let options = checkpoint_options("/image", Some(&typeurl::encode(&old))).unwrap();
        assert!(!options.leave_running && options.file_locks);
        assert_eq!((options.empty_namespaces.len(), options.cgroups_mode.as_str()), (1, "soft"));
        let foreign = Any { type_url: "x.Options".to_owned(), value: Vec::new() };
        let error = checkpoint_options("/image", Some(&foreign)).unwrap_err();
        assert_eq!(error.class(), base_errors::Class::InvalidArgument);
    }

    #[test]
    fn the_terminal_of_an_exec_is_what_the_request_says() {
        let spec = typeurl::encode_json(typeurl::PROCESS, "{\"args\":[\"a\"],\"terminal\":true}");
        let with = |terminal| String::from_utf8(exec_spec(Some(&spec), terminal).unwrap()).unwrap();
        assert_eq!(with(false), "{\"args\":[\"a\"]}");
        assert_eq!(with(true), "{\"args\":[\"a\"],\"terminal\":true}");
        assert!(exec_spec(None, false).is_err());
    }
}
