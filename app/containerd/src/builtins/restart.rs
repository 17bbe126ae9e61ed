//! The restart monitor: its plugin, and the records that it asks.

use std::sync::Arc;
use std::time::Duration;

use api_shim::events::ContainerUpdate;
use api_shim::types;
use base_errors::Error;
use base_ident::Namespace;
use base_ident::filter::Filter;
use base_plugin::{InitContext, PluginError, Registration, types as kinds};
use futures_util::future::BoxFuture;
use runtime_event::Exchange;
use runtime_supervisor::restart::{
    POLICIES, RestartContainer, RestartMonitor, RestartRecords, STATUS_LABEL,
};
use runtime_supervisor::{Runtime, Supervisor};
use serde::{Deserialize, Serialize};
use service_grpc::Stores;
use store_metadata::{Container, Scope};
use store_snapshot::Snapshotter as _;

use super::Surroundings;
use crate::config::parse_duration;

pub(super) const RESTART: &str = "io.containerd.monitor.container.v1.restart";

/// The interval where none is set; as containerd.
const INTERVAL: Duration = Duration::from_secs(10);

/// `[plugins."io.containerd.monitor.container.v1.restart"]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct RestartConfig {
    /// How often all containers with the label are looked at. Ends of tasks and changes of labels
    /// are acted on at once, whatever it is.
    pub interval: String,
}

impl Default for RestartConfig {
    fn default() -> Self {
        RestartConfig { interval: "10s".to_owned() }
    }
}

/// The plugin.
pub(super) fn registration(surroundings: &std::rc::Rc<Surroundings>) -> Registration {
    let around = std::rc::Rc::clone(surroundings);
    let requires = &[kinds::EVENT, kinds::METADATA, kinds::RUNTIME];
    Registration::new(kinds::CONTAINER_MONITOR, "restart", requires, move |context| {
        monitor(context, &around)
    })
}

fn monitor(
    context: &mut InitContext<'_>,
    surroundings: &Surroundings,
) -> Result<RestartMonitor, PluginError> {
    let table: RestartConfig = surroundings.tables.take(RESTART)?;
    let interval = parse_duration(&table.interval).ok_or_else(|| {
        Error::invalid_argument(format!("interval: {:?} is no duration", table.interval))
    })?;
    // COMPAT: zero means the usual interval.
    let interval = if interval.is_zero() { INTERVAL } else { interval };
    context.capabilities.extend(POLICIES.map(str::to_owned));
    let stores: Arc<Stores> = context.single(kinds::METADATA)?;
    let exchange: Arc<Exchange> = context.single(kinds::EVENT)?;
    let supervisor: Arc<Supervisor> = context.single(kinds::RUNTIME)?;
    let records = Arc::new(Records((*stores).clone()));
    Ok(RestartMonitor::new((*supervisor).clone(), (*exchange).clone(), records, interval))
}

/// The records of containers, and their snapshots.
struct Records(Stores);

fn restartable(record: Container) -> RestartContainer {
    RestartContainer {
        id: record.id,
        labels: record.labels,
        spec: record.spec,
        runtime: Runtime { name: record.runtime.name, options: record.runtime.options },
        sandbox_id: record.sandbox_id,
        snapshotter: record.snapshotter,
        snapshot_key: record.snapshot_key,
        updated_at: record.updated_at,
    }
}

impl RestartRecords for Records {
    fn labelled(&self) -> Vec<(Namespace, String)> {
        let filter = format!("labels.{STATUS_LABEL:?}");
        let found = Filter::parse_all(&[filter]).map_err(Error::from).and_then(|filter| {
            self.0.metadata.view(|tx| {
                let mut found = Vec::new();
                for namespace in tx.namespaces()? {
                    let Ok(name) = Namespace::new(&namespace.name) else { continue };
                    // A namespace that cannot be read costs itself.
                    let containers = tx.containers(&name, &filter).unwrap_or_default();
                    found.extend(containers.into_iter().map(|one| (name.clone(), one.id)));
                }
                Ok(found)
            })
        });
        found.unwrap_or_else(|error| {
            tracing::error!(%error, "looking for containers to restart");
            Vec::new()
        })
    }

    fn container(&self, namespace: &Namespace, id: &str) -> Option<RestartContainer> {
        self.0.metadata.view(|tx| Ok(tx.container(namespace, id)?)).ok().map(restartable)
    }

    fn rootfs<'a>(
        &'a self,
        namespace: &'a Namespace,
        container: &'a RestartContainer,
    ) -> BoxFuture<'a, base_errors::Result<Vec<types::Mount>>> {
        Box::pin(async move {
            if container.snapshot_key.is_empty() {
                return Ok(Vec::new());
            }
            let scope = Scope::new(namespace.clone());
            let snapshotter = self.0.snapshotter(&scope, &container.snapshotter)?;
            let mounts = snapshotter.mounts(&container.snapshot_key).await?;
            let message = |mount: kernel_mount::Mount| types::Mount {
                r#type: mount.kind,
                source: mount.source,
                target: mount.target,
                options: mount.options,
            };
            Ok(mounts.into_iter().map(message).collect())
        })
    }

    fn set_label<'a>(
        &'a self,
        namespace: &'a Namespace,
        id: &'a str,
        key: &'static str,
        value: String,
    ) -> BoxFuture<'a, base_errors::Result<()>> {
        Box::pin(async move {
            let scope = Scope::new(namespace.clone());
            let id = id.to_owned();
            let updated = self
                .0
                .metadata
                .update(move |tx| {
                    let mut change = tx.view().container(&scope.namespace, &id)?;
                    change.labels.insert(key.to_owned(), value);
                    tx.update_container(&scope, &change, &[format!("labels.{key}")])
                })
                .await?;
            let event = ContainerUpdate {
                id: updated.id,
                image: updated.image,
                labels: updated.labels,
                snapshot_key: updated.snapshot_key,
            };
            self.0.notifier.publish(namespace, "/containers/update", &event);
            Ok(())
        })
    }
}
