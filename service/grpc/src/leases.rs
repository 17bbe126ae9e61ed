//! `containerd.services.leases.v1`.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::time::SystemTime;

use api_grpc::leases::leases_server::Leases;
use api_grpc::leases::{
    AddResourceRequest, CreateRequest, CreateResponse, DeleteRequest, DeleteResourceRequest,
    Lease as Message, ListRequest, ListResourcesRequest, ListResourcesResponse, ListResponse,
    Resource,
};
use base_ident::filter::Filter;
use store_metadata::{Lease, LeaseResource};
use tonic::{Request, Response, Status};

use crate::Backends;
use crate::convert::{required, status, timestamp};
use crate::request::scope;

/// Leases and what they hold.
pub struct LeasesService(pub Backends);

fn message(lease: Lease) -> Message {
    Message { id: lease.id, created_at: timestamp(lease.created_at), labels: lease.labels }
}

fn resource(message: Resource) -> LeaseResource {
    LeaseResource { id: message.id, kind: message.r#type }
}

/// An id for a client that has none in mind: the nanoseconds of the time, and four random letters.
// COMPAT: the form of containerd's ids, which tools show.
fn random_id() -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let nanoseconds = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.subsec_nanos());
    // The seed of each state is random.
    let random = RandomState::new().build_hasher().finish();
    let mut id = format!("{nanoseconds}-");
    for byte in &random.to_le_bytes()[..4] {
        id.push(char::from(LETTERS[usize::from(byte & 63)]));
    }
    id
}

#[tonic::async_trait]
impl Leases for LeasesService {
    async fn create(
        &self,
        request: Request<CreateRequest>,
    ) -> Result<Response<CreateResponse>, Status> {
        let scope = scope(&request)?;
        let mut request = request.into_inner();
        if request.id.is_empty() {
            request.id = random_id();
        }
        let lease = self
            .0
            .metadata
            .update(move |tx| Ok(tx.create_lease(&scope, &request.id, &request.labels)?))
            .await
            .map_err(status)?;
        Ok(Response::new(CreateResponse { lease: Some(message(lease)) }))
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<()>, Status> {
        let scope = scope(&request)?;
        let request = request.into_inner();
        self.0
            .metadata
            .update(move |tx| Ok(tx.delete_lease(&scope, &request.id)?))
            .await
            .map_err(status)?;
        if request.sync {
            self.0.collector.collect().await.map_err(status)?;
        }
        Ok(Response::new(()))
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        let namespace = scope(&request)?.namespace;
        let filter = Filter::parse_all(&request.get_ref().filters).map_err(status)?;
        let leases =
            self.0.metadata.view(|tx| Ok(tx.leases(&namespace, &filter)?)).map_err(status)?;
        Ok(Response::new(ListResponse { leases: leases.into_iter().map(message).collect() }))
    }

    async fn add_resource(
        &self,
        request: Request<AddResourceRequest>,
    ) -> Result<Response<()>, Status> {
        let scope = scope(&request)?;
        let request = request.into_inner();
        let resource = resource(required(request.resource, "resource")?);
        self.0
            .metadata
            .update(move |tx| Ok(tx.add_lease_resource(&scope, &request.id, &resource)?))
            .await
            .map_err(status)?;
        Ok(Response::new(()))
    }

    async fn delete_resource(
        &self,
        request: Request<DeleteResourceRequest>,
    ) -> Result<Response<()>, Status> {
        let scope = scope(&request)?;
        let request = request.into_inner();
        let resource = resource(required(request.resource, "resource")?);
        self.0
            .metadata
            .update(move |tx| Ok(tx.delete_lease_resource(&scope, &request.id, &resource)?))
            .await
            .map_err(status)?;
        Ok(Response::new(()))
    }

    async fn list_resources(
        &self,
        request: Request<ListResourcesRequest>,
    ) -> Result<Response<ListResourcesResponse>, Status> {
        let namespace = scope(&request)?.namespace;
        let id = &request.get_ref().id;
        let found =
            self.0.metadata.view(|tx| Ok(tx.lease_resources(&namespace, id)?)).map_err(status)?;
        let resources = found
            .into_iter()
            .map(|resource| Resource { id: resource.id, r#type: resource.kind })
            .collect();
        Ok(Response::new(ListResourcesResponse { resources }))
    }
}
