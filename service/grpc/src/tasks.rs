//! `containerd.services.tasks.v1`.

mod checkpoint;

use std::path::PathBuf;

use api_grpc::tasks::tasks_server::Tasks;
use api_grpc::tasks::{
    CheckpointTaskRequest, CheckpointTaskResponse, CloseIoRequest, CreateTaskRequest,
    CreateTaskResponse, DeleteProcessRequest, DeleteResponse, DeleteTaskRequest,
    ExecProcessRequest, GetRequest, GetResponse, KillRequest, ListPidsRequest, ListPidsResponse,
    ListTasksRequest, ListTasksResponse, MetricsRequest, MetricsResponse, PauseTaskRequest,
    ResizePtyRequest, ResumeTaskRequest, StartRequest, StartResponse, UpdateTaskRequest,
    WaitRequest, WaitResponse,
};
use api_shim::types::Mount;
use api_shim::{Any, runc, typeurl};
use base_errors::{Error, Result};
use base_ident::Namespace;
use runtime_supervisor::{CreateTask, ExecTask, Exit, Runtime, Supervisor};
use store_metadata::Scope;
use store_mount::{ActivateOptions, MountManager};
use tonic::{Request, Response, Status};

use crate::convert::{descriptor, mount_messages, mounts, status};
use crate::request::scope;
use crate::{Backends, Deprecated, Deprecations};

/// Running containers.
pub struct TasksService {
    /// Where the containers' records are.
    pub backends: Backends,
    /// Who owns the tasks.
    pub supervisor: Supervisor,
    /// Makes the mounts that no shim can make; none if it is not loaded.
    pub mounts: Option<MountManager>,
    /// What is in use although it is deprecated.
    pub deprecations: Deprecations,
}

/// Says of an activation that it lives as long as its container.
const LABEL_CONTAINER: &str = "containerd.io/gc.bref.container";

impl TasksService {
    /// The mounts for the shim: those of the client, or what is left of them once the mount
    /// manager has done its part under the task's id.
    async fn rootfs(&self, scope: &Scope, id: &str, given: Vec<Mount>) -> Result<Vec<Mount>> {
        let list = mounts(given.clone());
        let Some(manager) = &self.mounts else { return Ok(given) };
        if !kernel_mount::needs_activation(&list) {
            return Ok(given);
        }
        let options = ActivateOptions {
            labels: [(LABEL_CONTAINER.to_owned(), id.to_owned())].into(),
            ..ActivateOptions::default()
        };
        // The container keeps it; the caller's lease may end before it.
        let scope = Scope::new(scope.namespace.clone());
        let made = match manager.activate(&scope, id, &list, options).await {
            Ok(made) => made,
            // Left by a task of the same container.
            Err(error) if error.is_already_exists() => manager.info(&scope, id)?,
            Err(error) => return Err(error),
        };
        Ok(mount_messages(made.system))
    }

    /// Takes away what [`TasksService::rootfs`] made.
    async fn release(&self, namespace: &Namespace, id: &str) {
        let Some(manager) = &self.mounts else { return };
        let scope = Scope::new(namespace.clone());
        // Most tasks have none: a look costs nothing.
        if manager.info(&scope, id).is_err() {
            return;
        }
        match manager.deactivate(&scope, id).await {
            Err(error) if !error.is_not_found() => {
                tracing::warn!(%namespace, id, %error, "failed to release the mounts of a task");
            }
            _ => {}
        }
    }

    /// The status for `error` on a task: a container that does not exist at all is the better
    /// answer to a task that does not.
    fn missing(&self, namespace: &Namespace, id: &str, error: Error) -> Status {
        if error.is_not_found()
            && let Err(no_container) =
                self.backends.metadata.view(|tx| Ok(tx.container(namespace, id)?))
            && no_container.is_not_found()
        {
            return status(no_container);
        }
        status(error)
    }
}

/// The task service that options of runc name: how clients of containerd 2.0 say that a sandbox has
/// one.
fn task_api(options: Option<&Any>) -> Result<Option<(String, u32)>> {
    let Some(options) = options.filter(|options| typeurl::is::<runc::Options>(options)) else {
        return Ok(None);
    };
    let options: runc::Options =
        typeurl::decode(options).map_err(|error| Error::invalid_argument(error.to_string()))?;
    let named = (options.task_api_address, options.task_api_version);
    Ok(Some(named).filter(|(address, _)| !address.is_empty()))
}

fn deleted(exit: Exit) -> DeleteResponse {
    DeleteResponse {
        id: exit.id,
        pid: exit.pid,
        exit_status: exit.status,
        exited_at: exit.exited_at,
    }
}

