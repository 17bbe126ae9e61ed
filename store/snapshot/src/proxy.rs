//! A snapshotter behind containerd's gRPC service: a proxy plugin, or a daemon seen by a client.

use std::time::SystemTime;

use api_grpc::snapshots::snapshots_client::SnapshotsClient;
use api_grpc::snapshots::{
    self, CleanupRequest, CommitSnapshotRequest, ListSnapshotsRequest, MountsRequest,
    PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest, UpdateSnapshotRequest,
    UsageRequest, ViewSnapshotRequest,
};
use api_grpc::status::from_status;
use api_grpc::{LEASE_HEADER, MAX_MESSAGE_SIZE, NAMESPACE_HEADER};
use async_trait::async_trait;
use base_errors::{Error, Result};
use base_ident::Labels;
use kernel_mount::Mount;
use prost_types::{FieldMask, Timestamp};
use store_metadata::Scope;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::Channel;

use crate::snapshotter::{Info, Kind, Snapshotter, UpdateField, Usage};

/// A snapshotter at the other end of a channel.
#[derive(Clone)]
pub struct ProxySnapshotter {
    client: SnapshotsClient<Channel>,
    snapshotter: String,
    namespace: Option<AsciiMetadataValue>,
    lease: Option<AsciiMetadataValue>,
}

impl ProxySnapshotter {
    /// The snapshotter `name` of the service behind `channel`, in the namespace and under the
    /// lease of `scope`. Without a scope no namespace is sent: for backends, which have none.
    ///
    /// # Errors
    /// InvalidArgument for a lease that no header can carry.
    pub fn new(channel: Channel, name: &str, scope: Option<&Scope>) -> Result<Self> {
        let header = |value: &str| {
            AsciiMetadataValue::try_from(value)
                .map_err(|_| Error::invalid_argument(format!("header value {value:?}")))
        };
        let namespace = scope.map(|scope| header(scope.namespace.as_str())).transpose()?;
        let lease = scope.and_then(|scope| scope.lease.as_deref()).map(header).transpose()?;
        let client = SnapshotsClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_SIZE)
            .max_encoding_message_size(MAX_MESSAGE_SIZE);
        Ok(ProxySnapshotter { client, snapshotter: name.to_owned(), namespace, lease })
    }

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

    fn name(&self) -> String {
        self.snapshotter.clone()
    }
}

/// A time on the wire; one that no clock can show becomes the epoch.
fn time_from(time: Option<Timestamp>) -> SystemTime {
    time.and_then(|time| SystemTime::try_from(time).ok()).unwrap_or(SystemTime::UNIX_EPOCH)
}

fn info_from(info: Option<snapshots::Info>) -> Result<Info> {
    let info = info.ok_or_else(|| Error::internal("snapshots service answered without info"))?;
    let kind = match info.kind() {
        snapshots::Kind::View => Kind::View,
        snapshots::Kind::Active => Kind::Active,
        snapshots::Kind::Committed => Kind::Committed,
        snapshots::Kind::Unknown => {
            return Err(Error::internal(format!("snapshot {:?} is of unknown kind", info.name)));
        }
    };
    Ok(Info {
        kind,
        name: info.name,
        parent: info.parent,
        labels: info.labels,
        created_at: time_from(info.created_at),
        updated_at: time_from(info.updated_at),
    })
}

fn info_to(info: &Info) -> snapshots::Info {
    let kind = match info.kind {
        Kind::View => snapshots::Kind::View,
        Kind::Active => snapshots::Kind::Active,
        Kind::Committed => snapshots::Kind::Committed,
    };
    snapshots::Info {
        name: info.name.clone(),
        parent: info.parent.clone(),
        kind: kind.into(),
        created_at: Some(info.created_at.into()),
        updated_at: Some(info.updated_at.into()),
        labels: info.labels.clone(),
    }
}

fn mounts_from(mounts: Vec<api_shim::types::Mount>) -> Vec<Mount> {
    mounts
        .into_iter()
        .map(|mount| Mount {
            kind: mount.r#type,
            source: mount.source,
            target: mount.target,
            options: mount.options,
        })
        .collect()
}

