//! A content store behind containerd's gRPC service: a proxy plugin, or a daemon seen by a client.

mod convert;
mod reader;
mod writer;

use std::sync::Arc;

use api_grpc::content::content_client::ContentClient;
use api_grpc::content::{
    AbortRequest, DeleteContentRequest, InfoRequest, ListContentRequest, ListStatusesRequest,
    StatusRequest, UpdateRequest,
};
use api_grpc::status::from_status;
use api_grpc::{LEASE_HEADER, MAX_MESSAGE_SIZE, NAMESPACE_HEADER};
use async_trait::async_trait;
use base_errors::{Error, Result};
use base_ident::Digest;
use store_metadata::Scope;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::Channel;

use self::convert::{info_from, info_to, mask, status_from};
use self::reader::ProxyReader;
use self::writer::ProxyWriter;
use crate::error::ContentError;
use crate::store::{ContentReader, Info, IngestStatus, Store, UpdateField, WriteOptions, Writer};

/// A store at the other end of a channel.
#[derive(Clone)]
pub struct ProxyStore {
    client: ContentClient<Channel>,
    headers: Headers,
}

/// The headers of each call.
#[derive(Clone, Default)]
struct Headers {
    namespace: Option<AsciiMetadataValue>,
    lease: Option<AsciiMetadataValue>,
}

impl Headers {
    fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        if let Some(namespace) = &self.namespace {
            request.metadata_mut().insert(NAMESPACE_HEADER, namespace.clone());
        }
        if let Some(lease) = &self.lease {
            request.metadata_mut().insert(LEASE_HEADER, lease.clone());
        }
        request
    }
}

impl ProxyStore {
    /// The content service behind `channel`, in the namespace and under the lease of `scope`.
    ///
    /// # Errors
    /// InvalidArgument for a lease that no header can carry.
    pub fn new(channel: Channel, scope: &Scope) -> Result<Self> {
        let header = |value: &str| {
            AsciiMetadataValue::try_from(value)
                .map_err(|_| Error::invalid_argument(format!("header value {value:?}")))
        };
        let headers = Headers {
            namespace: Some(header(scope.namespace.as_str())?),
            lease: scope.lease.as_deref().map(header).transpose()?,
        };
        let client = ContentClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_SIZE)
            .max_encoding_message_size(MAX_MESSAGE_SIZE);
        Ok(ProxyStore { client, headers })
    }

    async fn open_reader(&self, digest: &Digest) -> Result<ProxyReader> {
        let info = self.info(digest).await?;
        Ok(ProxyReader::new(self.client.clone(), self.headers.clone(), info))
    }
}

/// The error of an answer without its message.
fn missing(field: &str) -> Error {
    Error::internal(format!("content service answered without {field}"))
}

#[async_trait]
impl Store for ProxyStore {
    async fn info(&self, digest: &Digest) -> Result<Info> {
        let request = self.headers.request(InfoRequest { digest: digest.to_string() });
        let answer = self.client.clone().info(request).await.map_err(from_status)?;
        info_from(answer.into_inner().info.ok_or_else(|| missing("info"))?)
    }

    async fn update(&self, info: &Info, fields: &[UpdateField]) -> Result<Info> {
        let request = self
            .headers
            .request(UpdateRequest { info: Some(info_to(info)), update_mask: mask(fields) });
        let answer = self.client.clone().update(request).await.map_err(from_status)?;
        info_from(answer.into_inner().info.ok_or_else(|| missing("info"))?)
    }

    async fn list(&self, filters: &[String]) -> Result<Vec<Info>> {
        let request = self.headers.request(ListContentRequest { filters: filters.to_vec() });
        let mut stream = self.client.clone().list(request).await.map_err(from_status)?.into_inner();
        let mut infos = Vec::new();
        while let Some(part) = stream.message().await.map_err(from_status)? {
            for info in part.info {
                infos.push(info_from(info)?);
            }
        }
        Ok(infos)
    }

    async fn delete(&self, digest: &Digest) -> Result<()> {
        let request = self.headers.request(DeleteContentRequest { digest: digest.to_string() });
        self.client.clone().delete(request).await.map_err(from_status)?;
        Ok(())
    }

    async fn reader(&self, digest: &Digest) -> Result<Arc<dyn ContentReader>> {
        Ok(Arc::new(self.open_reader(digest).await?))
    }

    async fn status(&self, reference: &str) -> Result<IngestStatus> {
        let request = self.headers.request(StatusRequest { r#ref: reference.to_owned() });
        let answer = self.client.clone().status(request).await.map_err(from_status)?;
        status_from(answer.into_inner().status.ok_or_else(|| missing("status"))?)
    }

    async fn list_statuses(&self, filters: &[String]) -> Result<Vec<IngestStatus>> {
        let request = self.headers.request(ListStatusesRequest { filters: filters.to_vec() });
        let answer = self.client.clone().list_statuses(request).await.map_err(from_status)?;
        answer.into_inner().statuses.into_iter().map(status_from).collect()
    }

    async fn abort(&self, reference: &str) -> Result<()> {
        let request = self.headers.request(AbortRequest { r#ref: reference.to_owned() });
        self.client.clone().abort(request).await.map_err(from_status)?;
        Ok(())
    }

    async fn writer(&self, options: WriteOptions) -> Result<Box<dyn Writer>> {
        if options.reference.is_empty() {
            return Err(ContentError::ReferenceEmpty.into());
        }
        Ok(Box::new(ProxyWriter::open(self.client.clone(), &self.headers, options).await?))
    }
}
