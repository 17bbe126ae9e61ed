//! The plugin that moves images: what it unpacks to, and by which differs.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use api_shim::events::{ImageCreate, ImageUpdate};
use base_errors::Error;
use base_ident::Namespace;
use base_plugin::{Graph, InitContext, PluginError, Registration, types};
use image_transfer::{ImageChange, Platform, Transferrer, TransferrerConfig, Unpacker};
use serde::{Deserialize, Serialize};
use service_grpc::Backends;
use store_diff::Differ;
use store_snapshot::CAPABILITY_REBASE;

use super::services::backends;
use super::{Surroundings, platform};

pub(super) const TRANSFER: &str = "io.containerd.transfer.v1.local";

/// The snapshotter for clients that name none.
const DEFAULT_SNAPSHOTTER: &str = "overlayfs";
/// The differ where nothing else is said.
const DEFAULT_DIFFER: &str = "walking";
/// Both the snapshotter of images of layers, and the differ that makes them.
const EROFS: &str = "erofs";

/// `[plugins."io.containerd.transfer.v1.local"]`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TransferTable {
    /// What images are unpacked to. Snapshotters that are not named here are unpacked to as well:
    /// by the walking differ, or by the one of their name for erofs.
    pub unpack_config: Vec<UnpackTable>,
}

/// `[[plugins."io.containerd.transfer.v1.local".unpack_config]]`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct UnpackTable {
    /// The platform of the images; the host's if empty.
    pub platform: String,
    /// The snapshotter, which has to be there.
    pub snapshotter: String,
    /// The differ, which has to be there.
    pub differ: String,
}

pub(super) fn register(graph: &mut Graph, surroundings: &Rc<Surroundings>) {
    let around = Rc::clone(surroundings);
    let requires = &[types::METADATA, types::GC, types::DIFFER];
    graph.register(Registration::new(types::TRANSFER, "local", requires, move |context| {
        let table: TransferTable = around.tables.take(TRANSFER)?;
        transferrer(context, &table)
    }));
}

/// What images are unpacked to: first what the configuration names, in its order; then all other
/// snapshotters, overlayfs before them where it works.
fn unpackers(
    context: &InitContext<'_>,
    backends: &Backends,
    table: &TransferTable,
) -> Result<Vec<Unpacker>, PluginError> {
    let differs: BTreeMap<String, Arc<Arc<dyn Differ>>> = context.all(types::DIFFER)?;
    let differ = |name: &str| differs.get(name).map(|differ| Arc::clone(&**differ));
    let stores = &backends.stores;
    let unpacker = |name: &str, differ: Arc<dyn Differ>, platform: Platform| {
        let snapshots = stores.snapshots.get(name)?.clone();
        let capabilities = stores.capabilities.get(name);
        let can_rebase =
            capabilities.is_some_and(|all| all.iter().any(|one| one == CAPABILITY_REBASE));
        Some(Unpacker { snapshots, differ, platform, can_rebase })
    };
    let mut unpackers = Vec::new();
    for entry in &table.unpack_config {
        let UnpackTable { platform, snapshotter, differ: wanted } = entry;
        let platform = match platform.as_str() {
            "" => Platform::host(),
            text => Platform::parse(text).ok_or_else(|| {
                Error::invalid_argument(format!("unpack_config: invalid platform {text:?}"))
            })?,
        };
        let wanted = if wanted.is_empty() { DEFAULT_DIFFER } else { wanted };
        let differ = differ(wanted).ok_or_else(|| {
            Error::not_found(format!("unpack_config: diff plugin {wanted:?} is not loaded"))
        })?;
        unpackers.push(unpacker(snapshotter, differ, platform).ok_or_else(|| {
            Error::not_found(format!("unpack_config: snapshotter {snapshotter:?} is not loaded"))
        })?);
    }
    let mut others: Vec<&String> = stores
        .snapshots
        .keys()
        .filter(|name| !table.unpack_config.iter().any(|entry| entry.snapshotter == **name))
        .collect();
    others.sort_by_key(|name| *name != DEFAULT_SNAPSHOTTER);
    for name in others {
        let own = if name == EROFS { differ(EROFS) } else { None };
        let differ = own
            .or_else(|| differ(DEFAULT_DIFFER))
            .ok_or_else(|| Error::not_found("no differ is loaded"))?;
        unpackers.extend(unpacker(name, differ, Platform::host()));
    }
    Ok(unpackers)
}

fn transferrer(
    context: &mut InitContext<'_>,
    table: &TransferTable,
) -> Result<Transferrer, PluginError> {
    let backends = backends(context, &[])?;
    context.platforms.push(platform());
    let unpackers = unpackers(context, &backends, table)?;
    let stores = backends.stores;
    let notifier = stores.notifier.clone();
    let listener = move |namespace: &Namespace, change: &ImageChange| {
        let image = change.image();
        let (name, labels) = (image.name.clone(), image.labels.clone());
        match change {
            ImageChange::Created(_) => {
                notifier.publish(namespace, "/images/create", &ImageCreate { name, labels });
            }
            ImageChange::Updated(_) => {
                notifier.publish(namespace, "/images/update", &ImageUpdate { name, labels });
            }
        }
    };
    Ok(Transferrer::new(TransferrerConfig {
        metadata: stores.metadata.clone(),
        content: stores.content.clone(),
        unpackers,
        parallel: std::thread::available_parallelism().map_or(1, |count| count.get()),
        sync_fs: false,
        listener: Some(Arc::new(listener)),
    }))
}
