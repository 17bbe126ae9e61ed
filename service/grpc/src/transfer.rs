//! `containerd.services.transfer.v1`.

use api_grpc::transfer::TransferRequest;
use api_grpc::transfer::transfer_server::Transfer;
use tonic::{Request, Response, Status};

use crate::Backends;
use crate::streaming::Streams;

/// Moves images between archives, registries and the store.
pub struct TransferService {
    backends: Backends,
    streams: Streams,
}

impl TransferService {
    /// A service over `backends` that finds the bytes of clients in `streams`.
    #[must_use]
    pub fn new(backends: Backends, streams: Streams) -> Self {
        TransferService { backends, streams }
    }
}

#[tonic::async_trait]
impl Transfer for TransferService {
    async fn transfer(&self, request: Request<TransferRequest>) -> Result<Response<()>, Status> {
        let _ = (&self.backends, &self.streams);
        let request = request.into_inner();
        let name = |any: Option<prost_types::Any>| any.map(|any| any.type_url).unwrap_or_default();
        Err(Status::unimplemented(format!(
            "method Transfer not implemented for {} to {}",
            name(request.source),
            name(request.destination)
        )))
    }
}
