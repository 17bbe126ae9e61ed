//! `images mount` and `images unmount`.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use api_grpc::leases::{CreateRequest, DeleteRequest};
use api_grpc::snapshots::{MountsRequest, PrepareSnapshotRequest, ViewSnapshotRequest};
use api_shim::types;
use base_errors::Result;
use client::Client;
use client::image::Platform;
use kernel_mount::UnmountFlags;

use crate::command::{body, plain};
use crate::connection::Connection;
use crate::{Outcome, format, log, say};

/// How long a mount that nobody takes away keeps its snapshot.
const EXPIRY: Duration = Duration::from_secs(24 * 60 * 60);

/// Mounts an image.
#[derive(Debug, clap::Args)]
pub(crate) struct Mount {
    /// Enable write support on the mount
    #[arg(long)]
    rw: bool,
    /// Mount the image for the specified platform
    #[arg(long, value_name = "value")]
    platform: Option<String>,
    /// Snapshotter name. Empty value stands for the default value.
    #[arg(long, value_name = "value", env = "CONTAINERD_SNAPSHOTTER", default_value = "")]
    snapshotter: String,
    /// Image
    reference: Option<String>,
    /// Where to mount it
    target: Option<PathBuf>,
}

/// Unmounts an image.
#[derive(Debug, clap::Args)]
pub(crate) struct Unmount {
    /// Remove the snapshot after a successful unmount
    #[arg(long)]
    rm: bool,
    /// Snapshotter name. Empty value stands for the default value.
    #[arg(long, value_name = "value", env = "CONTAINERD_SNAPSHOTTER", default_value = "")]
    snapshotter: String,
    /// Where it is mounted
    target: Option<PathBuf>,
}

/// The lease that holds the snapshot of a mount.
fn lease_id(target: &str) -> String {
    // COMPAT: containerd's ctr names snapshot and lease by the target; ours by what is valid.
    let name: String = target
        .split(|letter: char| !letter.is_ascii_alphanumeric())
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join("-");
    let start = name.len().saturating_sub(60);
    format!("mount-{}", name[start..].trim_start_matches('-'))
}

impl Mount {
    pub(super) async fn run(self, connection: &Connection) -> Outcome {
        let reference = self
            .reference
            .as_deref()
            .ok_or_else(|| plain("please provide an image reference to mount"))?;
        let target = self
            .target
            .as_deref()
            .ok_or_else(|| plain("please provide a target path to mount to"))?;
        let client = connection.connect().await?;
        let snapshotter = client.snapshotter_or_default(&self.snapshotter).await?;
        let snapshotter = snapshotter.as_str();
        let platform = match &self.platform {
            Some(platform) => Platform::parse(platform)?,
            None => Platform::host(),
        };
        let image = client.image(reference).await?;
        let resolved = client.resolve_image(&image, &platform).await?;
        if !client.is_unpacked(&resolved, snapshotter).await? {
            client
                .unpack(&resolved, snapshotter)
                .await
                .map_err(|error| error.context("error unpacking image"))?;
        }
        let key = target.display().to_string();
        let lease = lease_id(&key);
        hold(&client, &lease, snapshotter, &key).await?;
        let chain = resolved.chain_id();
        say!("{chain}");
        let leased = client.with_lease(&lease)?;
        let mounted = async {
            let mounts = snapshot(&leased, snapshotter, &key, &chain, self.rw).await?;
            let mounts: Vec<_> = mounts.into_iter().map(to_kernel).collect();
            Ok(kernel_mount::mount_all(&mounts, target)?)
        };
        if let Err(error) = mounted.await {
            release(&client, &lease, snapshotter, &key).await;
            return Err(error);
        }
        say!("{}", target.display());
        Ok(0)
    }
}

fn to_kernel(mount: types::Mount) -> kernel_mount::Mount {
    kernel_mount::Mount {
        kind: mount.r#type,
        source: mount.source,
        target: mount.target,
        options: mount.options,
    }
}

async fn hold(client: &Client, lease: &str, snapshotter: &str, key: &str) -> Result<()> {
    let expires = format::rfc3339_seconds(SystemTime::now() + EXPIRY);
    let labels = [
        ("containerd.io/gc.expire".to_owned(), expires),
        (format!("containerd.io/gc.ref.snapshot.{snapshotter}"), key.to_owned()),
    ];
    let request = CreateRequest { id: lease.to_owned(), labels: labels.into() };
    match body(client.leases().create(request).await) {
        Err(error) if !error.is_already_exists() => Err(error),
        _ => Ok(()),
    }
}

async fn snapshot(
    client: &Client,
    snapshotter: &str,
    key: &str,
    parent: &str,
    writable: bool,
) -> Result<Vec<types::Mount>> {
    let (snapshotter, key, parent) = (snapshotter.to_owned(), key.to_owned(), parent.to_owned());
    let labels = std::collections::BTreeMap::new();
    let (name, known) = (snapshotter.clone(), key.clone());
    let made = if writable {
        let request = PrepareSnapshotRequest { snapshotter, key, parent, labels };
        body(client.snapshots().prepare(request).await).map(|answer| answer.mounts)
    } else {
        let request = ViewSnapshotRequest { snapshotter, key, parent, labels };
        body(client.snapshots().view(request).await).map(|answer| answer.mounts)
    };
    match made {
        Err(error) if error.is_already_exists() => {
            let request = MountsRequest { snapshotter: name, key: known };
            Ok(body(client.snapshots().mounts(request).await)?.mounts)
        }
        made => made,
    }
}

/// Gives back what a mount held.
async fn release(client: &Client, lease: &str, snapshotter: &str, key: &str) {
    match client.remove_snapshot(snapshotter, key).await {
        Err(error) if !error.is_not_found() => {
            log::error("Error cleaning up snapshot after mount error", &error);
        }
        _ => {}
    }
    let request = DeleteRequest { id: lease.to_owned(), sync: false };
    let _ = client.leases().delete(request).await;
}

impl Unmount {
    pub(super) async fn run(self, connection: &Connection) -> Outcome {
        let target = self
            .target
            .as_deref()
            .ok_or_else(|| plain("please provide a target path to unmount from"))?;
        kernel_mount::unmount_all(target, UnmountFlags::empty())?;
        if self.rm {
            let client = connection.connect().await?;
            let key = target.display().to_string();
            let snapshotter = client.snapshotter_or_default(&self.snapshotter).await?;
            match client.remove_snapshot(&snapshotter, &key).await {
                Err(error) if !error.is_not_found() => {
                    return Err(error.context("error removing snapshot"));
                }
                _ => {}
            }
            let request = DeleteRequest { id: lease_id(&key), sync: false };
            match body(client.leases().delete(request).await) {
                Err(error) if !error.is_not_found() => {
                    return Err(error.context("error deleting lease"));
                }
                _ => {}
            }
        }
        say!("{}", target.display());
        Ok(0)
    }
}
