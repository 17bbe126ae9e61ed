//! Checkpoints: a container, or its task, as an index of blobs under an image's name; and back.

use std::collections::BTreeMap;
use std::time::SystemTime;

use api_grpc::containers::{Container, container};
use api_grpc::diff::{ApplyRequest, DiffRequest};
use api_grpc::images::{CreateImageRequest, Image};
use api_grpc::snapshots::{Kind, StatSnapshotRequest, ViewSnapshotRequest};
use api_grpc::tasks::CheckpointTaskRequest;
use api_shim::process::Status;
use api_shim::types::{self, Mount};
use api_shim::{Any, runc, typeurl};
use base_errors::{Error, Result};
use prost::Message as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::unique_id;
use crate::image::{Descriptor, Platform};
use crate::{Client, body, missing};

/// The tar with CRIU's files.
const IMAGE: &str = "application/vnd.containerd.container.criu.checkpoint.criu.tar";
/// The container's spec, an `Any`.
const CONFIG: &str = "application/vnd.containerd.container.checkpoint.config.v1+proto";
/// The options with which a task was written, an `Any`.
const OPTIONS: &str = "application/vnd.containerd.container.checkpoint.options.v1+proto";
/// The options of the container's runtime, an `Any`.
const RUNTIME_OPTIONS: &str =
    "application/vnd.containerd.container.checkpoint.runtime.options+proto";
/// The index itself.
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// What the container has changed in its root file system.
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// The annotation with the container's image.
const IMAGE_NAME: &str = "org.opencontainers.image.ref.name";
/// The annotation with the runtime's name.
const RUNTIME: &str = "io.containerd.checkpoint.runtime";
/// The annotation with the snapshotter's name.
const SNAPSHOTTER: &str = "io.containerd.checkpoint.snapshotter";
/// The label of images that are checkpoints of tasks.
const LABEL: &str = "containerd.io/checkpoint";

/// What is in a checkpoint.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Checkpoint {
    schema_version: u32,
    #[serde(default)]
    manifests: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

/// What of a container goes into a checkpoint, beside its runtime.
#[derive(Clone, Copy, Debug, Default)]
pub struct Parts {
    /// The image.
    pub image: bool,
    /// The changes of its root file system.
    pub rw: bool,
    /// The memory of its processes.
    pub task: bool,
}

impl Checkpoint {
    fn new() -> Checkpoint {
        Checkpoint { schema_version: 2, manifests: Vec::new(), annotations: BTreeMap::new() }
    }

    /// The descriptor of the task's memory, to create a task from.
    ///
    /// # Errors
    /// If there is none in it.
    pub fn task(&self) -> Result<types::Descriptor> {
        // COMPAT: the error has no class.
        let missing = || Error::unknown("checkpoint not found in index");
        self.find(IMAGE).cloned().map(Into::into).ok_or_else(missing)
    }

    fn find(&self, media_type: &str) -> Option<&Descriptor> {
        self.manifests.iter().find(|descriptor| descriptor.media_type == media_type)
    }

    fn annotation(&self, name: &str, what: &str) -> Result<&str> {
        let value = self.annotations.get(name).filter(|value| !value.is_empty());
        value
            .map(String::as_str)
            .ok_or_else(|| Error::unknown(format!("{what} not found in index")))
    }
}

impl Client {
    /// Writes a checkpoint of a task as the image `name`. With an image path in the options the
    /// files are left there, and no image is made.
    ///
    /// The task stands still meanwhile, and goes on afterwards unless it stood before.
    ///
    /// # Errors
    /// NotFound, AlreadyExists for the name, those of the runtime.
    pub async fn checkpoint_task(
        &self,
        id: &str,
        name: &str,
        options: &runc::CheckpointOptions,
    ) -> Result<()> {
        let lease = self.lease().await?;
        let written = async {
            let leased = lease.client()?;
            let record = leased.container(id).await?;
            let paused = leased.process_state(id, "").await?.status() == Status::Paused;
            if !paused {
                leased.pause(id).await?;
            }
            let written = leased.write_task(&record, name, options).await;
            if !paused {
                // One that was to end has ended.
                let _ = leased.resume(id).await;
            }
            written
        };
        let written = written.await;
        lease.release().await;
        written
    }

    async fn write_task(
        &self,
        record: &Container,
        name: &str,
        options: &runc::CheckpointOptions,
    ) -> Result<()> {
        let mut index = Checkpoint::new();
        index.manifests = self.task_blobs(&record.id, options).await?;
        if !options.image_path.is_empty() {
            return Ok(());
        }
        if !record.image.is_empty() {
            index.manifests.push(self.image_target(&record.image).await?);
            index.annotations.insert("image.name".to_owned(), record.image.clone());
        }
        if !record.snapshot_key.is_empty() {
            index.manifests.push(self.changes(record).await?);
        }
        let labels = BTreeMap::from([(LABEL.to_owned(), "true".to_owned())]);
        self.write_index(&index, name, labels).await
    }

