//! The proxy over a gRPC server that does what containerd's content service does.

use std::pin::Pin;
use std::sync::{Arc, Mutex};

use api_grpc::MAX_MESSAGE_SIZE;
use api_grpc::content::content_server::{Content, ContentServer};
use api_grpc::content::{self as wire, WriteAction};
use api_grpc::status::to_status;
use base_errors::Error;
use base_ident::{Digest, Labels, Namespace};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use store_content::testsuite::{self, Abilities, bytes, put};
use store_content::{
    Info, IngestStatus, NamespacedContent, ProxyStore, SharingPolicy, Store, UpdateField,
    WriteOptions, Writer,
};
use store_metadata::{Metadata, Options, Scope};
use tonic::transport::Endpoint;
use tonic::{Request, Response, Status, Streaming};

use super::{Folder, folder, local};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

struct Service {
    store: Arc<dyn Store>,
}

fn digest(text: &str) -> Result<Digest, Status> {
    Digest::parse(text).map_err(|error| to_status(error.into()))
}

fn info(info: Info) -> wire::Info {
    wire::Info {
        digest: info.digest.to_string(),
        size: i64::try_from(info.size).unwrap(),
        created_at: Some(info.created_at.into()),
        updated_at: Some(info.updated_at.into()),
        labels: info.labels,
    }
}

fn status(status: IngestStatus) -> wire::Status {
    wire::Status {
        started_at: Some(status.started_at.into()),
        updated_at: Some(status.updated_at.into()),
        r#ref: status.reference,
        offset: i64::try_from(status.offset).unwrap(),
        total: i64::try_from(status.total).unwrap(),
        expected: status.expected.map(|digest| digest.to_string()).unwrap_or_default(),
    }
}

/// One frame of a write stream.
async fn frame(
    writer: &mut dyn Writer,
    request: wire::WriteContentRequest,
) -> Result<wire::WriteContentResponse, Error> {
    let state = writer.status().await?;
    let offset = u64::try_from(request.offset).unwrap();
    let mut answer = wire::WriteContentResponse {
        action: request.action,
        started_at: Some(state.started_at.into()),
        updated_at: Some(state.updated_at.into()),
        offset: i64::try_from(state.offset).unwrap(),
        total: i64::try_from(state.total).unwrap(),
        digest: String::new(),
    };
    if request.action() == WriteAction::Stat {
        answer.digest = writer.digest()?.to_string();
        return Ok(answer);
    }
    if offset > 0 && offset != state.offset {
        return Err(Error::out_of_range(format!("write @{offset} must occur at current offset")));
    }
    if offset == 0 && state.offset > 0 {
        writer.truncate(0).await?;
        answer.offset = 0;
    }
    answer.offset += i64::try_from(request.data.len()).unwrap();
    writer.write(request.data.clone()).await?;
    if request.action() == WriteAction::Commit {
        let expected = match request.expected.as_str() {
            "" => None,
            text => Some(Digest::parse(text)?),
        };
        let size = u64::try_from(request.total).unwrap();
        let digest = writer.commit(size, expected.as_ref(), request.labels).await?;
        answer.digest = digest.to_string();
    }
    Ok(answer)
}

#[tonic::async_trait]
impl Content for Service {
    async fn info(
        &self,
        request: Request<wire::InfoRequest>,
    ) -> Result<Response<wire::InfoResponse>, Status> {
        assert_eq!(request.metadata().get("containerd-namespace").unwrap(), "testing");
        let digest = digest(&request.get_ref().digest)?;
        let found = self.store.info(&digest).await.map_err(to_status)?;
        Ok(Response::new(wire::InfoResponse { info: Some(info(found)) }))
    }

    async fn update(
        &self,
        request: Request<wire::UpdateRequest>,
    ) -> Result<Response<wire::UpdateResponse>, Status> {
        let request = request.into_inner();
        let new = request.info.unwrap();
        let fields: Vec<UpdateField> = request
            .update_mask
            .map(|mask| mask.paths)
            .unwrap_or_default()
            .iter()
            .map(|path| match path.strip_prefix("labels.") {
                Some(key) => UpdateField::Label(key.to_owned()),
                None => UpdateField::Labels,
            })
            .collect();
        let mut old = self.store.info(&digest(&new.digest)?).await.map_err(to_status)?;
        old.labels = new.labels;
        let updated = self.store.update(&old, &fields).await.map_err(to_status)?;
        Ok(Response::new(wire::UpdateResponse { info: Some(info(updated)) }))
    }

    type ListStream = Answers<wire::ListContentResponse>;
    async fn list(
        &self,
        request: Request<wire::ListContentRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let list = self.store.list(&request.into_inner().filters).await.map_err(to_status)?;
        let blocks: Vec<_> = list
            .chunks(100)
            .map(|block| {
                Ok(wire::ListContentResponse { info: block.iter().cloned().map(info).collect() })
            })
            .collect();
        Ok(Response::new(Box::pin(stream::iter(blocks))))
    }

    async fn delete(
        &self,
        request: Request<wire::DeleteContentRequest>,
    ) -> Result<Response<()>, Status> {
        let digest = digest(&request.get_ref().digest)?;
        self.store.delete(&digest).await.map_err(to_status)?;
        Ok(Response::new(()))
    }