#[async_trait]
impl Snapshotter for ProxySnapshotter {
    async fn stat(&self, key: &str) -> Result<Info> {
        let request = StatSnapshotRequest { snapshotter: self.name(), key: key.to_owned() };
        let answer = self.client.clone().stat(self.request(request)).await.map_err(from_status)?;
        info_from(answer.into_inner().info)
    }

    async fn update(&self, info: &Info, fields: &[UpdateField]) -> Result<Info> {
        let paths: Vec<String> = fields
            .iter()
            .map(|field| match field {
                UpdateField::Labels => "labels".to_owned(),
                UpdateField::Label(key) => format!("labels.{key}"),
            })
            .collect();
        let request = UpdateSnapshotRequest {
            snapshotter: self.name(),
            info: Some(info_to(info)),
            update_mask: (!paths.is_empty()).then_some(FieldMask { paths }),
        };
        let answer =
            self.client.clone().update(self.request(request)).await.map_err(from_status)?;
        info_from(answer.into_inner().info)
    }

    async fn usage(&self, key: &str) -> Result<Usage> {
        let request = UsageRequest { snapshotter: self.name(), key: key.to_owned() };
        let answer = self.client.clone().usage(self.request(request)).await.map_err(from_status)?;
        let usage = answer.into_inner();
        let number = |number: i64| u64::try_from(number).unwrap_or_default();
        Ok(Usage { inodes: number(usage.inodes), size: number(usage.size) })
    }

    async fn mounts(&self, key: &str) -> Result<Vec<Mount>> {
        let request = MountsRequest { snapshotter: self.name(), key: key.to_owned() };
        let answer =
            self.client.clone().mounts(self.request(request)).await.map_err(from_status)?;
        Ok(mounts_from(answer.into_inner().mounts))
    }

    async fn prepare(&self, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>> {
        let (key, parent) = (key.to_owned(), parent.to_owned());
        let request = PrepareSnapshotRequest { snapshotter: self.name(), key, parent, labels };
        let answer =
            self.client.clone().prepare(self.request(request)).await.map_err(from_status)?;
        Ok(mounts_from(answer.into_inner().mounts))
    }

    async fn view(&self, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>> {
        let (key, parent) = (key.to_owned(), parent.to_owned());
        let request = ViewSnapshotRequest { snapshotter: self.name(), key, parent, labels };
        let answer = self.client.clone().view(self.request(request)).await.map_err(from_status)?;
        Ok(mounts_from(answer.into_inner().mounts))
    }

    async fn commit(&self, name: &str, key: &str, labels: Labels, parent: &str) -> Result<()> {
        let request = CommitSnapshotRequest {
            snapshotter: self.name(),
            name: name.to_owned(),
            key: key.to_owned(),
            labels,
            parent: parent.to_owned(),
        };
        self.client.clone().commit(self.request(request)).await.map_err(from_status)?;
        Ok(())
    }

    async fn remove(&self, key: &str) -> Result<()> {
        let request = RemoveSnapshotRequest { snapshotter: self.name(), key: key.to_owned() };
        self.client.clone().remove(self.request(request)).await.map_err(from_status)?;
        Ok(())
    }

    async fn list(&self, filters: &[String]) -> Result<Vec<Info>> {
        let request = ListSnapshotsRequest { snapshotter: self.name(), filters: filters.to_vec() };
        let mut stream = self
            .client
            .clone()
            .list(self.request(request))
            .await
            .map_err(from_status)?
            .into_inner();
        let mut infos = Vec::new();
        while let Some(part) = stream.message().await.map_err(from_status)? {
            for info in part.info {
                infos.push(info_from(Some(info))?);
            }
        }
        Ok(infos)
    }

    async fn cleanup(&self) -> Result<()> {
        let request = CleanupRequest { snapshotter: self.name() };
        match self.client.clone().cleanup(self.request(request)).await {
            Ok(_) => Ok(()),
            // COMPAT: older snapshotters do not have it, and clean up by themselves.
            Err(status) if status.code() == tonic::Code::Unimplemented => Ok(()),
            Err(status) => Err(from_status(status)),
        }
    }
}