    /// Writes a checkpoint of a container as the image `name`. Its task, if there is one, is not
    /// touched: callers pause it.
    ///
    /// # Errors
    /// NotFound, AlreadyExists for the name, those of the runtime.
    pub async fn checkpoint_container(
        &self,
        record: &Container,
        name: &str,
        parts: Parts,
    ) -> Result<()> {
        let lease = self.lease().await?;
        let written = async {
            let leased = lease.client()?;
            // COMPAT: a container without an image has no checkpoint.
            leased.image(&record.image).await?;
            let runtime = record.runtime.clone().unwrap_or_default();
            let mut index = Checkpoint::new();
            for (key, value) in [
                (IMAGE_NAME, &record.image),
                (RUNTIME, &runtime.name),
                (SNAPSHOTTER, &record.snapshotter),
            ] {
                index.annotations.insert(key.to_owned(), value.clone());
            }
            if let Some(options) = runtime.options.filter(|options| !options.value.is_empty()) {
                index.manifests.push(leased.write_any(RUNTIME_OPTIONS, &options).await?);
            }
            if parts.image {
                index.manifests.push(leased.image_target(&record.image).await?);
            }
            if parts.rw {
                index.manifests.push(leased.changes(record).await?);
            }
            if parts.task {
                let options = runc::CheckpointOptions {
                    file_locks: true,
                    ..runc::CheckpointOptions::default()
                };
                index.manifests.extend(leased.task_blobs(&record.id, &options).await?);
                let options = typeurl::encode(&options);
                index.manifests.push(leased.write_any(OPTIONS, &options).await?);
            }
            leased.write_index(&index, name, BTreeMap::new()).await
        };
        let written = written.await;
        lease.release().await;
        written
    }

    /// What is in the checkpoint `image`.
    ///
    /// # Errors
    /// NotFound, and InvalidArgument for what is no index.
    pub async fn checkpoint(&self, image: &Image) -> Result<Checkpoint> {
        let target = image.target.as_ref().ok_or_else(|| missing("target"))?;
        let json = self.read_blob(&target.digest).await?;
        serde_json::from_slice(&json).map_err(|error| {
            Error::invalid_argument(format!("checkpoint {}: {error}", target.digest))
        })
    }

    /// Makes the container `id` of a checkpoint, with the changes of its root file system if `rw`.
    ///
    /// # Errors
    /// What the checkpoint lacks; NotFound for its image; AlreadyExists. Then nothing is left.
    pub async fn restore_container(
        &self,
        id: &str,
        checkpoint: &Checkpoint,
        rw: bool,
    ) -> Result<Container> {
        let image = checkpoint.annotation(IMAGE_NAME, "image name")?;
        let snapshotter = checkpoint.annotation(SNAPSHOTTER, "snapshotter name")?;
        let lease = self.lease().await?;
        let restored = async {
            let leased = lease.client()?;
            let resolved =
                leased.resolve_image(&leased.image(image).await?, &Platform::host()).await?;
            let mounts =
                leased.prepare_rootfs(snapshotter, id, &resolved, BTreeMap::new(), None).await?;
            let record = Container {
                id: id.to_owned(),
                image: image.to_owned(),
                snapshot_key: id.to_owned(),
                snapshotter: snapshotter.to_owned(),
                ..Container::default()
            };
            let created = leased.restored(record, checkpoint, rw.then_some(mounts)).await;
            if created.is_err() {
                // Best effort: the error that counts is the first one.
                let _ = leased.remove_snapshot(snapshotter, id).await;
            }
            created
        };
        let restored = restored.await;
        lease.release().await;
        restored
    }

    async fn restored(
        &self,
        mut record: Container,
        checkpoint: &Checkpoint,
        rootfs: Option<Vec<Mount>>,
    ) -> Result<Container> {
        // COMPAT: the error has no class.
        let need = |media_type| {
            checkpoint.find(media_type).ok_or_else(|| Error::unknown("media type not found"))
        };
        record.spec = Some(self.read_any(need(CONFIG)?, "config").await?);
        let options = match checkpoint.find(RUNTIME_OPTIONS) {
            Some(options) => Some(self.read_any(options, "runtime").await?),
            None => None,
        };
        let name = checkpoint.annotation(RUNTIME, "runtime name")?.to_owned();
        record.runtime = Some(container::Runtime { name, options });
        if let Some(mounts) = rootfs {
            let diff = Some(need(LAYER)?.clone().into());
            let request = ApplyRequest { diff, mounts, ..ApplyRequest::default() };
            body(self.diff().apply(request).await)?;
        }
        self.create_record(record).await
    }

    /// Asks for a checkpoint of a task; gives the blobs that the daemon made of it.
    async fn task_blobs(
        &self,
        id: &str,
        options: &runc::CheckpointOptions,
    ) -> Result<Vec<Descriptor>> {
        let request = CheckpointTaskRequest {
            container_id: id.to_owned(),
            options: Some(typeurl::encode(options)),
            ..CheckpointTaskRequest::default()
        };
        let answer = body(self.tasks().checkpoint(request).await)?;
        Ok(answer.descriptors.into_iter().map(for_this_machine).collect())
    }