#[tonic::async_trait]
impl Tasks for TasksService {
    async fn create(
        &self,
        request: Request<CreateTaskRequest>,
    ) -> Result<Response<CreateTaskResponse>, Status> {
        let scope = scope(&request)?;
        let namespace = scope.namespace.clone();
        let request = request.into_inner();
        let container = self
            .backends
            .metadata
            .view(|tx| Ok(tx.container(&namespace, &request.container_id)?))
            .map_err(status)?;
        let from = request.checkpoint;
        let path = checkpoint::restore_path(request.options.as_ref(), from.as_ref());
        let path = path.map_err(status)?;
        let unpack = match from {
            Some(image) if path.is_empty() => {
                let image = descriptor(image)?;
                let unpack = checkpoint::unpack(&self.backends, scope.clone(), image).await;
                Some(unpack.map_err(status)?)
            }
            _ => None,
        };
        let (task_api_address, task_api_version) =
            match task_api(request.options.as_ref()).map_err(status)? {
                Some(named) if request.task_api_address.is_empty() => {
                    self.deprecations.note(Deprecated::TaskApiAddress);
                    self.deprecations.note(Deprecated::TaskApiVersion);
                    named
                }
                _ => (request.task_api_address, request.task_api_version),
            };
        let given = !request.rootfs.is_empty();
        let rootfs = self.rootfs(&scope, &container.id, request.rootfs).await.map_err(status)?;
        let task = CreateTask {
            id: container.id.clone(),
            spec: container.spec,
            runtime: Runtime { name: container.runtime.name, options: container.runtime.options },
            sandbox_id: container.sandbox_id,
            rootfs,
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.terminal,
            checkpoint: path,
            unpack,
            options: request.options,
            runtime_path: request.runtime_path,
            task_api_address,
            task_api_version,
        };
        let pid = match self.supervisor.create(&namespace, task).await {
            Ok(pid) => pid,
            Err(error) => {
                // A task that is there needs its mounts.
                if given && !error.is_already_exists() {
                    self.release(&namespace, &container.id).await;
                }
                return Err(status(error));
            }
        };
        Ok(Response::new(CreateTaskResponse { container_id: container.id, pid }))
    }

    async fn start(
        &self,
        request: Request<StartRequest>,
    ) -> Result<Response<StartResponse>, Status> {
        let namespace = scope(&request)?.namespace;
        let request = request.into_inner();
        let id = &request.container_id;
        let pid = self
            .supervisor
            .start(&namespace, id, &request.exec_id)
            .await
            .map_err(|error| self.missing(&namespace, id, error))?;
        Ok(Response::new(StartResponse { pid }))
    }

    async fn delete(
        &self,
        request: Request<DeleteTaskRequest>,
    ) -> Result<Response<DeleteResponse>, Status> {
        let namespace = scope(&request)?.namespace;
        let id = &request.get_ref().container_id;
        let exit = self
            .supervisor
            .delete(&namespace, id)
            .await
            .map_err(|error| self.missing(&namespace, id, error))?;
        self.release(&namespace, id).await;
        Ok(Response::new(deleted(exit)))
    }

    async fn delete_process(
        &self,
        request: Request<DeleteProcessRequest>,
    ) -> Result<Response<DeleteResponse>, Status> {
        let namespace = scope(&request)?.namespace;
        let request = request.into_inner();
        let id = &request.container_id;
        let exit = self
            .supervisor
            .delete_process(&namespace, id, &request.exec_id)
            .await
            .map_err(|error| self.missing(&namespace, id, error))?;
        Ok(Response::new(deleted(exit)))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let namespace = scope(&request)?.namespace;
        let request = request.into_inner();
        let id = &request.container_id;
        let process = self
            .supervisor
            .get(&namespace, id, &request.exec_id)
            .await
            .map_err(|error| self.missing(&namespace, id, error))?;
        Ok(Response::new(GetResponse { process: Some(process) }))
    }

    async fn list(
        &self,
        request: Request<ListTasksRequest>,
    ) -> Result<Response<ListTasksResponse>, Status> {
        let namespace = scope(&request)?.namespace;
        let tasks = self.supervisor.list(&namespace).await;
        Ok(Response::new(ListTasksResponse { tasks }))
    }

    async fn kill(&self, request: Request<KillRequest>) -> Result<Response<()>, Status> {
        let namespace = scope(&request)?.namespace;
        let request = request.into_inner();
        let id = &request.container_id;
        self.supervisor
            .kill(&namespace, id, &request.exec_id, request.signal, request.all)
            .await
            .map_err(|error| self.missing(&namespace, id, error))?;
        Ok(Response::new(()))
    }

    async fn exec(&self, request: Request<ExecProcessRequest>) -> Result<Response<()>, Status> {
        let namespace = scope(&request)?.namespace;
        let request = request.into_inner();
        if request.exec_id.is_empty() {
            return Err(Status::invalid_argument("exec id cannot be empty"));
        }
        let id = &request.container_id;
        let exec = ExecTask {
            exec_id: request.exec_id,
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.terminal,
            spec: request.spec,
        };
        self.supervisor
            .exec(&namespace, id, exec)
            .await
            .map_err(|error| self.missing(&namespace, id, error))?;
        Ok(Response::new(()))
    }

    async fn resize_pty(&self, request: Request<ResizePtyRequest>) -> Result<Response<()>, Status> {
        let namespace = scope(&request)?.namespace;
        let request = request.into_inner();
        let id = &request.container_id;
        self.supervisor
            .resize_pty(&namespace, id, &request.exec_id, request.width, request.height)
            .await
            .map_err(|error| self.missing(&namespace, id, error))?;
        Ok(Response::new(()))
    }