    type ReadStream = Answers<wire::ReadContentResponse>;
    async fn read(
        &self,
        request: Request<wire::ReadContentRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        let request = request.into_inner();
        let digest = digest(&request.digest)?;
        let reader = self.store.reader(&digest).await.map_err(to_status)?;
        let offset = u64::try_from(request.offset).unwrap();
        let size = usize::try_from(request.size).unwrap();
        let mut data = vec![0; size];
        let count = reader.read_at(&mut data, offset).unwrap();
        data.truncate(count);
        // In pieces, as over a network.
        let data = Bytes::from(data);
        let pieces: Vec<_> = (0..data.len())
            .step_by(100_000)
            .map(|at| {
                let end = data.len().min(at + 100_000);
                let offset = i64::try_from(at).unwrap();
                Ok(wire::ReadContentResponse { offset, data: data.slice(at..end) })
            })
            .collect();
        Ok(Response::new(Box::pin(stream::iter(pieces))))
    }

    async fn status(
        &self,
        request: Request<wire::StatusRequest>,
    ) -> Result<Response<wire::StatusResponse>, Status> {
        let found = self.store.status(&request.get_ref().r#ref).await.map_err(to_status)?;
        Ok(Response::new(wire::StatusResponse { status: Some(status(found)) }))
    }

    async fn list_statuses(
        &self,
        request: Request<wire::ListStatusesRequest>,
    ) -> Result<Response<wire::ListStatusesResponse>, Status> {
        let list = self.store.list_statuses(&request.get_ref().filters).await.map_err(to_status)?;
        let statuses = list.into_iter().map(status).collect();
        Ok(Response::new(wire::ListStatusesResponse { statuses }))
    }

    type WriteStream = Answers<wire::WriteContentResponse>;
    async fn write(
        &self,
        request: Request<Streaming<wire::WriteContentRequest>>,
    ) -> Result<Response<Self::WriteStream>, Status> {
        let mut requests = request.into_inner();
        let first = requests.message().await?.unwrap();
        let options = WriteOptions {
            reference: first.r#ref.clone(),
            total: u64::try_from(first.total).unwrap(),
            expected: match first.expected.as_str() {
                "" => None,
                text => Some(digest(text)?),
            },
        };
        let writer = self.store.writer(options).await.map_err(to_status)?;
        let answers = stream::unfold(
            (Some(writer), Some(first), requests),
            |(writer, first, mut requests)| async move {
                let mut writer = writer?;
                let request = match first {
                    Some(first) => first,
                    None => requests.message().await.ok()??,
                };
                match frame(&mut *writer, request).await {
                    Ok(answer) => Some((Ok(answer), (Some(writer), None, requests))),
                    Err(error) => Some((Err(to_status(error)), (None, None, requests))),
                }
            },
        );
        Ok(Response::new(answers.boxed()))
    }

    async fn abort(&self, request: Request<wire::AbortRequest>) -> Result<Response<()>, Status> {
        self.store.abort(&request.get_ref().r#ref).await.map_err(to_status)?;
        Ok(Response::new(()))
    }
}

/// A server in a task of the test's runtime, and a proxy to it.
async fn proxy() -> (Folder, ProxyStore) {
    let folder = folder();
    let metadata = Metadata::open(folder.path().join("meta.db"), Options::default()).unwrap();
    let content = NamespacedContent::new(metadata, local(&folder), SharingPolicy::Shared);
    let scope = Scope::new(Namespace::new("testing").unwrap());
    let service = ContentServer::new(Service { store: Arc::new(content.scope(scope.clone())) })
        .max_decoding_message_size(MAX_MESSAGE_SIZE)
        .max_encoding_message_size(MAX_MESSAGE_SIZE);
    let socket = folder.path().join("sock");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    // Ends with the test's runtime.
    drop(tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = TowerToHyperService::new(service.clone());
            let connection = http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service);
            drop(tokio::spawn(connection));
        }
    }));
    let endpoint = Endpoint::from_shared(format!("unix:{}", socket.display())).unwrap();
    let channel = endpoint.connect().await.unwrap();
    (folder, ProxyStore::new(channel, &scope).unwrap())
}

#[test]
fn contract() {
    super::run(async {
        // The folders have to outlive their stores.
        let folders = Arc::new(Mutex::new(Vec::new()));
        let make = || -> Pin<Box<dyn Future<Output = Arc<dyn Store>> + Send>> {
            let folders = Arc::clone(&folders);
            Box::pin(async move {
                let (folder, store) = proxy().await;
                folders.lock().unwrap().push(folder);
                Arc::new(store) as Arc<dyn Store>
            })
        };
        testsuite::run(&make, Abilities { labels: true, running_digest: false }).await;
    });
}

#[test]
fn a_peer_that_goes_away_is_an_error() {
    super::run(async {
        let folder = folder();
        let socket = folder.path().join("sock");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let endpoint = Endpoint::from_shared(format!("unix:{}", socket.display())).unwrap();
        let channel = endpoint.connect_lazy();
        drop(listener);
        let scope = Scope::new(Namespace::new("testing").unwrap());
        let store = ProxyStore::new(channel, &scope).unwrap();
        assert!(store.list(&[]).await.is_err());
        let options = WriteOptions { reference: "x".to_owned(), ..WriteOptions::default() };
        assert!(store.writer(options).await.is_err());
    });
}

#[test]
fn documents_are_read_whole() {
    super::run(async {
        let (_folder, store) = proxy().await;
        let data = bytes(60, 300_000);
        let blob = put(&store, "document", &data, Labels::new()).await;
        assert_eq!(store_content::read_all(&store, &blob).await.unwrap(), data);
        let large = put(&store, "large", &bytes(61, (8 << 20) + 1), Labels::new()).await;
        let error = store_content::read_all(&store, &large).await.unwrap_err();
        assert_eq!(error.class(), base_errors::Class::ResourceExhausted);
    });
}
