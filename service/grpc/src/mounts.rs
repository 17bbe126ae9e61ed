//! `containerd.services.mounts.v1`: answered, not built yet.

use std::pin::Pin;

use api_grpc::mounts::mounts_server::Mounts;
use api_grpc::mounts::{
    ActivateRequest, ActivateResponse, DeactivateRequest, InfoRequest, InfoResponse, ListMessage,
    ListRequest, UpdateRequest, UpdateResponse,
};
use futures_util::Stream;
use tonic::{Request, Response, Status};

/// Says of every call that it is not implemented, which clients take as "mount it yourself".
pub struct MountsService;

fn unimplemented<T>(method: &str) -> Result<T, Status> {
    Err(Status::unimplemented(format!("mount manager: {method}: not implemented")))
}

#[tonic::async_trait]
impl Mounts for MountsService {
    async fn activate(
        &self,
        _request: Request<ActivateRequest>,
    ) -> Result<Response<ActivateResponse>, Status> {
        unimplemented("activate")
    }

    async fn deactivate(
        &self,
        _request: Request<DeactivateRequest>,
    ) -> Result<Response<()>, Status> {
        unimplemented("deactivate")
    }

    async fn info(&self, _request: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        unimplemented("info")
    }

    async fn update(
        &self,
        _request: Request<UpdateRequest>,
    ) -> Result<Response<UpdateResponse>, Status> {
        unimplemented("update")
    }

    type ListStream = Pin<Box<dyn Stream<Item = Result<ListMessage, Status>> + Send + 'static>>;

    async fn list(
        &self,
        _request: Request<ListRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        unimplemented("list")
    }
}
