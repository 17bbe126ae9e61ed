//! The mount manager, and what its mounts live as long as.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use base_errors::{Error, Result};
use base_ident::filter::Filter;
use base_ident::{Labels, Namespace};
use base_plugin::{Graph, Registration, types};
use service_grpc::Stores;
use store_metadata::View;
use store_mount::{LABEL_REFERENCE, MountManager, Owner};
use tokio::sync::Notify;

use super::snapshotters::{EROFS, ErofsTable};
use super::{Surroundings, platform};

/// The type of the mount manager.
pub(super) const MANAGER: &str = "io.containerd.mount-manager.v1";
/// The type of what mounts a kind in its own way.
const HANDLER: &str = "io.containerd.mount-handler.v1";

/// After a change in the records, this long until mounts are looked at: changes come in groups.
const COLLECT_DELAY: Duration = Duration::from_millis(100);

pub(super) fn register(graph: &mut Graph, surroundings: &Rc<Surroundings>) {
    // What it does is the mount manager's own; clients look for its name.
    graph.register(Registration::new(HANDLER, "erofs", &[], |context| {
        context.platforms.push(platform());
        Ok(())
    }));
    let around = Rc::clone(surroundings);
    let requires = &[types::METADATA, HANDLER];
    graph.register(Registration::new(MANAGER, "bolt", requires, move |context| {
        let stores: Arc<Stores> = context.single(types::METADATA)?;
        // Images and folders are made below the daemon's root, and where the snapshotter whose
        // mounts ask for them was put.
        let mut roots = vec![around.config.root.clone()];
        let erofs: ErofsTable = around.tables.peek(EROFS)?;
        if !erofs.root_path.is_empty() {
            roots.push(erofs.root_path.into());
        }
        let manager = MountManager::open(&context.state, &roots)?;
        collect_with(&manager, &stores);
        Ok(manager)
    }));
}

/// Has mounts given up when what they belong to is gone. Ends with the runtime.
fn collect_with(manager: &MountManager, stores: &Stores) {
    let changed = Arc::new(Notify::new());
    let seen = Arc::clone(&changed);
    stores.metadata.on_mutation(move |_| seen.notify_one());
    // Whatever changed before we were there.
    changed.notify_one();
    let (manager, stores) = (manager.clone(), stores.clone());
    tokio::spawn(async move {
        loop {
            changed.notified().await;
            tokio::time::sleep(COLLECT_DELAY).await;
            let alive = |namespace: &str, owner: &Owner| is_alive(&stores, namespace, owner);
            if let Err(error) = manager.collect(alive).await {
                tracing::warn!(%error, "failed to collect mounts");
            }
        }
    });
}

/// Whether the records have what a mount belongs to.
fn is_alive(stores: &Stores, namespace: &str, owner: &Owner) -> Result<bool> {
    let namespace = Namespace::new(namespace)?;
    let found = stores.metadata.view(|tx| {
        match owner {
            Owner::Lease(id) => tx.lease(&namespace, id).map(drop)?,
            Owner::Container(id) => tx.container(&namespace, id).map(drop)?,
            Owner::Image(name) => tx.image(&namespace, name).map(drop)?,
            Owner::Content(digest) => {
                tx.blob(&namespace, &base_ident::Digest::parse(digest)?).map(drop)?;
            }
            Owner::Snapshot { snapshotter, key } => {
                tx.snapshot(&namespace, snapshotter, key).map(drop)?;
            }
            Owner::Referrer(name) => {
                let snapshotters = stores.snapshots.keys().map(String::as_str);
                return has_referrer(tx, &namespace, snapshotters, name);
            }
        }
        Ok(true)
    });
    match found {
        Ok(found) => Ok(found),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether a record of the namespace has a label that names the mount `name`. What nothing keeps
/// is no record for long, so that no reference of its own needs to be followed here.
fn has_referrer<'a>(
    tx: &View<'_>,
    namespace: &Namespace,
    snapshotters: impl Iterator<Item = &'a str>,
    name: &str,
) -> Result<bool> {
    let refers = |labels: &Labels| {
        labels.iter().any(|(label, value)| {
            value == name
                && label
                    .strip_prefix(LABEL_REFERENCE)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '/']))
        })
    };
    let all = Filter::parse_all::<&str>(&[]).map_err(Error::from)?;
    let found = tx.containers(namespace, &all)?.iter().any(|record| refers(&record.labels))
        || tx.images(namespace, &all)?.iter().any(|record| refers(&record.labels))
        || tx.leases(namespace, &all)?.iter().any(|record| refers(&record.labels))
        || tx.sandboxes(namespace, &all)?.iter().any(|record| refers(&record.labels))
        || tx.blobs(namespace, &all)?.iter().any(|record| refers(&record.labels));
    if found {
        return Ok(true);
    }
    for snapshotter in snapshotters {
        if tx.snapshots(namespace, snapshotter)?.iter().any(|record| refers(&record.labels)) {
            return Ok(true);
        }
    }
    Ok(false)
}
