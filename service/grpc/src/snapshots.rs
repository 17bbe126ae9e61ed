//! `containerd.services.snapshots.v1`.

use std::pin::Pin;

use api_grpc::snapshots::snapshots_server::Snapshots;
use api_grpc::snapshots::{
    CleanupRequest, CommitSnapshotRequest, Info as Message, Kind as KindMessage,
    ListSnapshotsRequest, ListSnapshotsResponse, MountsRequest, MountsResponse,
    PrepareSnapshotRequest, PrepareSnapshotResponse, RemoveSnapshotRequest, StatSnapshotRequest,
    StatSnapshotResponse, UpdateSnapshotRequest, UpdateSnapshotResponse, UsageRequest,
    UsageResponse, ViewSnapshotRequest, ViewSnapshotResponse,
};
use api_shim::events::{SnapshotCommit, SnapshotPrepare, SnapshotRemove};
use futures_util::Stream;
use store_metadata::Scope;
use store_snapshot::{Info, Kind, NamespacedSnapshotter, Snapshotter as _, UpdateField};
use tonic::{Request, Response, Status};

use crate::Backends;
use crate::convert::{mount_messages, paths, required, size, status, time, timestamp};
use crate::request::scope;

/// How many infos one message of a list holds; as containerd.
const BLOCK: usize = 100;

/// Snapshots of all snapshotters.
pub struct SnapshotsService(pub Backends);

fn message(info: Info) -> Message {
    let kind = match info.kind {
        Kind::View => KindMessage::View,
        Kind::Active => KindMessage::Active,
        Kind::Committed => KindMessage::Committed,
    };
    Message {
        name: info.name,
        parent: info.parent,
        kind: kind.into(),
        created_at: timestamp(info.created_at),
        updated_at: timestamp(info.updated_at),
        labels: info.labels,
    }
}

fn info(message: Message) -> Info {
    let kind = match message.kind() {
        KindMessage::View => Kind::View,
        KindMessage::Committed => Kind::Committed,
        KindMessage::Unknown | KindMessage::Active => Kind::Active,
    };
    Info {
        kind,
        name: message.name,
        parent: message.parent,
        labels: message.labels,
        created_at: time(message.created_at).unwrap_or(std::time::UNIX_EPOCH),
        updated_at: time(message.updated_at).unwrap_or(std::time::UNIX_EPOCH),
    }
}

impl SnapshotsService {
    fn open<T>(
        &self,
        request: &Request<T>,
        snapshotter: &str,
    ) -> Result<(Scope, NamespacedSnapshotter), Status> {
        let scope = scope(request)?;
        let snapshotter = self.0.snapshotter(&scope, snapshotter).map_err(status)?;
        Ok((scope, snapshotter))
    }
}

#[tonic::async_trait]
impl Snapshots for SnapshotsService {
    async fn prepare(
        &self,
        request: Request<PrepareSnapshotRequest>,
    ) -> Result<Response<PrepareSnapshotResponse>, Status> {
        let (scope, snapshotter) = self.open(&request, &request.get_ref().snapshotter)?;
        let request = request.into_inner();
        let mounts = snapshotter
            .prepare(&request.key, &request.parent, request.labels)
            .await
            .map_err(status)?;
        let event = SnapshotPrepare {
            key: request.key,
            parent: request.parent,
            snapshotter: request.snapshotter,
        };
        self.0.notifier.publish(&scope.namespace, "/snapshot/prepare", &event);
        Ok(Response::new(PrepareSnapshotResponse { mounts: mount_messages(mounts) }))
    }

    async fn view(
        &self,
        request: Request<ViewSnapshotRequest>,
    ) -> Result<Response<ViewSnapshotResponse>, Status> {
        let (_, snapshotter) = self.open(&request, &request.get_ref().snapshotter)?;
        let request = request.into_inner();
        let mounts = snapshotter
            .view(&request.key, &request.parent, request.labels)
            .await
            .map_err(status)?;
        Ok(Response::new(ViewSnapshotResponse { mounts: mount_messages(mounts) }))
    }

    async fn mounts(
        &self,
        request: Request<MountsRequest>,
    ) -> Result<Response<MountsResponse>, Status> {
        let (_, snapshotter) = self.open(&request, &request.get_ref().snapshotter)?;
        let mounts = snapshotter.mounts(&request.get_ref().key).await.map_err(status)?;
        Ok(Response::new(MountsResponse { mounts: mount_messages(mounts) }))
    }

