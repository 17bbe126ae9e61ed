//! `containerd.services.events.v1`.

use std::pin::Pin;

use api_grpc::events::events_server::Events;
use api_grpc::events::{ForwardRequest, PublishRequest, SubscribeRequest};
use api_shim::ttrpc_events;
use api_shim::types::Envelope;
use futures_util::{Stream, StreamExt as _};
use runtime_event::Exchange;
use runtime_supervisor::Supervisor;
use tonic::{Request, Response, Status};

use crate::EventTypes;
use crate::convert::{required, status};
use crate::request::scope;

/// Events in and out.
pub struct EventsService {
    /// Where events go.
    pub exchange: Exchange,
    /// Who hears forwarded events first: they may be about tasks.
    pub supervisor: Supervisor,
    /// Which types subscribers get.
    pub types: EventTypes,
}

#[tonic::async_trait]
impl Events for EventsService {
    async fn publish(&self, request: Request<PublishRequest>) -> Result<Response<()>, Status> {
        let namespace = scope(&request)?.namespace;
        let request = request.into_inner();
        let event = required(request.event, "event")?;
        self.exchange.publish(&namespace, &request.topic, event).map_err(status)?;
        Ok(Response::new(()))
    }

    async fn forward(&self, request: Request<ForwardRequest>) -> Result<Response<()>, Status> {
        let envelope = request.into_inner().envelope;
        self.supervisor.forward(&ttrpc_events::ForwardRequest { envelope }).map_err(status)?;
        Ok(Response::new(()))
    }

    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<Envelope, Status>> + Send + 'static>>;

    async fn subscribe(
        &self,
        request: Request<SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let subscription = self.exchange.subscribe(&request.get_ref().filters).map_err(status)?;
        let types = self.types;
        let envelopes = subscription.filter_map(move |envelope| {
            let message = types.shown(&envelope.event).map(|event| {
                Ok(Envelope {
                    timestamp: Some(envelope.timestamp),
                    namespace: envelope.namespace.to_string(),
                    topic: envelope.topic.to_string(),
                    event: Some(event),
                })
            });
            std::future::ready(message)
        });
        Ok(Response::new(Box::pin(envelopes)))
    }
}
