//! The twelve calls: decode, wait for the containers of an earlier daemon, call, encode.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use api_grpc::v0::api_server::Api as Service;
use api_grpc::v0::{
    AddProcessRequest, AddProcessResponse, CreateCheckpointRequest, CreateCheckpointResponse,
    CreateContainerRequest, CreateContainerResponse, DeleteCheckpointRequest,
    DeleteCheckpointResponse, Event as EventMessage, EventsRequest, GetServerVersionRequest,
    GetServerVersionResponse, ListCheckpointRequest, ListCheckpointResponse, Machine,
    SignalRequest, SignalResponse, StateRequest, StateResponse, StatsRequest, StatsResponse,
    UpdateContainerRequest, UpdateContainerResponse, UpdateProcessRequest, UpdateProcessResponse,
    UpdateResource,
};
use api_shim::process::Status as TaskStatus;
use api_shim::{Timestamp, typeurl};
use futures_util::{Stream, StreamExt as _};
use rustix::io::Errno;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::container::Container;
use crate::create::describe;
use crate::engine::{Api, Engine, blocking};
use crate::legacy::live;
use crate::state::INIT;
use crate::{ApiError, Event, Kind, stats, time};

/// What 0.2.9 told about itself: it was never counted up.
const VERSION: (u32, u32, u32) = (0, 2, 3);
/// How many containers are asked for their state at once.
const STATE_WIDTH: usize = 32;
/// The largest number of a signal.
const MAX_SIGNAL: u32 = 64;

impl From<Event> for EventMessage {
    fn from(event: Event) -> Self {
        EventMessage {
            r#type: event.kind,
            id: event.id,
            status: event.status,
            pid: event.process,
            timestamp: Some(Timestamp::from(event.time)),
        }
    }
}

#[tonic::async_trait]
impl Service for Api {
    async fn get_server_version(
        &self,
        _: Request<GetServerVersionRequest>,
    ) -> Result<Response<GetServerVersionResponse>, Status> {
        let (major, minor, patch) = VERSION;
        let revision = self.0.config.revision.clone();
        Ok(Response::new(GetServerVersionResponse { major, minor, patch, revision }))
    }

    async fn create_container(
        &self,
        request: Request<CreateContainerRequest>,
    ) -> Result<Response<CreateContainerResponse>, Status> {
        self.0.settled().await;
        let container = self.0.create_container(request.into_inner()).await?;
        Ok(Response::new(CreateContainerResponse { container: Some(container) }))
    }

    async fn update_container(
        &self,
        request: Request<UpdateContainerRequest>,
    ) -> Result<Response<UpdateContainerResponse>, Status> {
        self.0.settled().await;
        self.0.update_container(request.into_inner()).await?;
        Ok(Response::new(UpdateContainerResponse {}))
    }

    async fn signal(
        &self,
        request: Request<SignalRequest>,
    ) -> Result<Response<SignalResponse>, Status> {
        self.0.settled().await;
        self.0.signal(&request.into_inner()).await?;
        Ok(Response::new(SignalResponse {}))
    }

    async fn update_process(
        &self,
        request: Request<UpdateProcessRequest>,
    ) -> Result<Response<UpdateProcessResponse>, Status> {
        self.0.settled().await;
        self.0.update_process(&request.into_inner()).await?;
        Ok(Response::new(UpdateProcessResponse {}))
    }

    async fn add_process(
        &self,
        request: Request<AddProcessRequest>,
    ) -> Result<Response<AddProcessResponse>, Status> {
        self.0.settled().await;
        let system_pid = self.0.add_process(request.into_inner()).await?;
        Ok(Response::new(AddProcessResponse { system_pid }))
    }

    async fn create_checkpoint(
        &self,
        request: Request<CreateCheckpointRequest>,
    ) -> Result<Response<CreateCheckpointResponse>, Status> {
        self.0.settled().await;
        self.0.create_checkpoint(request.into_inner()).await?;
        Ok(Response::new(CreateCheckpointResponse {}))
    }

