//! What can be asked of a task that is there. Each call has a name, a deadline and a place in the
//! table of operations; all go to the shim, which knows best.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api_shim::process::{Process, ProcessInfo};
use api_shim::task::{
    CheckpointTaskRequest, CloseIoRequest, DeleteRequest, DeleteResponse, ExecProcessRequest,
    KillRequest, PauseRequest, PidsRequest, PidsResponse, ResizePtyRequest, ResumeRequest,
    StartRequest, StartResponse, StateRequest, StateResponse, UpdateTaskRequest, WaitRequest,
    WaitResponse,
};
use api_shim::{Any, Message};
use base_errors::Class;
use base_ident::{Namespace, validate_identifier};
use futures_util::StreamExt as _;
use tokio::time::{timeout, timeout_at};

use crate::TaskError;
use crate::connection::CallError;
use crate::operation::WAIT;
use crate::slots::Slot;
use crate::supervisor::{Inner, Supervisor, watch};
use crate::task::{Exit, Task};

/// How long a list waits for the next shim to be adopted. Those that live answer in milliseconds,
/// one after the other; on a machine that is very busy there may be pauses.
const ADOPTION_PATIENCE: Duration = Duration::from_millis(500);
/// How many shims are asked for their state at once by a list.
const LIST_WIDTH: usize = 256;

/// A process to add to a task.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExecTask {
    /// Its id, within the task.
    pub exec_id: String,
    /// Fifo or URI, empty for none.
    pub stdin: String,
    /// Fifo or URI, empty for none.
    pub stdout: String,
    /// Fifo or URI, empty for none.
    pub stderr: String,
    /// Whether the process gets a terminal.
    pub terminal: bool,
    /// The OCI process.
    pub spec: Option<Any>,
}

