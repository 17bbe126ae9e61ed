//! The proxy over a gRPC server that does what containerd's snapshots service does.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use api_grpc::MAX_MESSAGE_SIZE;
use api_grpc::snapshots as wire;
use api_grpc::snapshots::snapshots_server::{Snapshots, SnapshotsServer};
use api_grpc::status::to_status;
use base_ident::Namespace;
use futures_util::{Stream, stream};
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use kernel_mount::Mount;
use store_metadata::Scope;
use store_snapshot::testsuite::{self, Abilities};
use store_snapshot::{Info, Kind, ProxySnapshotter, Snapshotter, UpdateField};
use tonic::transport::Endpoint;
use tonic::{Request, Response, Status};

use super::{in_namespace, numbered, overlay};

struct Service {
    backend: Arc<dyn Snapshotter>,
}

fn mounts(mounts: Vec<Mount>) -> Vec<api_shim::types::Mount> {
    mounts
        .into_iter()
        .map(|mount| api_shim::types::Mount {
            r#type: mount.kind,
            source: mount.source,
            target: mount.target,
            options: mount.options,
        })
        .collect()
}

fn info(info: Info) -> wire::Info {
    let kind = match info.kind {
        Kind::View => wire::Kind::View,
        Kind::Active => wire::Kind::Active,
        Kind::Committed => wire::Kind::Committed,
    };
    wire::Info {
        name: info.name,
        parent: info.parent,
        kind: kind.into(),
        created_at: Some(info.created_at.into()),
        updated_at: Some(info.updated_at.into()),
        labels: info.labels,
    }
}

type List = Pin<Box<dyn Stream<Item = Result<wire::ListSnapshotsResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Snapshots for Service {
    async fn prepare(
        &self,
        request: Request<wire::PrepareSnapshotRequest>,
    ) -> Result<Response<wire::PrepareSnapshotResponse>, Status> {
        assert_eq!(request.metadata().get("containerd-namespace").unwrap(), "testing");
        let wire::PrepareSnapshotRequest { snapshotter, key, parent, labels } =
            request.into_inner();
        assert_eq!(snapshotter, "remote");
        let made = self.backend.prepare(&key, &parent, labels).await.map_err(to_status)?;
        Ok(Response::new(wire::PrepareSnapshotResponse { mounts: mounts(made) }))
    }

    async fn view(
        &self,
        request: Request<wire::ViewSnapshotRequest>,
    ) -> Result<Response<wire::ViewSnapshotResponse>, Status> {
        let wire::ViewSnapshotRequest { key, parent, labels, .. } = request.into_inner();
        let made = self.backend.view(&key, &parent, labels).await.map_err(to_status)?;
        Ok(Response::new(wire::ViewSnapshotResponse { mounts: mounts(made) }))
    }

    async fn mounts(
        &self,
        request: Request<wire::MountsRequest>,
    ) -> Result<Response<wire::MountsResponse>, Status> {
        let list = self.backend.mounts(&request.get_ref().key).await.map_err(to_status)?;
        Ok(Response::new(wire::MountsResponse { mounts: mounts(list) }))
    }

    async fn commit(
        &self,
        request: Request<wire::CommitSnapshotRequest>,
    ) -> Result<Response<()>, Status> {
        let wire::CommitSnapshotRequest { name, key, labels, parent, .. } = request.into_inner();
        self.backend.commit(&name, &key, labels, &parent).await.map_err(to_status)?;
        Ok(Response::new(()))
    }

    async fn remove(
        &self,
        request: Request<wire::RemoveSnapshotRequest>,
    ) -> Result<Response<()>, Status> {
        self.backend.remove(&request.get_ref().key).await.map_err(to_status)?;
        Ok(Response::new(()))
    }

    async fn stat(
        &self,
        request: Request<wire::StatSnapshotRequest>,
    ) -> Result<Response<wire::StatSnapshotResponse>, Status> {
        let found = self.backend.stat(&request.get_ref().key).await.map_err(to_status)?;
        Ok(Response::new(wire::StatSnapshotResponse { info: Some(info(found)) }))
    }

    async fn update(
        &self,
        request: Request<wire::UpdateSnapshotRequest>,
    ) -> Result<Response<wire::UpdateSnapshotResponse>, Status> {
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
        let mut old = self.backend.stat(&new.name).await.map_err(to_status)?;
        old.labels = new.labels;
        let updated = self.backend.update(&old, &fields).await.map_err(to_status)?;
        Ok(Response::new(wire::UpdateSnapshotResponse { info: Some(info(updated)) }))
    }

    type ListStream = List;
    async fn list(
        &self,
        request: Request<wire::ListSnapshotsRequest>,
    ) -> Result<Response<List>, Status> {
        let list = self.backend.list(&request.get_ref().filters).await.map_err(to_status)?;
        let blocks: Vec<_> = list
            .chunks(5)
            .map(|block| {
                Ok(wire::ListSnapshotsResponse { info: block.iter().cloned().map(info).collect() })
            })
            .collect();
        Ok(Response::new(Box::pin(stream::iter(blocks))))
    }

    async fn usage(
        &self,
        request: Request<wire::UsageRequest>,
    ) -> Result<Response<wire::UsageResponse>, Status> {
        let usage = self.backend.usage(&request.get_ref().key).await.map_err(to_status)?;
        Ok(Response::new(wire::UsageResponse {
            size: i64::try_from(usage.size).unwrap(),
            inodes: i64::try_from(usage.inodes).unwrap(),
        }))
    }

    async fn cleanup(
        &self,
        _request: Request<wire::CleanupRequest>,
    ) -> Result<Response<()>, Status> {
        self.backend.cleanup().await.map_err(to_status)?;
        Ok(Response::new(()))
    }
}

async fn proxy(root: &Path) -> Arc<dyn Snapshotter> {
    let service = SnapshotsServer::new(Service { backend: overlay(&root.join("overlay")) })
        .max_decoding_message_size(MAX_MESSAGE_SIZE)
        .max_encoding_message_size(MAX_MESSAGE_SIZE);
    let socket = root.join("sock");
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
    let scope = Scope::new(Namespace::new("testing").unwrap());
    Arc::new(ProxySnapshotter::new(channel, "remote", Some(&scope)).unwrap())
}

#[test]
fn contract() {
    in_namespace("256m", async |work| {
        let make = || -> Pin<Box<dyn Future<Output = Arc<dyn Snapshotter>> + Send>> {
            let root = numbered(&work);
            Box::pin(async move { proxy(&root).await })
        };
        testsuite::run(&make, &work, Abilities { rebase: true, exact_usage: true }).await;
    });
}