    async fn image_target(&self, name: &str) -> Result<Descriptor> {
        Ok(self.image(name).await?.target.ok_or_else(|| missing("target"))?.into())
    }

    /// What a container has changed in its root file system, as a layer.
    async fn changes(&self, record: &Container) -> Result<Descriptor> {
        let (snapshotter, key) = (record.snapshotter.clone(), record.snapshot_key.clone());
        let stat = StatSnapshotRequest { snapshotter: snapshotter.clone(), key: key.clone() };
        let info = body(self.snapshots().stat(stat).await)?.info.ok_or_else(|| missing("info"))?;
        if info.kind() != Kind::Active {
            return Err(Error::failed_precondition(format!("snapshot {key} is not active")));
        }
        let view = format!("{}-parent-view-{}", info.parent, unique_id(SystemTime::now()));
        let request = ViewSnapshotRequest {
            snapshotter: snapshotter.clone(),
            key: view.clone(),
            parent: info.parent,
            ..ViewSnapshotRequest::default()
        };
        let left = body(self.snapshots().view(request).await)?.mounts;
        let made = async {
            let right = self.rootfs_mounts(record).await?;
            let reference = format!("checkpoint-rw-{key}-{}", unique_id(SystemTime::now()));
            let request = DiffRequest { left, right, r#ref: reference, ..DiffRequest::default() };
            body(self.diff().diff(request).await)?.diff.ok_or_else(|| missing("diff"))
        };
        let made = made.await;
        let removed = self.remove_snapshot(&snapshotter, &view).await;
        let made = made?;
        removed?;
        Ok(for_this_machine(made))
    }

    async fn write_any(&self, media_type: &str, any: &Any) -> Result<Descriptor> {
        let blob = self.write_document(media_type, &any.encode_to_vec(), BTreeMap::new()).await?;
        Ok(for_this_machine(blob))
    }

    async fn read_any(&self, descriptor: &Descriptor, what: &str) -> Result<Any> {
        let blob = self.read_blob(&descriptor.digest).await;
        let blob =
            blob.map_err(|error| error.context(format!("unable to read checkpoint {what}")))?;
        Any::decode(blob)
            .map_err(|error| Error::invalid_argument(format!("checkpoint {what}: {error}")))
    }

    /// Writes the index and gives it its name.
    async fn write_index(
        &self,
        index: &Checkpoint,
        name: &str,
        labels: BTreeMap<String, String>,
    ) -> Result<()> {
        let references = index.manifests.iter().enumerate().map(|(number, blob)| {
            (format!("containerd.io/gc.ref.content.{number}"), blob.digest.clone())
        });
        let mut json = serde_json::to_vec(index)
            .map_err(|error| Error::internal(format!("encode an index: {error}")))?;
        json.push(b'\n');
        let target = self.write_document(INDEX, &json, references.collect()).await?;
        let image =
            Image { name: name.to_owned(), target: Some(target), labels, ..Image::default() };
        let request = CreateImageRequest { image: Some(image), ..CreateImageRequest::default() };
        body(self.images().create(request).await).map(drop)
    }

    /// A small blob, which may be there already.
    async fn write_document(
        &self,
        media_type: &str,
        data: &[u8],
        labels: BTreeMap<String, String>,
    ) -> Result<types::Descriptor> {
        let mut digest = "sha256:".to_owned();
        for byte in Sha256::digest(data) {
            digest.push_str(&format!("{byte:02x}"));
        }
        let size = i64::try_from(data.len()).unwrap_or(i64::MAX);
        let reference = format!("checkpoint-{}", unique_id(SystemTime::now()));
        match self.ingest(&reference, data, size, &digest, labels).await {
            Err(error) if !error.is_already_exists() => return Err(error),
            _ => {}
        }
        let media_type = media_type.to_owned();
        Ok(types::Descriptor { media_type, digest, size, ..types::Descriptor::default() })
    }
}

/// Processes are of the machine that they were written on.
fn for_this_machine(blob: types::Descriptor) -> Descriptor {
    Descriptor { platform: Some(Platform::host()), ..blob.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_reads_as_it_was_written() {
        let mut index = Checkpoint::new();
        assert!(index.task().is_err());
        index.manifests.push(for_this_machine(types::Descriptor {
            media_type: IMAGE.to_owned(),
            digest: "sha256:1".to_owned(),
            size: 5,
            ..types::Descriptor::default()
        }));
        index.annotations.insert(RUNTIME.to_owned(), "r".to_owned());
        let json = serde_json::to_string(&index).unwrap();
        assert!(json.starts_with(r#"{"schemaVersion":2,"manifests":[{"mediaType":"#), "{json}");
        let read: Checkpoint = serde_json::from_str(&json).unwrap();
        assert_eq!(read.task().unwrap().size, 5);
        assert_eq!(read.annotation(RUNTIME, "runtime name").unwrap(), "r");
        let error = read.annotation(SNAPSHOTTER, "snapshotter name").unwrap_err();
        assert!(error.to_string().starts_with("snapshotter name not found in index"), "{error}");
    }
}
