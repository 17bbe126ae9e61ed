//! Plugins that store: content, snapshotters, metadata, differs, events, garbage collection.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use base_errors::{Class, Error};
use base_plugin::{Graph, InitContext, PluginError, Registration, types};
use runtime_event::Exchange;
use serde::{Deserialize, Serialize};
use service_grpc::{Collector, Notifier, Stores};
use store_content::{LocalStore, NamespacedContent, SharingPolicy, Store};
use store_diff::{Differ, WalkingDiffer};
use store_metadata::Metadata;
use store_snapshot::{
    NamespacedSnapshots, NativeSnapshotter, OverlayConfig, OverlaySnapshotter, Snapshotter,
};

use super::services::{DIFF, DiffConfig};
use super::{Surroundings, platform};
use crate::collector::{Scheduler, SchedulerConfig, Withheld};

pub(super) const BOLT: &str = "io.containerd.metadata.v1.bolt";
pub(super) const OVERLAYFS: &str = "io.containerd.snapshotter.v1.overlayfs";
pub(super) const NATIVE: &str = "io.containerd.snapshotter.v1.native";
pub(super) const SCHEDULER: &str = "io.containerd.gc.v1.scheduler";

/// A snapshotter, and what it can do.
pub(super) struct LoadedSnapshotter {
    pub(super) snapshotter: Arc<dyn Snapshotter>,
    pub(super) capabilities: Vec<String>,
}

/// `[plugins."io.containerd.metadata.v1.bolt"]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct BoltConfig {
    /// `shared` or `isolated`.
    pub content_sharing_policy: String,
    /// Leave out the syncs. Only for machines whose state may be lost.
    pub no_sync: bool,
}

impl Default for BoltConfig {
    fn default() -> Self {
        BoltConfig { content_sharing_policy: "shared".to_owned(), no_sync: false }
    }
}

/// `[plugins."io.containerd.snapshotter.v1.overlayfs"]`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct OverlayTable {
    /// Another folder than the plugin's own.
    pub root_path: String,
    /// Tell clients the upper folder by a label.
    pub upperdir_label: bool,
    /// Remove folders at once, not with the next cleanup.
    pub sync_remove: bool,
    /// Allow copies with changed owners where idmapped mounts are missing.
    pub slow_chown: bool,
    /// More options for overlay mounts.
    pub mount_options: Vec<String>,
}

/// `[plugins."io.containerd.snapshotter.v1.native"]`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NativeTable {
    /// Another folder than the plugin's own.
    pub root_path: String,
}

/// A kernel or file system that lacks what a plugin needs is no fault.
pub(super) fn skip_unsupported(error: Error) -> PluginError {
    if error.class() == Class::NotImplemented {
        PluginError::Skip(error.message().to_owned())
    } else {
        PluginError::Failed(error)
    }
}

/// The folder that a table names, or the plugin's own.
pub(super) fn folder(root_path: &str, own: &std::path::Path) -> PathBuf {
    if root_path.is_empty() { own.to_owned() } else { root_path.into() }
}

