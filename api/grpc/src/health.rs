//! Health: the daemon serves, whatever service is asked for.
//!
//! COMPAT: docker 1.12 and later ask for the empty name and restart the daemon after three
//! failures; kubelet and others ask for names of their own. containerd answers SERVING to all.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use crate::generated::grpc::health::v1 as wire;

pub use wire::health_check_response::ServingStatus;
pub use wire::health_client::HealthClient;
pub use wire::health_server::HealthServer;
pub use wire::{HealthCheckRequest, HealthCheckResponse};

/// The service `grpc.health.v1.Health`.
#[derive(Debug, Default, Clone, Copy)]
pub struct Health;

/// The health service, ready to be added to a server.
#[must_use]
pub fn server() -> HealthServer<Health> {
    HealthServer::new(Health)
}

#[tonic::async_trait]
impl wire::health_server::Health for Health {
    async fn check(
        &self,
        _request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        Ok(Response::new(serving()))
    }

    type WatchStream = Watch;

    async fn watch(
        &self,
        _request: Request<HealthCheckRequest>,
    ) -> Result<Response<Watch>, Status> {
        Ok(Response::new(Watch { told: false }))
    }
}

fn serving() -> HealthCheckResponse {
    HealthCheckResponse { status: ServingStatus::Serving.into() }
}

/// Says SERVING once and then stays open until the caller or the server leaves.
#[derive(Debug)]
pub struct Watch {
    told: bool,
}

impl Stream for Watch {
    type Item = Result<HealthCheckResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if std::mem::replace(&mut self.told, true) {
            // Nothing ever changes; the transport drops the stream with the call.
            Poll::Pending
        } else {
            Poll::Ready(Some(Ok(serving())))
        }
    }
}