    async fn commit(
        &self,
        request: Request<CommitSnapshotRequest>,
    ) -> Result<Response<()>, Status> {
        let (scope, snapshotter) = self.open(&request, &request.get_ref().snapshotter)?;
        let request = request.into_inner();
        snapshotter
            .commit(&request.name, &request.key, request.labels, &request.parent)
            .await
            .map_err(status)?;
        let event = SnapshotCommit {
            key: request.key,
            name: request.name,
            snapshotter: request.snapshotter,
        };
        self.0.notifier.publish(&scope.namespace, "/snapshot/commit", &event);
        Ok(Response::new(()))
    }

    async fn remove(
        &self,
        request: Request<RemoveSnapshotRequest>,
    ) -> Result<Response<()>, Status> {
        let (scope, snapshotter) = self.open(&request, &request.get_ref().snapshotter)?;
        let request = request.into_inner();
        snapshotter.remove(&request.key).await.map_err(status)?;
        let event = SnapshotRemove { key: request.key, snapshotter: request.snapshotter };
        self.0.notifier.publish(&scope.namespace, "/snapshot/remove", &event);
        Ok(Response::new(()))
    }

    async fn stat(
        &self,
        request: Request<StatSnapshotRequest>,
    ) -> Result<Response<StatSnapshotResponse>, Status> {
        let (_, snapshotter) = self.open(&request, &request.get_ref().snapshotter)?;
        let info = snapshotter.stat(&request.get_ref().key).await.map_err(status)?;
        Ok(Response::new(StatSnapshotResponse { info: Some(message(info)) }))
    }

    async fn update(
        &self,
        request: Request<UpdateSnapshotRequest>,
    ) -> Result<Response<UpdateSnapshotResponse>, Status> {
        let (_, snapshotter) = self.open(&request, &request.get_ref().snapshotter)?;
        let request = request.into_inner();
        let change = info(required(request.info, "info")?);
        let fields = paths(request.update_mask)
            .into_iter()
            .map(|path| match path.strip_prefix("labels") {
                Some("") => Ok(UpdateField::Labels),
                Some(key) if key.starts_with('.') => Ok(UpdateField::Label(key[1..].to_owned())),
                _ => Err(status(base_errors::Error::invalid_argument(format!(
                    "cannot update {path:?} field on snapshot {:?}",
                    change.name
                )))),
            })
            .collect::<Result<Vec<_>, Status>>()?;
        let info = snapshotter.update(&change, &fields).await.map_err(status)?;
        Ok(Response::new(UpdateSnapshotResponse { info: Some(message(info)) }))
    }

    type ListStream =
        Pin<Box<dyn Stream<Item = Result<ListSnapshotsResponse, Status>> + Send + 'static>>;

    async fn list(
        &self,
        request: Request<ListSnapshotsRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let (_, snapshotter) = self.open(&request, &request.get_ref().snapshotter)?;
        let infos = snapshotter.list(&request.get_ref().filters).await.map_err(status)?;
        let mut infos: Vec<Message> = infos.into_iter().map(message).collect();
        let mut blocks = Vec::with_capacity(infos.len() / BLOCK + 1);
        while !infos.is_empty() {
            let rest = infos.split_off(infos.len().min(BLOCK));
            blocks.push(Ok(ListSnapshotsResponse { info: std::mem::replace(&mut infos, rest) }));
        }
        Ok(Response::new(Box::pin(futures_util::stream::iter(blocks))))
    }

    async fn usage(
        &self,
        request: Request<UsageRequest>,
    ) -> Result<Response<UsageResponse>, Status> {
        let (_, snapshotter) = self.open(&request, &request.get_ref().snapshotter)?;
        let usage = snapshotter.usage(&request.get_ref().key).await.map_err(status)?;
        Ok(Response::new(UsageResponse { size: size(usage.size), inodes: size(usage.inodes) }))
    }

    async fn cleanup(&self, request: Request<CleanupRequest>) -> Result<Response<()>, Status> {
        let (_, snapshotter) = self.open(&request, &request.get_ref().snapshotter)?;
        snapshotter.cleanup().await.map_err(status)?;
        Ok(Response::new(()))
    }
}
