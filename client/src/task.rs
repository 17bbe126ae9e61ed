//! Running containers and their processes.

use api_grpc::tasks::{
    CloseIoRequest, CreateTaskRequest, DeleteProcessRequest, DeleteResponse, DeleteTaskRequest,
    ExecProcessRequest, GetRequest, KillRequest, ListTasksRequest, MetricsRequest,
    PauseTaskRequest, ResizePtyRequest, ResumeTaskRequest, StartRequest, WaitRequest,
};
use api_shim::process::{Process as State, Status};
use api_shim::types::{Descriptor, Metric, Mount};
use api_shim::{Any, typeurl};
use base_errors::{Error, Result};
use prost_types::Timestamp;
use tokio::task::JoinHandle;

use crate::stdio::{Attached, Fifos, Stdio, Streams};
use crate::{Client, body, missing};

/// What a new task needs.
pub struct NewTask {
    /// The root file system; empty if the spec's own path is used.
    pub rootfs: Vec<Mount>,
    /// Its streams.
    pub stdio: Stdio,
    /// Options of the runtime, in place of the container's.
    pub options: Option<Any>,
    /// The checkpoint that it goes on from, if it is not a new one.
    pub checkpoint: Option<Descriptor>,
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Exit {
    /// Its status; 128 and the signal if it was killed.
    pub status: u32,
    /// When.
    pub exited_at: Option<Timestamp>,
}

/// A process of a container: the first one, or one that was added.
pub struct Process {
    client: Client,
    container: String,
    exec: String,
    pid: u32,
    io: Attached,
    /// Tells the daemon when the input has ended.
    input: Option<JoinHandle<()>>,
}

impl Client {
    /// Makes the task of a container; its first process waits for [`Process::start`].
    ///
    /// # Errors
    /// NotFound, AlreadyExists, and those of the runtime; then nothing is left.
    pub async fn create_task(&self, id: &str, new: NewTask) -> Result<Process> {
        let mut io = Attached::new(new.stdio, id)?;
        let fifos = io.fifos().clone();
        let request = CreateTaskRequest {
            container_id: id.to_owned(),
            rootfs: new.rootfs,
            stdin: fifos.stdin,
            stdout: fifos.stdout,
            stderr: fifos.stderr,
            terminal: fifos.terminal,
            options: new.options,
            checkpoint: new.checkpoint,
            ..CreateTaskRequest::default()
        };
        match body(self.tasks().create(request).await) {
            Ok(answer) => Ok(Process::new(self, id, "", answer.pid, io)),
            Err(error) => {
                io.cancel().await;
                io.remove();
                Err(error)
            }
        }
    }

    /// The state of a process; an empty `exec` means the first one.
    ///
    /// # Errors
    /// NotFound.
    pub async fn process_state(&self, id: &str, exec: &str) -> Result<State> {
        let request = GetRequest { container_id: id.to_owned(), exec_id: exec.to_owned() };
        body(self.tasks().get(request).await)?.process.ok_or_else(|| missing("process"))
    }

    /// A process that exists, without its streams.
    ///
    /// # Errors
    /// NotFound.
    pub async fn load_process(&self, id: &str, exec: &str) -> Result<Process> {
        let state = self.process_state(id, exec).await?;
        let io = Attached::existing(Fifos::of(&state), Streams::default())?;
        Ok(Process::new(self, id, exec, state.pid, io))
    }

    /// A process that exists, with its streams connected to `streams`.
    ///
    /// # Errors
    /// NotFound, and if its pipes cannot be opened.
    pub async fn attach(&self, id: &str, exec: &str, streams: Streams) -> Result<Process> {
        let state = self.process_state(id, exec).await?;
        let io = Attached::existing(Fifos::of(&state), streams)?;
        let mut process = Process::new(self, id, exec, state.pid, io);
        process.watch_input();
        Ok(process)
    }

    /// All tasks.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn task_list(&self) -> Result<Vec<State>> {
        Ok(body(self.tasks().list(ListTasksRequest::default()).await)?.tasks)
    }

    /// Stops all processes of a container where they are.
    ///
    /// # Errors
    /// NotFound, and those of the runtime.
    pub async fn pause(&self, id: &str) -> Result<()> {
        body(self.tasks().pause(PauseTaskRequest { container_id: id.to_owned() }).await)
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// NotFound, and those of the runtime.
    pub async fn resume(&self, id: &str) -> Result<()> {
        body(self.tasks().resume(ResumeTaskRequest { container_id: id.to_owned() }).await)
    }

    /// The figures of a task's control group.
    ///
    /// # Errors
    /// NotFound if there are none.
    pub async fn metrics(&self, id: &str) -> Result<Metric> {
        let request = MetricsRequest { filters: vec![format!("id=={id}")] };
        let mut metrics = body(self.tasks().metrics(request).await)?.metrics;
        metrics.pop().ok_or_else(|| Error::not_found(format!("no metrics for {id}")))
    }
}

impl Process {
    fn new(client: &Client, container: &str, exec: &str, pid: u32, io: Attached) -> Process {
        Process {
            client: client.clone(),
            container: container.to_owned(),
            exec: exec.to_owned(),
            pid,
            io,
            input: None,
        }
    }