    async fn delete_checkpoint(
        &self,
        request: Request<DeleteCheckpointRequest>,
    ) -> Result<Response<DeleteCheckpointResponse>, Status> {
        self.0.settled().await;
        self.0.delete_checkpoint(request.into_inner()).await?;
        Ok(Response::new(DeleteCheckpointResponse {}))
    }

    async fn list_checkpoint(
        &self,
        request: Request<ListCheckpointRequest>,
    ) -> Result<Response<ListCheckpointResponse>, Status> {
        self.0.settled().await;
        let checkpoints = self.0.list_checkpoints(request.into_inner()).await?;
        Ok(Response::new(ListCheckpointResponse { checkpoints }))
    }

    async fn state(
        &self,
        request: Request<StateRequest>,
    ) -> Result<Response<StateResponse>, Status> {
        self.0.settled().await;
        let containers = self.0.list(&request.into_inner().id).await?;
        Ok(Response::new(StateResponse { containers, machine: Some(machine()) }))
    }

    type EventsStream = Pin<Box<dyn Stream<Item = Result<EventMessage, Status>> + Send + 'static>>;

    async fn events(
        &self,
        request: Request<EventsRequest>,
    ) -> Result<Response<Self::EventsStream>, Status> {
        let request = request.into_inner();
        let from = time::replay_from(request.timestamp)?;
        if request.stored_only {
            if from.is_none() {
                return Err(ApiError::StoredOnly.into());
            }
            // What ended while no daemon ran is stored by then, or its container is still listed.
            self.0.settled().await;
            let stored = self.0.log.stored(from, &request.id);
            let stored = stored.into_iter().map(|event| Ok(event.into()));
            return Ok(Response::new(Box::pin(futures_util::stream::iter(stored))));
        }
        let (replay, live) = self.0.log.subscribe(from, &request.id)?;
        let events = futures_util::stream::iter(replay).chain(ReceiverStream::new(live));
        Ok(Response::new(Box::pin(events.map(|event| Ok(event.into())))))
    }

    async fn stats(
        &self,
        request: Request<StatsRequest>,
    ) -> Result<Response<StatsResponse>, Status> {
        self.0.settled().await;
        Ok(Response::new(self.0.stats(&request.into_inner().id).await?))
    }
}

impl Engine {
    async fn update_container(&self, request: UpdateContainerRequest) -> Result<(), ApiError> {
        let container = self.container(&request.id)?;
        if container.is_old() {
            return self.update_old(&container, &request).await;
        }
        let (namespace, id) = (self.namespace(), &container.id);
        // COMPAT: a status makes the resources of the same request unseen.
        let done = match request.status.as_str() {
            "" => match &request.resources {
                None => return Ok(()),
                Some(resources) => {
                    let json =
                        serde_json::to_vec(&linux_resources(resources)).map_err(ApiError::Spec)?;
                    let any = typeurl::encode_json(typeurl::LINUX_RESOURCES, json);
                    self.supervisor.update(namespace, id, Some(any), BTreeMap::new()).await
                }
            },
            "running" => self.supervisor.resume(namespace, id).await,
            "paused" => self.supervisor.pause(namespace, id).await,
            _ => return Err(ApiError::UnknownStatus),
        };
        done.map_err(|error| ApiError::of_command(&error))
    }

    /// As `update_container`, below a shim of the real 0.2: by the runtime alone.
    async fn update_old(
        &self,
        container: &Container,
        request: &UpdateContainerRequest,
    ) -> Result<(), ApiError> {
        let id = container.id.as_str();
        let (word, kind) = match request.status.as_str() {
            "" => {
                let Some(resources) = &request.resources else { return Ok(()) };
                let json =
                    serde_json::to_vec(&linux_resources(resources)).map_err(ApiError::Spec)?;
                live::command(&container.stored, &["update", "-r", "-", id], json).await?;
                return Ok(());
            }
            "running" => ("resume", Kind::Resume),
            "paused" => ("pause", Kind::Pause),
            _ => return Err(ApiError::UnknownStatus),
        };
        live::command(&container.stored, &[word, id], Vec::new()).await?;
        self.log.append(kind, id, "", 0);
        Ok(())
    }

