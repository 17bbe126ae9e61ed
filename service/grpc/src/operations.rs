//! `ironhull.operations.v1`: what the daemon is doing just now. containerd has nothing like it.

use std::time::{Duration, SystemTime};

use api_grpc::operations::operations_server::Operations;
use api_grpc::operations::{ListOperationsRequest, ListOperationsResponse, Operation};
use runtime_supervisor::Supervisor;
use tonic::{Request, Response, Status};

use crate::convert::timestamp;

/// The operations in flight. No namespace is needed: they are those of all.
pub struct OperationsService(pub Supervisor);

fn duration(duration: Duration) -> Option<prost_types::Duration> {
    prost_types::Duration::try_from(duration).ok()
}

fn message(operation: runtime_supervisor::Operation) -> Operation {
    let (namespace, object) = operation.object.split_once('/').unwrap_or(("", &operation.object));
    let age = SystemTime::now().duration_since(operation.started).unwrap_or_default();
    Operation {
        id: operation.id,
        kind: operation.kind.to_owned(),
        namespace: namespace.to_owned(),
        object: object.to_owned(),
        phase: operation.phase.to_owned(),
        started: timestamp(operation.started),
        age: duration(age),
        deadline: operation.deadline.and_then(duration),
    }
}

#[tonic::async_trait]
impl Operations for OperationsService {
    async fn list(
        &self,
        _request: Request<ListOperationsRequest>,
    ) -> Result<Response<ListOperationsResponse>, Status> {
        let starts = self.0.starts();
        let count = |count| u64::try_from(count).unwrap_or(u64::MAX);
        Ok(Response::new(ListOperationsResponse {
            operations: self.0.operations().into_iter().map(message).collect(),
            start_places: count(starts.places),
            starts_running: count(starts.running),
            starts_waiting: count(starts.waiting),
        }))
    }
}