    /// Its number on the host.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Lets it run.
    ///
    /// # Errors
    /// Those of the runtime.
    pub async fn start(&mut self) -> Result<()> {
        let request =
            StartRequest { container_id: self.container.clone(), exec_id: self.exec.clone() };
        match body(self.client.tasks().start(request).await) {
            Ok(answer) => {
                self.pid = answer.pid;
                self.watch_input();
                Ok(())
            }
            Err(error) => {
                self.io.cancel().await;
                Err(error)
            }
        }
    }

    /// Closes the process's input when ours has ended.
    fn watch_input(&mut self) {
        let Some(ended) = self.io.take_input() else { return };
        let client = self.client.clone();
        let request = CloseIoRequest {
            container_id: self.container.clone(),
            exec_id: self.exec.clone(),
            stdin: true,
        };
        self.input = Some(tokio::spawn(async move {
            ended.await;
            // A process that is gone needs no end of its input.
            let _ = client.tasks().close_io(request).await;
        }));
    }

    /// Adds a process. `spec` is an OCI process as JSON.
    ///
    /// # Errors
    /// NotFound, AlreadyExists, FailedPrecondition; then nothing is left.
    pub async fn exec(&self, id: &str, spec: Vec<u8>, stdio: Stdio) -> Result<Process> {
        let mut io = Attached::new(stdio, id)?;
        let fifos = io.fifos().clone();
        let request = ExecProcessRequest {
            container_id: self.container.clone(),
            exec_id: id.to_owned(),
            stdin: fifos.stdin,
            stdout: fifos.stdout,
            stderr: fifos.stderr,
            terminal: fifos.terminal,
            spec: Some(typeurl::encode_json(typeurl::PROCESS, spec)),
        };
        match body(self.client.tasks().exec(request).await) {
            Ok(()) => Ok(Process::new(&self.client, &self.container, id, 0, io)),
            Err(error) => {
                io.cancel().await;
                io.remove();
                Err(error)
            }
        }
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// NotFound if it was deleted.
    pub async fn wait(&self) -> Result<Exit> {
        let request =
            WaitRequest { container_id: self.container.clone(), exec_id: self.exec.clone() };
        let answer = body(self.client.tasks().wait(request).await)?;
        Ok(Exit { status: answer.exit_status, exited_at: answer.exited_at })
    }

    /// Sends a signal, to all processes of the container if `all`.
    ///
    /// # Errors
    /// NotFound if it has ended.
    pub async fn kill(&self, signal: u32, all: bool) -> Result<()> {
        let request = KillRequest {
            container_id: self.container.clone(),
            exec_id: self.exec.clone(),
            signal,
            all,
        };
        body(self.client.tasks().kill(request).await)
    }

    /// Tells the terminal's size.
    ///
    /// # Errors
    /// NotFound if it has ended.
    pub async fn resize(&self, width: u32, height: u32) -> Result<()> {
        let request = ResizePtyRequest {
            container_id: self.container.clone(),
            exec_id: self.exec.clone(),
            width,
            height,
        };
        body(self.client.tasks().resize_pty(request).await)
    }

    /// What it does now.
    ///
    /// # Errors
    /// NotFound.
    pub async fn status(&self) -> Result<Status> {
        Ok(self.client.process_state(&self.container, &self.exec).await?.status())
    }

    /// Waits until its output is complete.
    pub async fn output_complete(&mut self) {
        self.io.wait().await;
    }

    /// Removes what is left of it after its end: all output has come, its pipes are gone.
    ///
    /// # Errors
    /// FailedPrecondition if it runs, NotFound if somebody else removed it.
    pub async fn delete(mut self) -> Result<Exit> {
        let state = self.client.process_state(&self.container, &self.exec).await?;
        match state.status() {
            Status::Stopped | Status::Unknown | Status::Created => {}
            status => {
                let name = status.as_str_name().to_lowercase();
                return Err(Error::failed_precondition(format!(
                    "task must be stopped before deletion: {name}"
                )));
            }
        }
        if state.status() == Status::Created {
            self.io.cancel().await;
        } else {
            self.io.wait().await;
        }
        let answer = if self.exec.is_empty() {
            let request = DeleteTaskRequest { container_id: self.container.clone() };
            body(self.client.tasks().delete(request).await)
        } else {
            let request = DeleteProcessRequest {
                container_id: self.container.clone(),
                exec_id: self.exec.clone(),
            };
            body(self.client.tasks().delete_process(request).await)
        };
        self.end_of_input();
        self.io.remove();
        let DeleteResponse { exit_status, exited_at, .. } = answer?;
        Ok(Exit { status: exit_status, exited_at })
    }

    /// Leaves it alone; its pipes stay, for whoever attaches to it.
    pub fn detach(mut self) {
        self.io.detach();
        self.end_of_input();
    }

    fn end_of_input(&mut self) {
        if let Some(input) = self.input.take() {
            input.abort();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end_of_input();
    }
}
