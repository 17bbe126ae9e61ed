//! AddProcess: another process in a container that runs.

use std::sync::Arc;
use std::time::Duration;

use api_grpc::v0;
use api_shim::typeurl;
use base_errors::Class;
use runtime_supervisor::ExecTask;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use crate::container::Container;
use crate::engine::{Engine, blocking};
use crate::legacy::{self, live};
use crate::linger::Ends;
use crate::process::{OciProcess, Stdio, StoredProcess};
use crate::{ApiError, Kind, state};

/// The status of a process of which nobody knows how it ended.
const UNKNOWN_STATUS: u32 = 255;
/// How long the removal of a process that could not be started may take.
const UNDO_LIMIT: Duration = Duration::from_secs(10);
/// Before a shim that is being reconnected is asked again.
const PAUSE: Duration = Duration::from_millis(500);

type Answer = oneshot::Sender<Result<u32, ApiError>>;

impl Engine {
    /// Starts a process; gives its pid on the host. It goes on when the caller leaves.
    pub(crate) async fn add_process(
        self: &Arc<Self>,
        request: v0::AddProcessRequest,
    ) -> Result<u32, ApiError> {
        if request.id.is_empty() {
            return Err(ApiError::ContainerIdEmpty);
        }
        if request.pid.is_empty() {
            return Err(ApiError::ProcessIdEmpty);
        }
        let container = self.container(&request.id)?;
        let (answer, answered) = oneshot::channel();
        let life = Arc::clone(self).run_exec(Arc::clone(&container), request, answer);
        if !container.run_exec(life) {
            return Err(ApiError::ContainerNotFound);
        }
        answered.await.unwrap_or(Err(ApiError::ContainerNotFound))
    }

    /// The life of an exec, from the claim on its name to its exit event.
    async fn run_exec(
        self: Arc<Self>,
        container: Arc<Container>,
        request: v0::AddProcessRequest,
        answer: Answer,
    ) {
        let begin = Instant::now();
        let name = request.pid.clone();
        let process = OciProcess::of_request(&request);
        let stdio = Stdio::new(&request.stdin, &request.stdout, &request.stderr);
        if let Err(error) = self.claim_exec(&container, &name, &process, &stdio) {
            // An error of a send means that the caller has left.
            let _ = answer.send(Err(error));
            return;
        }
        match self.start_exec(&container, &name, &process, &stdio).await {
            Ok(pid) => {
                container.set_pid(&name, pid);
                self.timers.exec.since(begin);
                self.log.append(Kind::StartProcess, &container.id, &name, 0);
                self.state.write_pid(&container.id, &name, pid);
                let _ = answer.send(Ok(pid));
                self.watch_exec(&container, &name, &stdio).await;
            }
            Err(ApiError::StartTimeout) => {
                let _ = answer.send(Err(ApiError::StartTimeout));
                self.discard_exec(&container, &name).await;
            }
            Err(error) => {
                self.discard_exec(&container, &name).await;
                let _ = answer.send(Err(error));
            }
        }
    }

    fn claim_exec(
        &self,
        container: &Container,
        name: &str,
        process: &OciProcess,
        stdio: &Stdio,
    ) -> Result<(), ApiError> {
        let stored = StoredProcess {
            process: process.clone(),
            exec: true,
            stdin: stdio.stdin.clone(),
            stdout: stdio.stdout.clone(),
            stderr: stdio.stderr.clone(),
            runtime_args: container.stored.runtime_args.clone(),
            ..StoredProcess::default()
        };
        self.state.make_process(&container.id, name, &stored)?;
        container.add(name, process.message(name, stdio), stdio.clone()).inspect_err(|_| {
            if let Some(gone) = self.state.retire(&container.id, Some(name)) {
                state::remove(&gone);
            }
        })
    }

