//! A shim whose service runs in the test, and whose program is a script.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use api_shim::Message as _;
use api_shim::process::Status as State;
use api_shim::task::{
    CreateTaskRequest, CreateTaskResponse, DeleteRequest, DeleteResponse, KillRequest,
    ShutdownRequest, StartRequest, StartResponse, StateRequest, StateResponse, Task, TaskServer,
    WaitRequest, WaitResponse,
};
use api_ttrpc::{Context, ListenOptions, Server, Status, bind};
use tokio::sync::watch;

use crate::harness::Node;

/// What the service does and has seen.
#[derive(Default)]
pub(crate) struct Behaviour {
    /// State never answers.
    pub(crate) hang_state: AtomicBool,
    /// Start never answers.
    pub(crate) hang_start: AtomicBool,
    /// Create never answers.
    pub(crate) hang_create: AtomicBool,
    /// State knows no task.
    pub(crate) no_task: AtomicBool,
    pub(crate) states: AtomicU32,
    pub(crate) creates: AtomicU32,
    pub(crate) deletes: AtomicU32,
    pub(crate) shutdowns: AtomicU32,
}

pub(crate) struct FakeTask {
    behaviour: Arc<Behaviour>,
    exited: watch::Sender<Option<u32>>,
}

pub(crate) const PID: u32 = 4242;

impl Task for FakeTask {
    async fn create(
        &self,
        context: &Context,
        _request: CreateTaskRequest,
    ) -> Result<CreateTaskResponse, Status> {
        self.behaviour.creates.fetch_add(1, Ordering::SeqCst);
        if self.behaviour.hang_create.load(Ordering::SeqCst) {
            context.cancelled().await;
            std::future::pending::<()>().await;
        }
        Ok(CreateTaskResponse { pid: PID })
    }

    async fn start(
        &self,
        context: &Context,
        _request: StartRequest,
    ) -> Result<StartResponse, Status> {
        if self.behaviour.hang_start.load(Ordering::SeqCst) {
            context.cancelled().await;
            return Err(Status::closed());
        }
        Ok(StartResponse { pid: PID })
    }

    async fn state(
        &self,
        context: &Context,
        request: StateRequest,
    ) -> Result<StateResponse, Status> {
        self.behaviour.states.fetch_add(1, Ordering::SeqCst);
        while self.behaviour.hang_state.load(Ordering::SeqCst) {
            tokio::select! {
                () = context.cancelled() => return Err(Status::closed()),
                () = tokio::time::sleep(std::time::Duration::from_millis(5)) => {}
            }
        }
        if self.behaviour.no_task.load(Ordering::SeqCst) {
            return Err(Status::not_found("no such task: not found"));
        }
        let exited = *self.exited.borrow();
        let status = if exited.is_some() { State::Stopped } else { State::Running };
        Ok(StateResponse {
            id: request.id,
            pid: PID,
            status: status.into(),
            exit_status: exited.unwrap_or(0),
            ..StateResponse::default()
        })
    }

    async fn kill(&self, _: &Context, request: KillRequest) -> Result<(), Status> {
        self.exited.send_replace(Some(128 + request.signal));
        Ok(())
    }

    async fn wait(&self, context: &Context, _request: WaitRequest) -> Result<WaitResponse, Status> {
        let mut exited = self.exited.subscribe();
        tokio::select! {
            status = exited.wait_for(Option::is_some) => Ok(WaitResponse {
                exit_status: status.ok().and_then(|status| *status).unwrap_or(255),
                exited_at: None,
            }),
            () = context.cancelled() => Err(Status::closed()),
        }
    }

    async fn delete(&self, _: &Context, _request: DeleteRequest) -> Result<DeleteResponse, Status> {
        self.behaviour.deletes.fetch_add(1, Ordering::SeqCst);
        let exit_status = self.exited.borrow().unwrap_or(0);
        Ok(DeleteResponse { pid: PID, exit_status, exited_at: None })
    }

    async fn shutdown(&self, _: &Context, _request: ShutdownRequest) -> Result<(), Status> {
        self.behaviour.shutdowns.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

/// The service, its socket, and what it has seen.
pub(crate) struct Service {
    pub(crate) behaviour: Arc<Behaviour>,
    pub(crate) socket: PathBuf,
    server: Server,
    listening: tokio::task::JoinHandle<()>,
}

impl Service {
    /// Serves under each of `names` on a socket of the node.
    pub(crate) async fn start(node: &Node, socket: &str, names: &[&str]) -> Self {
        let behaviour = Arc::new(Behaviour::default());
        let task = FakeTask { behaviour: Arc::clone(&behaviour), exited: watch::Sender::new(None) };
        let task = Arc::new(TaskServer::new(task));
        let mut server = Server::new();
        for name in names {
            server = server.register(*name, task.clone());
        }
        let socket = node.folder.path().join(socket);
        let listener = bind(&socket).await.unwrap();
        let listening = tokio::spawn({
            let server = server.clone();
            async move { server.serve(listener, ListenOptions::default()).await.unwrap() }
        });
        Service { behaviour, socket, server, listening }
    }

    /// The shim dies; its socket stays.
    pub(crate) async fn die(self) {
        self.server.close();
        self.listening.await.unwrap();
    }

    pub(crate) fn address(&self) -> String {
        format!("unix://{}", self.socket.display())
    }
}

/// A shim program that answers `start` with the bytes of a file, says its version, records its
/// input and arguments, and answers `delete` with status 9.
pub(crate) fn program(node: &Node, name: &str, version: &str, answer: &[u8]) -> PathBuf {
    let folder = node.folder.path();
    let file = |suffix: &str| folder.join(format!("{name}.{suffix}")).display().to_string();
    fs::write(file("answer"), answer).unwrap();
    let deleted = DeleteResponse { pid: PID, exit_status: 9, exited_at: None };
    fs::write(file("deleted"), deleted.encode_to_vec()).unwrap();
    let text = format!(
        "#!/bin/sh\n\
         for last; do :; done\n\
         case \"$last\" in\n\
         -v) printf 'shim:\\n  Version: {version}\\n' ;;\n\
         start) cat > {input}; echo \"$PWD|$TTRPC_ADDRESS|$NAMESPACE|$*\" > {arguments}; cat {answer} ;;\n\
         delete) echo \"$*\" >> {cleanups}; cat {deleted} ;;\n\
         esac\n",
        input = file("input"),
        arguments = file("arguments"),
        answer = file("answer"),
        cleanups = file("cleanups"),
        deleted = file("deleted"),
    );
    node.program(name, &text)
}

/// What the program has recorded.
pub(crate) fn recorded(program: &Path, what: &str) -> Vec<u8> {
    fs::read(format!("{}.{what}", program.display())).unwrap_or_default()
}
