//! `containerd.services.events.ttrpc.v1`: the events of shims.

use api_shim::ttrpc_events::{Events, ForwardRequest};
use runtime_supervisor::Supervisor;

/// Takes the events that shims send.
pub struct ShimEvents(pub Supervisor);

impl Events for ShimEvents {
    async fn forward(
        &self,
        _context: &api_ttrpc::Context,
        request: ForwardRequest,
    ) -> Result<(), api_ttrpc::Status> {
        self.0.forward(&request).map_err(api_ttrpc::Status::from)
    }
}