    async fn signal(&self, request: &SignalRequest) -> Result<(), ApiError> {
        let container = self.container(&request.id)?;
        let exec_id = container.exec_id(&request.pid)?;
        if request.signal > MAX_SIGNAL {
            return Err(ApiError::Signal(Errno::INVAL));
        }
        if container.is_old() {
            return live::signal(&self.state.process(&container.id, &request.pid), request.signal);
        }
        if request.signal == 0 {
            // Asks whether the process is there, and nothing else.
            let process = self.supervisor.get(self.namespace(), &container.id, exec_id).await;
            return match process {
                Ok(process) if process.status() != TaskStatus::Stopped => Ok(()),
                _ => Err(ApiError::Signal(Errno::SRCH)),
            };
        }
        let (namespace, id) = (self.namespace(), &container.id);
        self.supervisor.kill(namespace, id, exec_id, request.signal, false).await.map_err(|error| {
            if error.is_not_found() {
                ApiError::Signal(Errno::SRCH)
            } else {
                ApiError::Other(error.message().to_owned())
            }
        })
    }

    async fn update_process(&self, request: &UpdateProcessRequest) -> Result<(), ApiError> {
        let container = self.container(&request.id)?;
        let exec_id = container.exec_id(&request.pid)?;
        let (namespace, id) = (self.namespace(), &container.id);
        if container.is_old() {
            let folder = self.state.process(&container.id, &request.pid);
            if request.close_stdin {
                live::close_stdin(&folder)?;
            }
            if request.width > 0 || request.height > 0 {
                live::resize(&folder, request.width, request.height)?;
            }
            return Ok(());
        }
        let failed = |error: base_errors::Error| {
            if error.is_not_found() {
                ApiError::ProcessNotFound
            } else {
                ApiError::Other(error.message().to_owned())
            }
        };
        if request.close_stdin {
            self.supervisor.close_io(namespace, id, exec_id, true).await.map_err(failed)?;
        }
        if request.width > 0 || request.height > 0 {
            let (width, height) = (request.width, request.height);
            self.supervisor
                .resize_pty(namespace, id, exec_id, width, height)
                .await
                .map_err(failed)?;
        }
        Ok(())
    }

    /// The container of an id, or all for an empty one.
    async fn list(&self, id: &str) -> Result<Vec<api_grpc::v0::Container>, ApiError> {
        let wanted: Vec<Arc<Container>> = if id.is_empty() {
            let all = self.containers();
            all.values().filter(|container| container.is_started()).cloned().collect()
        } else {
            vec![self.container(id)?]
        };
        let described = futures_util::stream::iter(wanted)
            .map(|container| async move { self.describe(&container).await })
            .buffered(STATE_WIDTH);
        let described: Vec<_> = described.collect().await;
        described.into_iter().collect()
    }

    async fn describe(&self, container: &Container) -> Result<api_grpc::v0::Container, ApiError> {
        if container.is_old() {
            let folder = self.state.process(&container.id, INIT);
            if !live::runs(&folder) {
                return Ok(describe(container, "stopped", Vec::new()));
            }
            let pids = blocking(move || live::pids(&folder)).await.unwrap_or_default();
            return Ok(describe(container, "running", pids));
        }
        let task = self.supervisor.get(self.namespace(), &container.id, "").await;
        let status = match task {
            // COMPAT: a container that is paused is running.
            Ok(task) if matches!(task.status(), TaskStatus::Stopped | TaskStatus::Unknown) => {
                "stopped"
            }
            Ok(_) => "running",
            Err(_) => "stopped",
        };
        if status != "running" {
            return Ok(describe(container, status, Vec::new()));
        }
        let pids = match self.supervisor.list_pids(self.namespace(), &container.id).await {
            Ok(pids) => pids.into_iter().map(|process| process.pid).collect(),
            // It has ended meanwhile.
            Err(error) if error.is_not_found() => Vec::new(),
            Err(error) => {
                tracing::warn!(id = container.id, %error, "listing the processes of a container");
                return Err(ApiError::Internal("get all pids for container".to_owned()));
            }
        };
        Ok(describe(container, status, pids))
    }

