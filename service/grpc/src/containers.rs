//! `containerd.services.containers.v1`.

use std::pin::Pin;
use std::time::SystemTime;

use api_grpc::containers::containers_server::Containers;
use api_grpc::containers::{
    Container as Message, CreateContainerRequest, CreateContainerResponse, DeleteContainerRequest,
    GetContainerRequest, GetContainerResponse, ListContainerMessage, ListContainersRequest,
    ListContainersResponse, UpdateContainerRequest, UpdateContainerResponse, container,
};
use api_shim::events::{ContainerCreate, ContainerDelete, ContainerUpdate, container_create};
use base_ident::Namespace;
use base_ident::filter::Filter;
use futures_util::Stream;
use store_metadata::{Container, Runtime};
use tonic::{Request, Response, Status};

use crate::Backends;
use crate::convert::{paths, required, status, timestamp};
use crate::request::scope;

/// Records of containers.
pub struct ContainersService(pub Backends);

fn message(container: Container) -> Message {
    Message {
        id: container.id,
        labels: container.labels,
        image: container.image,
        runtime: Some(container::Runtime {
            name: container.runtime.name,
            options: container.runtime.options,
        }),
        spec: container.spec,
        snapshotter: container.snapshotter,
        snapshot_key: container.snapshot_key,
        created_at: timestamp(container.created_at),
        updated_at: timestamp(container.updated_at),
        extensions: container.extensions,
        sandbox: container.sandbox_id,
    }
}

fn record(message: Message) -> Container {
    let runtime = message.runtime.unwrap_or_default();
    Container {
        id: message.id,
        labels: message.labels,
        image: message.image,
        runtime: Runtime { name: runtime.name, options: runtime.options },
        spec: message.spec,
        snapshotter: message.snapshotter,
        snapshot_key: message.snapshot_key,
        created_at: SystemTime::UNIX_EPOCH,
        updated_at: SystemTime::UNIX_EPOCH,
        extensions: message.extensions,
        sandbox_id: message.sandbox,
    }
}

impl ContainersService {
    fn matching(
        &self,
        namespace: &Namespace,
        filters: &[String],
    ) -> Result<Vec<Container>, Status> {
        let filter = Filter::parse_all(filters).map_err(status)?;
        self.0.metadata.view(|tx| Ok(tx.containers(namespace, &filter)?)).map_err(status)
    }
}

#[tonic::async_trait]
impl Containers for ContainersService {
    async fn get(
        &self,
        request: Request<GetContainerRequest>,
    ) -> Result<Response<GetContainerResponse>, Status> {
        let namespace = scope(&request)?.namespace;
        let id = &request.get_ref().id;
        let found = self.0.metadata.view(|tx| Ok(tx.container(&namespace, id)?)).map_err(status)?;
        Ok(Response::new(GetContainerResponse { container: Some(message(found)) }))
    }

    async fn list(
        &self,
        request: Request<ListContainersRequest>,
    ) -> Result<Response<ListContainersResponse>, Status> {
        let namespace = scope(&request)?.namespace;
        let found = self.matching(&namespace, &request.get_ref().filters)?;
        let containers = found.into_iter().map(message).collect();
        Ok(Response::new(ListContainersResponse { containers }))
    }

    type ListStreamStream =
        Pin<Box<dyn Stream<Item = Result<ListContainerMessage, Status>> + Send + 'static>>;

    async fn list_stream(
        &self,
        request: Request<ListContainersRequest>,
    ) -> Result<Response<Self::ListStreamStream>, Status> {
        let namespace = scope(&request)?.namespace;
        let found = self.matching(&namespace, &request.get_ref().filters)?;
        let messages = found
            .into_iter()
            .map(|found| Ok(ListContainerMessage { container: Some(message(found)) }));
        Ok(Response::new(Box::pin(futures_util::stream::iter(messages))))
    }

    async fn create(
        &self,
        request: Request<CreateContainerRequest>,
    ) -> Result<Response<CreateContainerResponse>, Status> {
        let scope = scope(&request)?;
        let asked = record(required(request.into_inner().container, "container")?);
        let namespace = scope.namespace.clone();
        let created = self
            .0
            .metadata
            .update(move |tx| tx.create_container(&scope, asked))
            .await
            .map_err(status)?;
        let event = ContainerCreate {
            id: created.id.clone(),
            image: created.image.clone(),
            runtime: Some(container_create::Runtime {
                name: created.runtime.name.clone(),
                options: created.runtime.options.clone(),
            }),
        };
        self.0.notifier.publish(&namespace, "/containers/create", &event);
        Ok(Response::new(CreateContainerResponse { container: Some(message(created)) }))
    }

    async fn update(
        &self,
        request: Request<UpdateContainerRequest>,
    ) -> Result<Response<UpdateContainerResponse>, Status> {
        let scope = scope(&request)?;
        let request = request.into_inner();
        let change = record(required(request.container, "container")?);
        let mask = paths(request.update_mask);
        let namespace = scope.namespace.clone();
        let updated = self
            .0
            .metadata
            .update(move |tx| tx.update_container(&scope, &change, &mask))
            .await
            .map_err(status)?;
        let event = ContainerUpdate {
            id: updated.id.clone(),
            image: updated.image.clone(),
            labels: updated.labels.clone(),
            snapshot_key: updated.snapshot_key.clone(),
        };
        self.0.notifier.publish(&namespace, "/containers/update", &event);
        Ok(Response::new(UpdateContainerResponse { container: Some(message(updated)) }))
    }

    async fn delete(
        &self,
        request: Request<DeleteContainerRequest>,
    ) -> Result<Response<()>, Status> {
        let scope = scope(&request)?;
        let id = request.into_inner().id;
        let namespace = scope.namespace.clone();
        let event = ContainerDelete { id: id.clone() };
        self.0
            .metadata
            .update(move |tx| Ok(tx.delete_container(&scope, &id)?))
            .await
            .map_err(status)?;
        self.0.notifier.publish(&namespace, "/containers/delete", &event);
        Ok(Response::new(()))
    }
}
