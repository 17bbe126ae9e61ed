//! A differ behind containerd's gRPC service: a proxy plugin. It reads and writes content by itself.

use std::collections::BTreeMap;

use api_grpc::diff::diff_client::DiffClient;
use api_grpc::diff::{ApplyRequest, DiffRequest};
use api_grpc::status::from_status;
use api_grpc::{LEASE_HEADER, MAX_MESSAGE_SIZE, NAMESPACE_HEADER};
use api_shim::types;
use async_trait::async_trait;
use base_errors::{Error, Result};
use base_ident::{Descriptor, Digest};
use kernel_mount::Mount;
use prost::Message as _;
use store_metadata::Scope;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::Channel;

use crate::{ApplyOptions, CompareOptions, Differ};

/// A differ at the other end of a channel.
#[derive(Clone)]
pub struct ProxyDiffer {
    client: DiffClient<Channel>,
}

impl ProxyDiffer {
    /// The diff service behind `channel`.
    #[must_use]
    pub fn new(channel: Channel) -> Self {
        let client = DiffClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_SIZE)
            .max_encoding_message_size(MAX_MESSAGE_SIZE);
        ProxyDiffer { client }
    }
}

/// A request with the headers of `scope`. Without one the other end says what it misses.
fn request<T>(message: T, scope: Option<&Scope>) -> Result<tonic::Request<T>> {
    let mut request = tonic::Request::new(message);
    let Some(scope) = scope else { return Ok(request) };
    let header = |value: &str| {
        AsciiMetadataValue::try_from(value)
            .map_err(|_| Error::invalid_argument(format!("header value {value:?}")))
    };
    let headers = request.metadata_mut();
    headers.insert(NAMESPACE_HEADER, header(scope.namespace.as_str())?);
    if let Some(lease) = &scope.lease {
        headers.insert(LEASE_HEADER, header(lease)?);
    }
    Ok(request)
}

fn mounts(mounts: &[Mount]) -> Vec<types::Mount> {
    let message = |mount: &Mount| types::Mount {
        r#type: mount.kind.clone(),
        source: mount.source.clone(),
        target: mount.target.clone(),
        options: mount.options.clone(),
    };
    mounts.iter().map(message).collect()
}

fn descriptor(message: Option<types::Descriptor>) -> Result<Descriptor> {
    let message = message.ok_or_else(|| Error::internal("diff service answered nothing"))?;
    Ok(Descriptor {
        digest: Digest::parse(&message.digest)?,
        size: u64::try_from(message.size).unwrap_or(0),
        media_type: message.media_type,
        annotations: message.annotations,
    })
}

#[async_trait]
impl Differ for ProxyDiffer {
    async fn apply(
        &self,
        _content: &dyn store_content::Store,
        layer: &Descriptor,
        target: &[Mount],
        options: ApplyOptions,
    ) -> Result<Descriptor> {
        if options.parent_comes_later {
            return Err(Error::not_implemented("a proxy differ needs the parent of a layer"));
        }
        let mut payloads = BTreeMap::new();
        for (id, bytes) in &options.payloads {
            let any = prost_types::Any::decode(bytes.as_slice())
                .map_err(|error| Error::invalid_argument(format!("payload {id:?}: {error}")))?;
            payloads.insert(id.clone(), any);
        }
        let message = ApplyRequest {
            diff: Some(types::Descriptor {
                media_type: layer.media_type.clone(),
                digest: layer.digest.as_str().to_owned(),
                size: i64::try_from(layer.size).unwrap_or(i64::MAX),
                annotations: layer.annotations.clone(),
            }),
            mounts: mounts(target),
            payloads: payloads.into_iter().collect(),
            sync_fs: options.sync_fs,
        };
        let request = request(message, options.scope.as_ref())?;
        let response = self.client.clone().apply(request).await.map_err(from_status)?;
        descriptor(response.into_inner().applied)
    }

    async fn compare(
        &self,
        _content: &dyn store_content::Store,
        lower: &[Mount],
        upper: &[Mount],
        options: CompareOptions,
    ) -> Result<Descriptor> {
        let message = DiffRequest {
            left: mounts(lower),
            right: mounts(upper),
            media_type: options.media_type,
            r#ref: options.reference,
            labels: options.labels.into_iter().collect(),
            source_date_epoch: options.source_date_epoch.map(prost_types::Timestamp::from),
        };
        let request = request(message, options.scope.as_ref())?;
        let response = self.client.clone().diff(request).await.map_err(from_status)?;
        descriptor(response.into_inner().diff)
    }
}