    async fn stats(&self, id: &str) -> Result<StatsResponse, ApiError> {
        let begin = Instant::now();
        let container = self.container(id)?;
        let data = if container.is_old() {
            let folder = self.state.process(id, INIT);
            blocking(move || live::metrics(&folder)).await?
        } else {
            let filter = format!("id=={:?}", container.id);
            let metrics = self
                .supervisor
                .metrics(self.namespace(), &[filter])
                .await
                .map_err(|error| ApiError::Other(error.message().to_owned()))?;
            let metric = metrics.into_iter().next();
            metric.and_then(|metric| metric.data).ok_or(ApiError::NotStarted)?
        };
        let system_usage = kernel_cgroup::system_cpu_nanoseconds()
            .map_err(|error| ApiError::Other(error.to_string()))?;
        self.timers.stats.since(begin);
        Ok(StatsResponse {
            network_stats: Vec::new(),
            cgroup_stats: Some(stats::convert(&data, system_usage)?),
            timestamp: Some(Timestamp::from(SystemTime::now())),
        })
    }
}

/// The limits of a request as OCI resources. Zero means that a limit stays as it is.
///
/// COMPAT: lists of devices are ignored.
fn linux_resources(resources: &UpdateResource) -> Value {
    let mut json = json!({});
    let mut put = |group: &str, name: &str, value: u64| {
        if value != 0 {
            json[group][name] = value.into();
        }
    };
    put("blockIO", "weight", resources.blkio_weight);
    put("blockIO", "leafWeight", resources.blkio_leaf_weight);
    put("cpu", "shares", resources.cpu_shares);
    put("cpu", "period", resources.cpu_period);
    put("cpu", "quota", resources.cpu_quota);
    put("memory", "limit", resources.memory_limit);
    put("memory", "swap", resources.memory_swap);
    put("memory", "reservation", resources.memory_reservation);
    put("memory", "kernel", resources.kernel_memory_limit);
    put("memory", "kernelTCP", resources.kernel_tcp_memory_limit);
    put("pids", "limit", resources.pids_limit);
    // Signed ones: all bits set is minus one, which lifts the limit.
    for (group, name) in [
        ("cpu", "quota"),
        ("memory", "limit"),
        ("memory", "swap"),
        ("memory", "reservation"),
        ("memory", "kernel"),
        ("memory", "kernelTCP"),
        ("pids", "limit"),
    ] {
        if let Some(value) = json.get_mut(group).and_then(|group| group.get_mut(name))
            && let Some(number) = value.as_u64().filter(|number| i64::try_from(*number).is_err())
        {
            *value = number.cast_signed().into();
        }
    }
    for (name, list) in [("cpus", &resources.cpuset_cpus), ("mems", &resources.cpuset_mems)] {
        if !list.is_empty() {
            json["cpu"][name] = list.clone().into();
        }
    }
    json
}

/// Processors and memory of this machine.
fn machine() -> Machine {
    let cpus = std::thread::available_parallelism().map_or(1, |count| count.get());
    let info = rustix::system::sysinfo();
    #[allow(clippy::useless_conversion, reason = "the width depends on the architecture")]
    let bytes = u64::from(info.totalram).saturating_mul(u64::from(info.mem_unit));
    Machine { cpus: u32::try_from(cpus).unwrap_or(u32::MAX), memory: bytes >> 20 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_become_resources() {
        let none = linux_resources(&UpdateResource::default());
        assert_eq!(none, json!({}));
        let some = UpdateResource {
            cpu_shares: 512,
            cpu_quota: u64::MAX,
            cpuset_cpus: "0-1".to_owned(),
            memory_limit: 1 << 30,
            pids_limit: 7,
            ..UpdateResource::default()
        };
        assert_eq!(
            linux_resources(&some),
            json!({
                "cpu": {"shares": 512, "quota": -1, "cpus": "0-1"},
                "memory": {"limit": 1 << 30},
                "pids": {"limit": 7},
            })
        );
    }

    #[test]
    fn the_machine_has_memory() {
        let machine = machine();
        assert!(machine.cpus >= 1 && machine.memory > 100);
    }
}