pub(super) fn register(graph: &mut Graph, surroundings: &Rc<Surroundings>) {
    graph.register(Registration::new(types::EVENT, "exchange", &[], |_| Ok(Exchange::new())));
    graph.register(Registration::new(types::CONTENT, "content", &[], |context| {
        let store = LocalStore::open(&context.root)?;
        context.platforms.push(platform());
        context.exports.insert("root".to_owned(), context.root.display().to_string());
        Ok(Arc::new(store) as Arc<dyn Store>)
    }));
    snapshotters(graph, surroundings);
    let around = Rc::clone(surroundings);
    graph.register(Registration::new(
        types::METADATA,
        "bolt",
        &[types::CONTENT, types::EVENT, types::SNAPSHOTTER],
        move |context| {
            let table: BoltConfig = around.tables.take(BOLT)?;
            let policy = match table.content_sharing_policy.as_str() {
                "" | "shared" => SharingPolicy::Shared,
                "isolated" => SharingPolicy::Isolated,
                other => {
                    return Err(Error::invalid_argument(format!(
                        "unknown policy: {other}: content_sharing_policy is shared or isolated"
                    ))
                    .into());
                }
            };
            std::fs::create_dir_all(&context.root)
                .map_err(|error| Error::from(error).context(context.root.display()))?;
            let path = context.root.join("meta.db");
            let timeout = around.config.timeout("io.containerd.timeout.bolt.open");
            let metadata = Metadata::open(
                &path,
                store_metadata::Options {
                    no_sync: table.no_sync,
                    lock_timeout: (!timeout.is_zero()).then_some(timeout),
                },
            )?;
            context.exports.insert("path".to_owned(), path.display().to_string());
            context.exports.insert(
                "policy".to_owned(),
                if policy == SharingPolicy::Shared { "shared" } else { "isolated" }.to_owned(),
            );
            let backend = content_store(context)?;
            let loaded: BTreeMap<String, Arc<LoadedSnapshotter>> =
                context.all(types::SNAPSHOTTER)?;
            let mut snapshots = BTreeMap::new();
            let mut capabilities = BTreeMap::new();
            for (name, loaded) in loaded {
                let backend = Arc::clone(&loaded.snapshotter);
                let all = NamespacedSnapshots::new(metadata.clone(), &name, backend);
                snapshots.insert(name.clone(), all);
                capabilities.insert(name, loaded.capabilities.clone());
            }
            let exchange: Arc<Exchange> = context.single(types::EVENT)?;
            Ok(Stores {
                content: NamespacedContent::new(metadata.clone(), backend, policy),
                metadata,
                snapshots: Arc::new(snapshots),
                capabilities: Arc::new(capabilities),
                notifier: Notifier::new((*exchange).clone()),
            })
        },
    ));
    let temporary = surroundings.config.root.join("tmpmounts");
    let around = Rc::clone(surroundings);
    let requires = &[types::METADATA];
    graph.register(Registration::new(types::DIFFER, "walking", requires, move |context| {
        context.platforms.push(platform());
        let table: DiffConfig = around.tables.peek(DIFF)?;
        let differ = WalkingDiffer::new(Some(temporary))
            .durable(table.sync_fs)
            .with_processors(super::differs::processors(&around.config));
        Ok(Arc::new(differ) as Arc<dyn Differ>)
    }));
    let around = Rc::clone(surroundings);
    graph.register(Registration::new(types::GC, "scheduler", &[types::METADATA], move |context| {
        let table: SchedulerConfig = around.tables.take(SCHEDULER)?;
        if around.incomplete {
            return Ok(Arc::new(Withheld) as Arc<dyn Collector>);
        }
        let stores: Arc<Stores> = context.single(types::METADATA)?;
        Ok(Arc::new(Scheduler::start(&table, (*stores).clone(), &around.metrics)?)
            as Arc<dyn Collector>)
    }));
}

/// The content store: the built-in one, or that of a proxy plugin where the built-in is disabled.
fn content_store(context: &InitContext<'_>) -> Result<Arc<dyn Store>, Error> {
    let loaded: BTreeMap<String, Arc<Arc<dyn Store>>> = context.all(types::CONTENT)?;
    if loaded.len() > 1 {
        // Records of either would be wrong for the other, so it is not guessed.
        let names: Vec<String> = loaded.into_keys().collect();
        return Err(Error::failed_precondition(format!(
            "multiple plugins registered for {}: {}; disable all but one by disabled_plugins",
            types::CONTENT,
            names.join(", ")
        )));
    }
    let store: Arc<Arc<dyn Store>> = context.single(types::CONTENT)?;
    Ok(Arc::clone(&*store))
}

fn snapshotters(graph: &mut Graph, surroundings: &Rc<Surroundings>) {
    let around = Rc::clone(surroundings);
    graph.register(Registration::new(types::SNAPSHOTTER, "native", &[], move |context| {
        let table: NativeTable = around.tables.take(NATIVE)?;
        context.platforms.push(platform());
        let root = folder(&table.root_path, &context.root);
        context.exports.insert("root".to_owned(), root.display().to_string());
        let snapshotter = Arc::new(NativeSnapshotter::open(root)?);
        Ok(LoadedSnapshotter { snapshotter, capabilities: Vec::new() })
    }));
    let around = Rc::clone(surroundings);
    graph.register(Registration::new(types::SNAPSHOTTER, "overlayfs", &[], move |context| {
        let table: OverlayTable = around.tables.take(OVERLAYFS)?;
        context.platforms.push(platform());
        let root = folder(&table.root_path, &context.root);
        context.exports.insert("root".to_owned(), root.display().to_string());
        let config = OverlayConfig {
            upperdir_label: table.upperdir_label,
            sync_remove: table.sync_remove,
            slow_chown: table.slow_chown,
            mount_options: table.mount_options,
            root_path: root,
        };
        let snapshotter = OverlaySnapshotter::open(config).map_err(skip_unsupported)?;
        let capabilities: Vec<String> =
            snapshotter.capabilities().into_iter().map(str::to_owned).collect();
        context.capabilities.clone_from(&capabilities);
        Ok(LoadedSnapshotter { snapshotter: Arc::new(snapshotter), capabilities })
    }));
}