    async fn close_io(&self, request: Request<CloseIoRequest>) -> Result<Response<()>, Status> {
        let namespace = scope(&request)?.namespace;
        let request = request.into_inner();
        let id = &request.container_id;
        self.supervisor
            .close_io(&namespace, id, &request.exec_id, request.stdin)
            .await
            .map_err(|error| self.missing(&namespace, id, error))?;
        Ok(Response::new(()))
    }

    async fn pause(&self, request: Request<PauseTaskRequest>) -> Result<Response<()>, Status> {
        let namespace = scope(&request)?.namespace;
        let id = &request.get_ref().container_id;
        self.supervisor
            .pause(&namespace, id)
            .await
            .map_err(|error| self.missing(&namespace, id, error))?;
        Ok(Response::new(()))
    }

    async fn resume(&self, request: Request<ResumeTaskRequest>) -> Result<Response<()>, Status> {
        let namespace = scope(&request)?.namespace;
        let id = &request.get_ref().container_id;
        self.supervisor
            .resume(&namespace, id)
            .await
            .map_err(|error| self.missing(&namespace, id, error))?;
        Ok(Response::new(()))
    }

    async fn list_pids(
        &self,
        request: Request<ListPidsRequest>,
    ) -> Result<Response<ListPidsResponse>, Status> {
        let namespace = scope(&request)?.namespace;
        let id = &request.get_ref().container_id;
        let processes = self
            .supervisor
            .list_pids(&namespace, id)
            .await
            .map_err(|error| self.missing(&namespace, id, error))?;
        Ok(Response::new(ListPidsResponse { processes }))
    }

    async fn checkpoint(
        &self,
        request: Request<CheckpointTaskRequest>,
    ) -> Result<Response<CheckpointTaskResponse>, Status> {
        let scope = scope(&request)?;
        let namespace = &scope.namespace;
        let request = request.into_inner();
        let id = &request.container_id;
        let container =
            self.backends.metadata.view(|tx| Ok(tx.container(namespace, id)?)).map_err(status)?;
        let path = checkpoint::image_path(&container.runtime.name, request.options.as_ref());
        let path = path.map_err(status)?;
        if !path.is_empty() {
            let written = self.supervisor.checkpoint(namespace, id, &path, request.options).await;
            written.map_err(|error| self.missing(namespace, id, error))?;
            return Ok(Response::new(CheckpointTaskResponse::default()));
        }
        let store = async |folder: PathBuf| {
            checkpoint::store(&self.backends, &scope, &folder, container.spec.as_ref()).await
        };
        let descriptors = self
            .supervisor
            .checkpoint_with(namespace, id, request.options, store)
            .await
            .map_err(|error| self.missing(namespace, id, error))?;
        Ok(Response::new(CheckpointTaskResponse { descriptors }))
    }

    async fn update(&self, request: Request<UpdateTaskRequest>) -> Result<Response<()>, Status> {
        let namespace = scope(&request)?.namespace;
        let request = request.into_inner();
        let id = &request.container_id;
        self.supervisor
            .update(&namespace, id, request.resources, request.annotations)
            .await
            .map_err(|error| self.missing(&namespace, id, error))?;
        Ok(Response::new(()))
    }

    async fn metrics(
        &self,
        request: Request<MetricsRequest>,
    ) -> Result<Response<MetricsResponse>, Status> {
        let namespace = scope(&request)?.namespace;
        let filters = &request.get_ref().filters;
        let metrics = self.supervisor.metrics(&namespace, filters).await.map_err(status)?;
        Ok(Response::new(MetricsResponse { metrics }))
    }

    async fn wait(&self, request: Request<WaitRequest>) -> Result<Response<WaitResponse>, Status> {
        let namespace = scope(&request)?.namespace;
        let request = request.into_inner();
        let id = &request.container_id;
        let exit = self
            .supervisor
            .wait(&namespace, id, &request.exec_id)
            .await
            .map_err(|error| self.missing(&namespace, id, error))?;
        Ok(Response::new(WaitResponse { exit_status: exit.status, exited_at: exit.exited_at }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_may_name_a_task_service() {
        let named = |address: &str| {
            let (task_api_address, task_api_version) = (address.to_owned(), 3);
            let options =
                runc::Options { task_api_address, task_api_version, ..Default::default() };
            task_api(Some(&typeurl::encode(&options))).unwrap()
        };
        assert_eq!(named("unix:///s"), Some(("unix:///s".to_owned(), 3)));
        assert_eq!(named(""), None);
        assert_eq!(task_api(None).unwrap(), None);
        let other = Any { type_url: "kata.v1.Options".to_owned(), value: vec![1] };
        assert_eq!(task_api(Some(&other)).unwrap(), None);
        let damaged = Any { value: vec![0xff; 9], ..typeurl::encode(&runc::Options::default()) };
        let error = task_api(Some(&damaged)).unwrap_err();
        assert_eq!(error.class(), base_errors::Class::InvalidArgument);
    }
}
