//! `containerd.services.sandbox.v1`: the store of sandbox records; the controller is answered, not
//! built yet.

use api_grpc::sandbox::controller_server::Controller;
use api_grpc::sandbox::store_server::Store;
use api_grpc::sandbox::{
    ControllerCreateRequest, ControllerCreateResponse, ControllerMetricsRequest,
    ControllerMetricsResponse, ControllerPlatformRequest, ControllerPlatformResponse,
    ControllerShutdownRequest, ControllerShutdownResponse, ControllerStartRequest,
    ControllerStartResponse, ControllerStatusRequest, ControllerStatusResponse,
    ControllerStopRequest, ControllerStopResponse, ControllerUpdateRequest,
    ControllerUpdateResponse, ControllerWaitRequest, ControllerWaitResponse, StoreCreateRequest,
    StoreCreateResponse, StoreDeleteRequest, StoreDeleteResponse, StoreGetRequest,
    StoreGetResponse, StoreListRequest, StoreListResponse, StoreUpdateRequest, StoreUpdateResponse,
};
use api_shim::types::{self, sandbox};
use base_ident::filter::Filter;
use store_metadata::{Runtime, Sandbox};
use tonic::{Request, Response, Status};

use crate::Backends;
use crate::convert::{required, status, timestamp};
use crate::request::scope;

/// Records of sandboxes.
pub struct SandboxStoreService(pub Backends);

fn message(record: Sandbox) -> types::Sandbox {
    types::Sandbox {
        sandbox_id: record.id,
        runtime: Some(sandbox::Runtime {
            name: record.runtime.name,
            options: record.runtime.options,
        }),
        spec: record.spec,
        labels: record.labels,
        created_at: timestamp(record.created_at),
        updated_at: timestamp(record.updated_at),
        extensions: record.extensions,
        sandboxer: record.sandboxer,
    }
}

fn record(message: types::Sandbox) -> Sandbox {
    let runtime = message.runtime.unwrap_or_default();
    Sandbox {
        id: message.sandbox_id,
        labels: message.labels,
        runtime: Runtime { name: runtime.name, options: runtime.options },
        spec: message.spec,
        sandboxer: message.sandboxer,
        created_at: std::time::UNIX_EPOCH,
        updated_at: std::time::UNIX_EPOCH,
        extensions: message.extensions,
    }
}

#[tonic::async_trait]
impl Store for SandboxStoreService {
    async fn create(
        &self,
        request: Request<StoreCreateRequest>,
    ) -> Result<Response<StoreCreateResponse>, Status> {
        let scope = scope(&request)?;
        let asked = record(required(request.into_inner().sandbox, "sandbox")?);
        let created = self
            .0
            .metadata
            .update(move |tx| Ok(tx.create_sandbox(&scope, asked)?))
            .await
            .map_err(status)?;
        Ok(Response::new(StoreCreateResponse { sandbox: Some(message(created)) }))
    }

    async fn update(
        &self,
        request: Request<StoreUpdateRequest>,
    ) -> Result<Response<StoreUpdateResponse>, Status> {
        let scope = scope(&request)?;
        let request = request.into_inner();
        let change = record(required(request.sandbox, "sandbox")?);
        let fields = request.fields;
        let updated = self
            .0
            .metadata
            .update(move |tx| Ok(tx.update_sandbox(&scope, &change, &fields)?))
            .await
            .map_err(status)?;
        Ok(Response::new(StoreUpdateResponse { sandbox: Some(message(updated)) }))
    }

    async fn delete(
        &self,
        request: Request<StoreDeleteRequest>,
    ) -> Result<Response<StoreDeleteResponse>, Status> {
        let scope = scope(&request)?;
        let id = request.into_inner().sandbox_id;
        self.0
            .metadata
            .update(move |tx| Ok(tx.delete_sandbox(&scope, &id)?))
            .await
            .map_err(status)?;
        Ok(Response::new(StoreDeleteResponse {}))
    }

    async fn list(
        &self,
        request: Request<StoreListRequest>,
    ) -> Result<Response<StoreListResponse>, Status> {
        let namespace = scope(&request)?.namespace;
        let filter = Filter::parse_all(&request.get_ref().filters).map_err(status)?;
        let found =
            self.0.metadata.view(|tx| Ok(tx.sandboxes(&namespace, &filter)?)).map_err(status)?;
        Ok(Response::new(StoreListResponse { list: found.into_iter().map(message).collect() }))
    }

    async fn get(
        &self,
        request: Request<StoreGetRequest>,
    ) -> Result<Response<StoreGetResponse>, Status> {
        let namespace = scope(&request)?.namespace;
        let id = &request.get_ref().sandbox_id;
        let found = self.0.metadata.view(|tx| Ok(tx.sandbox(&namespace, id)?)).map_err(status)?;
        Ok(Response::new(StoreGetResponse { sandbox: Some(message(found)) }))
    }
}

/// Says of every call that it is not implemented.
pub struct SandboxControllerService;

fn unimplemented<T>(method: &str) -> Result<Response<T>, Status> {
    Err(Status::unimplemented(format!("sandbox controller: {method}: not implemented")))
}

macro_rules! unimplemented_methods {
    ($($method:ident: $request:ty => $response:ty;)*) => {
        #[tonic::async_trait]
        impl Controller for SandboxControllerService {
            $(async fn $method(
                &self,
                _request: Request<$request>,
            ) -> Result<Response<$response>, Status> {
                unimplemented(stringify!($method))
            })*
        }
    };
}

unimplemented_methods! {
    create: ControllerCreateRequest => ControllerCreateResponse;
    start: ControllerStartRequest => ControllerStartResponse;
    platform: ControllerPlatformRequest => ControllerPlatformResponse;
    stop: ControllerStopRequest => ControllerStopResponse;
    wait: ControllerWaitRequest => ControllerWaitResponse;
    status: ControllerStatusRequest => ControllerStatusResponse;
    shutdown: ControllerShutdownRequest => ControllerShutdownResponse;
    metrics: ControllerMetricsRequest => ControllerMetricsResponse;
    update: ControllerUpdateRequest => ControllerUpdateResponse;
}
