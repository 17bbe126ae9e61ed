//! `containerd.services.diff.v1`.

use api_grpc::diff::diff_server::Diff;
use api_grpc::diff::{ApplyRequest, ApplyResponse, DiffRequest, DiffResponse};
use base_errors::{Class, Error};
use prost::Message as _;
use store_diff::{ApplyOptions, CompareOptions};
use tonic::{Request, Response, Status};

use crate::Backends;
use crate::convert::{descriptor, descriptor_message, mounts, required, status, time};
use crate::request::scope;

/// Layers to trees and back.
pub struct DiffService(pub Backends);

/// The differs are tried in order until one does not answer NotImplemented.
fn next(error: Error) -> Result<Error, Status> {
    if error.class() == Class::NotImplemented { Ok(error) } else { Err(status(error)) }
}

#[tonic::async_trait]
impl Diff for DiffService {
    async fn apply(
        &self,
        request: Request<ApplyRequest>,
    ) -> Result<Response<ApplyResponse>, Status> {
        let scope = scope(&request)?;
        let content = self.0.content(&scope);
        let request = request.into_inner();
        let payloads: std::collections::BTreeMap<String, Vec<u8>> = request
            .payloads
            .iter()
            .map(|(id, payload)| (id.clone(), payload.encode_to_vec()))
            .collect();
        let layer = descriptor(required(request.diff, "diff")?)?;
        let mounts = mounts(request.mounts);
        let mut last = Error::not_implemented("no differ is loaded");
        for differ in &self.0.differs {
            let options = ApplyOptions {
                sync_fs: request.sync_fs,
                payloads: payloads.clone(),
                scope: Some(scope.clone()),
                ..ApplyOptions::default()
            };
            match differ.apply(&content, &layer, &mounts, options).await {
                Ok(applied) => {
                    let applied = Some(descriptor_message(applied));
                    return Ok(Response::new(ApplyResponse { applied }));
                }
                Err(error) => last = next(error)?,
            }
        }
        Err(status(last))
    }

    async fn diff(&self, request: Request<DiffRequest>) -> Result<Response<DiffResponse>, Status> {
        let scope = scope(&request)?;
        let content = self.0.content(&scope);
        let request = request.into_inner();
        let (lower, upper) = (mounts(request.left), mounts(request.right));
        let options = CompareOptions {
            media_type: request.media_type,
            reference: request.r#ref,
            labels: request.labels,
            source_date_epoch: time(request.source_date_epoch),
            scope: Some(scope),
        };
        let mut last = Error::not_implemented("no differ is loaded");
        for differ in &self.0.differs {
            match differ.compare(&content, &lower, &upper, options.clone()).await {
                Ok(made) => {
                    let diff = Some(descriptor_message(made));
                    return Ok(Response::new(DiffResponse { diff }));
                }
                Err(error) => last = next(error)?,
            }
        }
        Err(status(last))
    }
}
