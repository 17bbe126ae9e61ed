//! `containerd.services.mounts.v1`.

use std::pin::Pin;

use api_grpc::mounts::mounts_server::Mounts;
use api_grpc::mounts::{
    ActivateRequest, ActivateResponse, DeactivateRequest, InfoRequest, InfoResponse, ListMessage,
    ListRequest, UpdateRequest, UpdateResponse,
};
use api_shim::types;
use futures_util::Stream;
use store_mount::{ActivateOptions, Activation, MountManager};
use tonic::{Request, Response, Status};

use crate::convert::{mount_messages, mounts, status, timestamp};
use crate::request::scope;

/// Lists of mounts under a name.
pub struct MountsService(pub MountManager);

fn message(activation: Activation) -> types::ActivationInfo {
    let active = activation.active.into_iter().map(|active| types::ActiveMount {
        mount: mount_messages(vec![active.mount]).pop(),
        mounted_at: timestamp(active.mounted_at),
        mount_point: active.mount_point.to_string_lossy().into_owned(),
        ..Default::default()
    });
    types::ActivationInfo {
        name: activation.name,
        active: active.collect(),
        system: mount_messages(activation.system),
        labels: activation.labels.into_iter().collect(),
    }
}

#[tonic::async_trait]
impl Mounts for MountsService {
    async fn activate(
        &self,
        request: Request<ActivateRequest>,
    ) -> Result<Response<ActivateResponse>, Status> {
        let scope = scope(&request)?;
        let request = request.into_inner();
        let options = ActivateOptions {
            labels: request.labels.into_iter().collect(),
            temporary: request.temporary,
            allowed: Vec::new(),
        };
        let list = mounts(request.mounts);
        let made = self.0.activate(&scope, &request.name, &list, options).await.map_err(status)?;
        Ok(Response::new(ActivateResponse { info: Some(message(made)) }))
    }

    async fn deactivate(
        &self,
        request: Request<DeactivateRequest>,
    ) -> Result<Response<()>, Status> {
        let scope = scope(&request)?;
        self.0.deactivate(&scope, &request.get_ref().name).await.map_err(status)?;
        Ok(Response::new(()))
    }

    async fn info(&self, request: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        let scope = scope(&request)?;
        let info = self.0.info(&scope, &request.get_ref().name).map_err(status)?;
        Ok(Response::new(InfoResponse { info: Some(message(info)) }))
    }

    async fn update(
        &self,
        _request: Request<UpdateRequest>,
    ) -> Result<Response<UpdateResponse>, Status> {
        // COMPAT: an activation does not change; containerd has the call, and answers it so.
        Err(status(base_errors::Error::not_implemented("")))
    }

    type ListStream = Pin<Box<dyn Stream<Item = Result<ListMessage, Status>> + Send + 'static>>;

    async fn list(
        &self,
        request: Request<ListRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let scope = scope(&request)?;
        let list = self.0.list(&scope, &request.get_ref().filters).map_err(status)?;
        let messages =
            list.into_iter().map(|activation| Ok(ListMessage { info: Some(message(activation)) }));
        let messages: Vec<_> = messages.collect();
        Ok(Response::new(Box::pin(futures_util::stream::iter(messages))))
    }
}