    async fn start_exec(
        &self,
        container: &Container,
        name: &str,
        process: &OciProcess,
        stdio: &Stdio,
    ) -> Result<u32, ApiError> {
        let id = &container.id;
        if container.is_old() {
            let folder = self.state.process(id, name);
            let limit = self.config.start_timeout;
            let (pid, mut shim) = live::exec(&container.stored, id, &folder, limit).await?;
            // Its end is seen by its fifo; this is for the kernel's sake.
            self.job(async move {
                let _ = shim.wait().await;
            });
            return Ok(pid);
        }
        let json = serde_json::to_vec(process).map_err(ApiError::Spec)?;
        let exec = ExecTask {
            exec_id: name.to_owned(),
            stdin: Stdio::for_shim(&stdio.stdin),
            stdout: Stdio::for_shim(&stdio.stdout),
            stderr: Stdio::for_shim(&stdio.stderr),
            terminal: process.terminal,
            spec: Some(typeurl::encode_json(typeurl::PROCESS, json)),
        };
        let namespace = self.namespace();
        let start = async {
            self.supervisor.exec(namespace, id, exec).await?;
            self.supervisor.start(namespace, id, name).await
        };
        let started = timeout(self.config.start_timeout, start).await;
        started.map_err(|_| ApiError::StartTimeout)?.map_err(|error| match error.class() {
            Class::NotFound if !self.supervisor.exists(namespace, id) => {
                ApiError::ContainerNotFound
            }
            _ => ApiError::of_start(&error),
        })
    }

    /// Takes back what there is of an exec that was not started. No event tells of it.
    pub(crate) async fn discard_exec(&self, container: &Container, name: &str) {
        let (namespace, id) = (self.namespace(), &container.id);
        let undo = async {
            let _ = self.supervisor.kill(namespace, id, name, 9, false).await;
            if let Err(error) = self.supervisor.delete_process(namespace, id, name).await
                && !error.is_not_found()
            {
                tracing::warn!(id, name, %error, "removing a process that was not started");
            }
        };
        if timeout(UNDO_LIMIT, undo).await.is_err() {
            tracing::warn!(
                id,
                name,
                "a process that was not started hangs until its container ends"
            );
        }
        container.remove(name);
        if let Some(gone) = self.state.retire(id, Some(name)) {
            state::remove(&gone);
        }
    }

    /// Waits for the end of an exec and tells it.
    pub(crate) async fn watch_exec(&self, container: &Container, name: &str, stdio: &Stdio) {
        if container.is_old() {
            let folder = self.state.process(&container.id, name);
            live::ended(&folder).await;
            let status = blocking(move || Ok(legacy::end_process(&folder))).await;
            let status = status.unwrap_or(UNKNOWN_STATUS);
            return self.finish_exec(container, name, stdio, status).await;
        }
        let status = loop {
            match self.supervisor.wait(self.namespace(), &container.id, name).await {
                Ok(exit) => break exit.status,
                Err(error) if error.class() == Class::Unavailable => sleep(PAUSE).await,
                Err(error) => {
                    // The shim has died, and with it the knowledge.
                    tracing::warn!(id = container.id, name, %error, "waiting for a process");
                    break UNKNOWN_STATUS;
                }
            }
        };
        self.finish_exec(container, name, stdio, status).await;
    }

    /// Removes an exec that has ended, and tells its end.
    pub(crate) async fn finish_exec(
        &self,
        container: &Container,
        name: &str,
        stdio: &Stdio,
        status: u32,
    ) {
        let begin = Instant::now();
        let id = &container.id;
        self.state.write_exit(id, name, status);
        let ends = Ends::open(stdio);
        // COMPAT: waits a bounded time for whoever holds its output.
        match self.supervisor.delete_process(self.namespace(), id, name).await {
            Err(error) if !error.is_not_found() => {
                tracing::warn!(id, name, %error, "removing a process that has ended");
            }
            _ => {}
        }
        // Gone from State first, then told.
        container.remove(name);
        let gone = self.state.retire(id, Some(name));
        self.log.append(Kind::Exit, id, name, status);
        self.timers.exit.since(begin);
        self.hold(ends);
        if let Some(gone) = gone {
            state::remove(&gone);
        }
    }
}