impl Supervisor {
    /// Calls the shim of a task.
    async fn call<Q: Message, P: Message + Default>(
        &self,
        kind: &'static str,
        method: &str,
        task: &Task,
        request: &Q,
        limit: Option<Duration>,
    ) -> base_errors::Result<P> {
        let operation = self.inner.operation(kind, &task.bundle.namespace, task.id(), limit);
        match task.connection.call(method, request, limit).await {
            Ok(answer) => Ok(answer),
            Err(CallError::Closed) => {
                operation.phase("waiting for the cleanup after the shim");
                Err(self.inner.after_close(task).await)
            }
            Err(error) if error.is_timeout() => {
                // What is named then is what the shim is busy with, this call among it.
                let (namespace, id) = (&task.bundle.namespace, task.id());
                Err(self.inner.held_up(namespace, id, error))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn limit(&self) -> Option<Duration> {
        Some(self.inner.config.timeouts.call)
    }

    /// Starts the init process, or a process that [`exec`](Self::exec) has added; gives its pid.
    ///
    /// # Errors
    /// Not found; what shim and runtime say.
    pub async fn start(
        &self,
        namespace: &Namespace,
        id: &str,
        exec_id: &str,
    ) -> base_errors::Result<u32> {
        let task = self.inner.task(namespace, id).await?;
        let request = StartRequest { id: id.to_owned(), exec_id: exec_id.to_owned() };
        let limit = Some(self.inner.config.timeouts.long_call);
        let started: StartResponse = self.call("start", "Start", &task, &request, limit).await?;
        if exec_id.is_empty() {
            task.set_pid(started.pid);
            self.inner.forget_checkpoint(&task);
        }
        Ok(started.pid)
    }

    /// Removes an ended process that [`exec`](Self::exec) had added.
    ///
    /// # Errors
    /// Not found; what the shim says if the process still runs.
    pub async fn delete_process(
        &self,
        namespace: &Namespace,
        id: &str,
        exec_id: &str,
    ) -> base_errors::Result<Exit> {
        if exec_id.is_empty() {
            return Err(TaskError::ExecIdEmpty.into());
        }
        let task = self.inner.task(namespace, id).await?;
        let request = DeleteRequest { id: id.to_owned(), exec_id: exec_id.to_owned() };
        let deleted: DeleteResponse =
            self.call("delete-process", "Delete", &task, &request, self.limit()).await?;
        Ok(Exit {
            id: exec_id.to_owned(),
            pid: deleted.pid,
            status: deleted.exit_status,
            exited_at: deleted.exited_at,
        })
    }

    /// What a process is doing. The status is unknown if the shim does not answer in time.
    ///
    /// # Errors
    /// Not found; unavailable while the shim is being reconnected.
    pub async fn get(
        &self,
        namespace: &Namespace,
        id: &str,
        exec_id: &str,
    ) -> base_errors::Result<Process> {
        let task = self.inner.task(namespace, id).await?;
        match self.state(&task, exec_id).await {
            Ok(process) => Ok(process),
            Err(error) if matches!(error.class(), Class::NotFound | Class::Unavailable) => {
                Err(error)
            }
            // COMPAT: containerd answers with an unknown status, so that a client can still delete.
            Err(error) => {
                tracing::error!(task = %task.bundle.object(), %error, "get state");
                let name = if exec_id.is_empty() { id } else { exec_id };
                Ok(Process { id: name.to_owned(), ..Process::default() })
            }
        }
    }

    async fn state(&self, task: &Arc<Task>, exec_id: &str) -> base_errors::Result<Process> {
        let limit = self.inner.config.timeouts.task_state;
        if timeout(limit, task.speaks()).await.is_err() {
            // It would only be asked the same once more.
            return Err(TaskError::Silent(task.id().to_owned()).into());
        }
        let request = StateRequest { id: task.id().to_owned(), exec_id: exec_id.to_owned() };
        let state: base_errors::Result<StateResponse> =
            self.call("state", "State", task, &request, Some(limit)).await;
        if state.as_ref().is_err_and(|error| error.class() == Class::DeadlineExceeded) {
            Inner::expect_answer(&self.inner, task);
        }
        let state = state?;
        let name = if exec_id.is_empty() { task.id() } else { exec_id };
        Ok(Process {
            // COMPAT: containerd leaves the id of the container out.
            container_id: String::new(),
            id: name.to_owned(),
            pid: state.pid,
            status: state.status,
            stdin: state.stdin,
            stdout: state.stdout,
            stderr: state.stderr,
            terminal: state.terminal,
            exit_status: state.exit_status,
            exited_at: state.exited_at,
        })
    }

    /// The init processes of all tasks of a namespace, by id. A task whose shim does not answer in
    /// time is left out; shims that are known not to answer are not waited for.
    pub async fn list(&self, namespace: &Namespace) -> Vec<Process> {
        self.inner.adopted(namespace).await;
        let tasks = self.inner.live_in(namespace).into_iter();
        futures_util::stream::iter(tasks.filter(|task| !task.is_silent()))
            .map(|task| async move {
                self.state(&task, "")
                    .await
                    .inspect_err(|error| {
                        if !error.is_not_found() {
                            tracing::error!(task = %task.bundle.object(), %error, "list");
                        }
                    })
                    .ok()
            })
            .buffered(LIST_WIDTH)
            .filter_map(std::future::ready)
            .collect()
            .await
    }

    /// Sends a signal to a process, or to all of a task.
    ///
    /// # Errors
    /// Not found, also of a process that has ended.
    pub async fn kill(
        &self,
        namespace: &Namespace,
        id: &str,
        exec_id: &str,
        signal: u32,
        all: bool,
    ) -> base_errors::Result<()> {
        let task = self.inner.task(namespace, id).await?;
        let (id, exec_id) = (id.to_owned(), exec_id.to_owned());
        let request = KillRequest { id, exec_id, signal, all };
        self.call("kill", "Kill", &task, &request, self.limit()).await
    }

    /// Adds a process to a task; [`start`](Self::start) starts it.
    ///
    /// # Errors
    /// Not found; invalid argument for a bad id; already exists.
    pub async fn exec(
        &self,
        namespace: &Namespace,
        id: &str,
        exec: ExecTask,
    ) -> base_errors::Result<()> {
        if exec.exec_id.is_empty() {
            return Err(TaskError::ExecIdEmpty.into());
        }
        let task = self.inner.task(namespace, id).await?;
        validate_identifier(&exec.exec_id)
            .map_err(|source| TaskError::ExecId { id: exec.exec_id.clone(), source })?;
        let request = ExecProcessRequest {
            id: id.to_owned(),
            exec_id: exec.exec_id,
            terminal: exec.terminal,
            stdin: exec.stdin,
            stdout: exec.stdout,
            stderr: exec.stderr,
            spec: exec.spec,
        };
        self.call("exec", "Exec", &task, &request, self.limit()).await
    }

    /// Sets the size of a process's terminal, in characters.
    ///
    /// # Errors
    /// Not found; what the shim says of a process without a terminal.
    pub async fn resize_pty(
        &self,
        namespace: &Namespace,
        id: &str,
        exec_id: &str,
        width: u32,
        height: u32,
    ) -> base_errors::Result<()> {
        let task = self.inner.task(namespace, id).await?;
        let (id, exec_id) = (id.to_owned(), exec_id.to_owned());
        let request = ResizePtyRequest { id, exec_id, width, height };
        self.call("resize-pty", "ResizePty", &task, &request, self.limit()).await
    }

    /// Closes the input of a process.
    ///
    /// # Errors
    /// Not found.
    pub async fn close_io(
        &self,
        namespace: &Namespace,
        id: &str,
        exec_id: &str,
        stdin: bool,
    ) -> base_errors::Result<()> {
        let task = self.inner.task(namespace, id).await?;
        let request = CloseIoRequest { id: id.to_owned(), exec_id: exec_id.to_owned(), stdin };
        self.call("close-io", "CloseIO", &task, &request, self.limit()).await
    }

    /// Freezes all processes of a task.
    ///
    /// # Errors
    /// Not found; what shim and runtime say.
    pub async fn pause(&self, namespace: &Namespace, id: &str) -> base_errors::Result<()> {
        let task = self.inner.task(namespace, id).await?;
        let request = PauseRequest { id: id.to_owned() };
        self.call("pause", "Pause", &task, &request, self.limit()).await
    }

    /// Thaws all processes of a task.
    ///
    /// # Errors
    /// Not found; what shim and runtime say.
    pub async fn resume(&self, namespace: &Namespace, id: &str) -> base_errors::Result<()> {
        let task = self.inner.task(namespace, id).await?;
        let request = ResumeRequest { id: id.to_owned() };
        self.call("resume", "Resume", &task, &request, self.limit()).await
    }

    /// The pids on the host of all processes in a task.
    ///
    /// # Errors
    /// Not found; what shim and runtime say.
    pub async fn list_pids(
        &self,
        namespace: &Namespace,
        id: &str,
    ) -> base_errors::Result<Vec<ProcessInfo>> {
        let task = self.inner.task(namespace, id).await?;
        let request = PidsRequest { id: id.to_owned() };
        let pids: PidsResponse =
            self.call("list-pids", "Pids", &task, &request, self.limit()).await?;
        Ok(pids.processes)
    }

    /// Writes a checkpoint of a task into the folder `path`.
    ///
    /// # Errors
    /// Not found; what shim and runtime say.
    pub async fn checkpoint(
        &self,
        namespace: &Namespace,
        id: &str,
        path: &str,
        options: Option<Any>,
    ) -> base_errors::Result<()> {
        let task = self.inner.task(namespace, id).await?;
        let request = CheckpointTaskRequest { id: id.to_owned(), path: path.to_owned(), options };
        let limit = Some(self.inner.config.timeouts.long_call);
        self.call("checkpoint", "Checkpoint", &task, &request, limit).await
    }

    /// Changes the resources of a task.
    ///
    /// # Errors
    /// Not found; what shim and runtime say.
    pub async fn update(
        &self,
        namespace: &Namespace,
        id: &str,
        resources: Option<Any>,
        annotations: BTreeMap<String, String>,
    ) -> base_errors::Result<()> {
        let task = self.inner.task(namespace, id).await?;
        let request = UpdateTaskRequest { id: id.to_owned(), resources, annotations };
        self.call("update", "Update", &task, &request, self.limit()).await
    }

    /// Waits for the end of a process, without a limit. If the shim dies meanwhile, the answer is
    /// what its cleanup finds out.
    ///
    /// # Errors
    /// Not found.
    pub async fn wait(
        &self,
        namespace: &Namespace,
        id: &str,
        exec_id: &str,
    ) -> base_errors::Result<Exit> {
        let task = self.inner.task(namespace, id).await?;
        if exec_id.is_empty() {
            let _operation = self.inner.operation(WAIT, namespace, id, None);
            let not_found = || TaskError::NotFound(id.to_owned()).into();
            return task.wait().await.ok_or_else(not_found);
        }
        let request = WaitRequest { id: id.to_owned(), exec_id: exec_id.to_owned() };
        let ended: WaitResponse = self.call("wait", "Wait", &task, &request, None).await?;
        Ok(Exit {
            id: exec_id.to_owned(),
            pid: 0,
            status: ended.exit_status,
            exited_at: ended.exited_at,
        })
    }
}

impl Inner {
    /// Waits while tasks of a namespace are being adopted, and that goes on: shims that hang are not
    /// waited for.
    async fn adopted(&self, namespace: &Namespace) {
        let mut settled = self.settled.subscribe();
        let adopting = |slots: Vec<(String, Slot)>| {
            slots.iter().any(|(_, slot)| matches!(slot, Slot::Adopting(_)))
        };
        while adopting(self.slots.list(namespace)) {
            let until = *settled.borrow_and_update() + ADOPTION_PATIENCE;
            if timeout_at(until, settled.changed()).await.is_err() {
                return;
            }
        }
    }

    /// Takes a shim for one that does not answer, until it does.
    pub(crate) fn expect_answer(this: &Arc<Inner>, task: &Arc<Task>) {
        if !task.set_silent(true) {
            return;
        }
        tracing::warn!(task = %task.bundle.object(), "shim does not answer");
        let ours = Arc::clone(task);
        // Asked once and without a limit: the answer comes when the shim can give it.
        let asking = watch(this, |_| async move {
            let request = StateRequest { id: ours.id().to_owned(), exec_id: String::new() };
            let state: Result<StateResponse, CallError> =
                ours.connection.call("State", &request, None).await;
            if let Ok(state) = state {
                ours.set_pid(state.pid);
            }
            ours.set_silent(false);
            tracing::info!(task = %ours.bundle.object(), "shim answers again");
        });
        task.add_helper(asking);
    }

    /// The tasks of a namespace that can be called now.
    pub(crate) fn live_in(&self, namespace: &Namespace) -> Vec<Arc<Task>> {
        let live = |(_, slot)| match slot {
            Slot::Live(task) => Some(task),
            Slot::Creating | Slot::Adopting(_) => None,
        };
        self.slots.list(namespace).into_iter().filter_map(live).collect()
    }
}
