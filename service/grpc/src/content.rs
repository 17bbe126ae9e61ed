//! `containerd.services.content.v1`. Reads and the write protocol have modules of their own.

mod read;
mod server;
mod write;

use std::pin::Pin;
use std::sync::Arc;

use api_grpc::content::content_server::Content;
use api_grpc::content::{
    AbortRequest, DeleteContentRequest, Info as Message, InfoRequest, InfoResponse,
    ListContentRequest, ListContentResponse, ListStatusesRequest, ListStatusesResponse,
    ReadContentRequest, Status as StatusMessage, StatusRequest, StatusResponse, UpdateRequest,
    UpdateResponse, WriteContentRequest, WriteContentResponse,
};
use api_shim::events::{ContentCreate, ContentDelete};
use base_errors::Error;
use futures_util::Stream;
use store_content::{ContentReader, Info, IngestStatus, Store as _, UpdateField};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

pub use self::server::ContentRoutes;

use self::read::Reading;
use crate::Backends;
use crate::convert::{digest, paths, required, size, status, time, timestamp, unsigned};
use crate::request::scope;

/// How many infos one message of a list holds; as containerd.
const BLOCK: usize = 100;

/// Bytes under their digests.
pub struct ContentService(pub Backends);

fn message(info: Info) -> Message {
    Message {
        digest: info.digest.as_str().to_owned(),
        size: size(info.size),
        created_at: timestamp(info.created_at),
        updated_at: timestamp(info.updated_at),
        labels: info.labels,
    }
}

fn status_message(ingest: IngestStatus) -> StatusMessage {
    StatusMessage {
        started_at: timestamp(ingest.started_at),
        updated_at: timestamp(ingest.updated_at),
        r#ref: ingest.reference,
        offset: size(ingest.offset),
        total: size(ingest.total),
        expected: ingest.expected.map(|digest| digest.as_str().to_owned()).unwrap_or_default(),
    }
}

#[tonic::async_trait]
impl Content for ContentService {
    async fn info(&self, request: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        let content = self.0.content(&scope(&request)?);
        let digest = digest(&request.get_ref().digest)?;
        let info = content.info(&digest).await.map_err(status)?;
        Ok(Response::new(InfoResponse { info: Some(message(info)) }))
    }

    async fn update(
        &self,
        request: Request<UpdateRequest>,
    ) -> Result<Response<UpdateResponse>, Status> {
        let content = self.0.content(&scope(&request)?);
        let request = request.into_inner();
        let asked = required(request.info, "info")?;
        let change = Info {
            digest: digest(&asked.digest)?,
            size: unsigned(asked.size),
            created_at: time(asked.created_at).unwrap_or(std::time::UNIX_EPOCH),
            updated_at: time(asked.updated_at).unwrap_or(std::time::UNIX_EPOCH),
            labels: asked.labels,
        };
        let fields = paths(request.update_mask)
            .into_iter()
            .map(|path| match path.strip_prefix("labels") {
                Some("") => Ok(UpdateField::Labels),
                Some(key) if key.starts_with('.') => Ok(UpdateField::Label(key[1..].to_owned())),
                _ => Err(status(Error::invalid_argument(format!(
                    "cannot update {path:?} field on content info {:?}",
                    change.digest.as_str()
                )))),
            })
            .collect::<Result<Vec<_>, Status>>()?;
        let info = content.update(&change, &fields).await.map_err(status)?;
        Ok(Response::new(UpdateResponse { info: Some(message(info)) }))
    }

    type ListStream =
        Pin<Box<dyn Stream<Item = Result<ListContentResponse, Status>> + Send + 'static>>;

    async fn list(
        &self,
        request: Request<ListContentRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let content = self.0.content(&scope(&request)?);
        let infos = content.list(&request.get_ref().filters).await.map_err(status)?;
        let mut infos: Vec<Message> = infos.into_iter().map(message).collect();
        let mut blocks = Vec::with_capacity(infos.len() / BLOCK + 1);
        while !infos.is_empty() {
            let rest = infos.split_off(infos.len().min(BLOCK));
            blocks.push(Ok(ListContentResponse { info: std::mem::replace(&mut infos, rest) }));
        }
        Ok(Response::new(Box::pin(futures_util::stream::iter(blocks))))
    }

    async fn delete(&self, request: Request<DeleteContentRequest>) -> Result<Response<()>, Status> {
        let scope = scope(&request)?;
        let digest = digest(&request.get_ref().digest)?;
        self.0.content(&scope).delete(&digest).await.map_err(status)?;
        let event = ContentDelete { digest: digest.as_str().to_owned() };
        self.0.notifier.publish(&scope.namespace, "/content/delete", &event);
        Ok(Response::new(()))
    }

    type ReadStream = Reading;

    async fn read(
        &self,
        request: Request<ReadContentRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        let content = self.0.content(&scope(&request)?);
        let request = request.into_inner();
        let digest = digest(&request.digest)?;
        let total = content.info(&digest).await.map_err(status)?.size;
        let reader: Arc<dyn ContentReader> = content.reader(&digest).await.map_err(status)?;
        let (offset, asked) = (unsigned(request.offset), unsigned(request.size));
        if request.offset < 0 || offset > total {
            return Err(status(Error::out_of_range(format!(
                "read past object length {total} bytes"
            ))));
        }
        let end = if asked == 0 { total } else { total.min(offset.saturating_add(asked)) };
        Ok(Response::new(Reading::new(reader, offset, end)))
    }

    async fn status(
        &self,
        request: Request<StatusRequest>,
    ) -> Result<Response<StatusResponse>, Status> {
        let content = self.0.content(&scope(&request)?);
        let ingest = content.status(&request.get_ref().r#ref).await.map_err(status)?;
        Ok(Response::new(StatusResponse { status: Some(status_message(ingest)) }))
    }

    async fn list_statuses(
        &self,
        request: Request<ListStatusesRequest>,
    ) -> Result<Response<ListStatusesResponse>, Status> {
        let content = self.0.content(&scope(&request)?);
        let found = content.list_statuses(&request.get_ref().filters).await.map_err(status)?;
        let statuses = found.into_iter().map(status_message).collect();
        Ok(Response::new(ListStatusesResponse { statuses }))
    }

    type WriteStream = ReceiverStream<Result<WriteContentResponse, Status>>;

    async fn write(
        &self,
        request: Request<Streaming<WriteContentRequest>>,
    ) -> Result<Response<Self::WriteStream>, Status> {
        let scope = scope(&request)?;
        let content = self.0.content(&scope);
        let notifier = self.0.notifier.clone();
        let (sender, receiver) = mpsc::channel(1);
        // The answers come while the requests still do, so the session has a task of its own; it
        // ends with the client's stream, with the commit, or when nobody reads the answers.
        tokio::spawn(async move {
            let session = write::Session::new(Arc::new(content), sender.clone());
            match session.run(request.into_inner()).await {
                Ok(Some(committed)) => {
                    let event = ContentCreate {
                        digest: committed.digest.as_str().to_owned(),
                        size: size(committed.size),
                    };
                    notifier.publish(&scope.namespace, "/content/create", &event);
                }
                Ok(None) => {}
                Err(error) => {
                    let _ = sender.send(Err(error)).await;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn abort(&self, request: Request<AbortRequest>) -> Result<Response<()>, Status> {
        let content = self.0.content(&scope(&request)?);
        content.abort(&request.get_ref().r#ref).await.map_err(status)?;
        Ok(Response::new(()))
    }
}
