//! Layers to snapshots, by the snapshot and diff services.

use std::collections::BTreeMap;
use std::time::SystemTime;

use api_grpc::content::{Info, UpdateRequest};
use api_grpc::diff::ApplyRequest;
use api_grpc::snapshots::{CommitSnapshotRequest, PrepareSnapshotRequest, StatSnapshotRequest};
use base_errors::{Error, Result};
use prost_types::FieldMask;

use super::unique_id;
use crate::image::{Resolved, chain_id};
use crate::{Client, body};

impl Client {
    /// True if the image's snapshot is there.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn is_unpacked(&self, image: &Resolved, snapshotter: &str) -> Result<bool> {
        self.snapshot_exists(snapshotter, &image.chain_id()).await
    }

    pub(super) async fn snapshot_exists(&self, snapshotter: &str, key: &str) -> Result<bool> {
        let request =
            StatSnapshotRequest { snapshotter: snapshotter.to_owned(), key: key.to_owned() };
        match body(self.snapshots().stat(request).await) {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes the snapshots of an image's layers that are not there yet, each on the one below.
    ///
    /// # Errors
    /// NotFound if a layer's content is missing, InvalidArgument if it is not what the
    /// configuration says; snapshots of the layers before it stay.
    pub async fn unpack(&self, image: &Resolved, snapshotter: &str) -> Result<()> {
        let diff_ids = &image.config.rootfs.diff_ids;
        let layers = &image.manifest.layers;
        if diff_ids.len() != layers.len() {
            return Err(Error::invalid_argument(format!(
                "mismatched image rootfs and manifest layers: {} and {}",
                diff_ids.len(),
                layers.len()
            )));
        }
        let lease = self.lease().await?;
        let done = async {
            let leased = lease.client()?;
            for (count, layer) in layers.iter().enumerate() {
                let chain = chain_id(&diff_ids[..=count]);
                if leased.snapshot_exists(snapshotter, &chain).await? {
                    continue;
                }
                let parent = chain_id(&diff_ids[..count]);
                leased.apply_layer(snapshotter, layer, &diff_ids[count], &chain, &parent).await?;
            }
            leased.refer_to_snapshot(image, snapshotter).await
        };
        let done = done.await;
        lease.release().await;
        done
    }

    async fn apply_layer(
        &self,
        snapshotter: &str,
        layer: &crate::image::Descriptor,
        diff_id: &str,
        chain: &str,
        parent: &str,
    ) -> Result<()> {
        let key = format!("extract-{} {chain}", unique_id(SystemTime::now()));
        let request = PrepareSnapshotRequest {
            snapshotter: snapshotter.to_owned(),
            key: key.clone(),
            parent: parent.to_owned(),
            labels: [("containerd.io/snapshot.ref".to_owned(), chain.to_owned())].into(),
        };
        let mounts = match body(self.snapshots().prepare(request).await) {
            Ok(answer) => answer.mounts,
            // A snapshotter that has the layer by itself says so.
            Err(error) if error.is_already_exists() => return Ok(()),
            Err(error) => return Err(error),
        };
        let applied = async {
            let request = ApplyRequest {
                diff: Some(layer.clone().into()),
                mounts,
                ..ApplyRequest::default()
            };
            let applied = body(self.diff().apply(request).await)?.applied.unwrap_or_default();
            if applied.digest != diff_id {
                return Err(Error::invalid_argument(format!(
                    "wrong diff id calculated on extraction {:?}",
                    applied.digest
                )));
            }
            let request = CommitSnapshotRequest {
                snapshotter: snapshotter.to_owned(),
                name: chain.to_owned(),
                key: key.clone(),
                ..CommitSnapshotRequest::default()
            };
            match body(self.snapshots().commit(request).await) {
                Err(error) if !error.is_already_exists() => Err(error),
                _ => Ok(()),
            }
        };
        let applied = applied.await;
        if applied.is_err() || self.snapshot_exists(snapshotter, &key).await? {
            // Best effort: the lease lets it go in the end.
            let _ = self.remove_snapshot(snapshotter, &key).await;
        }
        applied?;
        self.label_content(&layer.digest, "containerd.io/uncompressed", diff_id).await
    }

    /// The configuration keeps the snapshot, as the manifest keeps the configuration.
    async fn refer_to_snapshot(&self, image: &Resolved, snapshotter: &str) -> Result<()> {
        let key = format!("containerd.io/gc.ref.snapshot.{snapshotter}");
        self.label_content(&image.manifest.config.digest, &key, &image.chain_id()).await
    }

    /// Sets one label of a blob.
    ///
    /// # Errors
    /// NotFound.
    pub async fn label_content(&self, digest: &str, key: &str, value: &str) -> Result<()> {
        let labels: BTreeMap<String, String> = [(key.to_owned(), value.to_owned())].into();
        let request = UpdateRequest {
            info: Some(Info { digest: digest.to_owned(), labels, ..Info::default() }),
            update_mask: Some(FieldMask { paths: vec![format!("labels.{key}")] }),
        };
        body(self.contents().update(request).await).map(drop)
    }
}
