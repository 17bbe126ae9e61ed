//! `containerd.services.diff.v1`.

use api_grpc::diff::diff_server::Diff;
use api_grpc::diff::{ApplyRequest, ApplyResponse, DiffRequest, DiffResponse};
use prost::Message as _;
use store_diff::{ApplyOptions, CompareOptions};
use tonic::{Request, Response, Status};

use crate::Backends;
use crate::convert::{descriptor, descriptor_message, mounts, required, status, time};
use crate::request::scope;

/// Layers to trees and back.
pub struct DiffService(pub Backends);

#[tonic::async_trait]
impl Diff for DiffService {
    async fn apply(
        &self,
        request: Request<ApplyRequest>,
    ) -> Result<Response<ApplyResponse>, Status> {
        let scope = scope(&request)?;
        let request = request.into_inner();
        let payloads: std::collections::BTreeMap<String, Vec<u8>> = request
            .payloads
            .iter()
            .map(|(id, payload)| (id.clone(), payload.encode_to_vec()))
            .collect();
        let layer = descriptor(required(request.diff, "diff")?)?;
        let mounts = mounts(request.mounts);
        let options = ApplyOptions {
            sync_fs: request.sync_fs,
            payloads,
            scope: Some(scope.clone()),
            ..ApplyOptions::default()
        };
        let applied = self.0.apply(&scope, &layer, &mounts, options).await.map_err(status)?;
        Ok(Response::new(ApplyResponse { applied: Some(descriptor_message(applied)) }))
    }

    async fn diff(&self, request: Request<DiffRequest>) -> Result<Response<DiffResponse>, Status> {
        let scope = scope(&request)?;
        let request = request.into_inner();
        let (lower, upper) = (mounts(request.left), mounts(request.right));
        let options = CompareOptions {
            media_type: request.media_type,
            reference: request.r#ref,
            labels: request.labels,
            source_date_epoch: time(request.source_date_epoch),
            scope: Some(scope.clone()),
        };
        let made = self.0.compare(&scope, &lower, &upper, options).await.map_err(status)?;
        Ok(Response::new(DiffResponse { diff: Some(descriptor_message(made)) }))
    }
}
