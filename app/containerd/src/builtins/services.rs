//! Plugins inside of the daemon: what the gRPC services are made from, and the runtime.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use base_errors::Error;
use base_ident::Namespace;
use base_plugin::{Graph, InitContext, PluginError, Registration, types};
use futures_util::future::BoxFuture;
use runtime_event::Exchange;
use runtime_supervisor::{Config as SupervisorConfig, Containers, Runtime, Supervisor, Timeouts};
use serde::{Deserialize, Serialize};
use service_grpc::{Backends, Collector, Stores, Streams};
use store_diff::Differ;
use store_metadata::Metadata;

use super::{Surroundings, platform};

pub(super) const DIFF: &str = "io.containerd.service.v1.diff-service";
pub(super) const TASK: &str = "io.containerd.runtime.v2.task";

/// `[plugins."io.containerd.service.v1.diff-service"]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct DiffConfig {
    /// The differs that are tried, in this order.
    pub default: Vec<String>,
    /// Flush the file system after each layer, whatever the client says. The snapshotters of the
    /// daemon flush what they commit; without this option a loss of power may leave those of a proxy
    /// layers with empty files.
    pub sync_fs: bool,
}

impl Default for DiffConfig {
    fn default() -> Self {
        DiffConfig { default: vec!["walking".to_owned()], sync_fs: true }
    }
}

/// `[plugins."io.containerd.runtime.v2.task"]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct TaskConfig {
    /// Platforms of the runtime.
    pub platforms: Vec<String>,
    /// How many tasks are created at once; the others wait in their order.
    pub max_concurrent_starts: usize,
}

impl Default for TaskConfig {
    fn default() -> Self {
        TaskConfig { platforms: vec![platform()], max_concurrent_starts: 10 }
    }
}

/// What the supervisor asks about containers.
struct Records(Metadata);

impl Containers for Records {
    fn runtime<'a>(
        &'a self,
        namespace: &'a Namespace,
        id: &'a str,
    ) -> BoxFuture<'a, Option<Runtime>> {
        let record = self.0.view(|tx| Ok(tx.container(namespace, id)?)).ok();
        Box::pin(std::future::ready(
            record.map(|record| Runtime {
                name: record.runtime.name,
                options: record.runtime.options,
            }),
        ))
    }
}

/// Everything that stores, as the services of stores want it.
pub(super) fn backends(
    context: &InitContext<'_>,
    order: &[String],
) -> Result<Backends, PluginError> {
    let stores: Arc<Stores> = context.single(types::METADATA)?;
    let collector: Arc<Arc<dyn Collector>> = context.single(types::GC)?;
    let loaded: BTreeMap<String, Arc<Arc<dyn Differ>>> = context.all(types::DIFFER)?;
    let differs = order
        .iter()
        .map(|name| match loaded.get(name) {
            Some(differ) => Ok(Arc::clone(&**differ)),
            None => Err(Error::not_found(format!("needed differ not loaded: {name}"))),
        })
        .collect::<Result<Vec<_>, Error>>()?;
    Ok(Backends { stores: (*stores).clone(), differs, collector: Arc::clone(&*collector) })
}

pub(super) fn register(graph: &mut Graph, surroundings: &Rc<Surroundings>) {
    let stores: &[&'static str] = &[types::METADATA, types::GC, types::DIFFER];
    graph.register(Registration::new(types::LEASE, "manager", stores, |context| {
        backends(context, &[])
    }));
    for service in ["containers", "content", "images", "namespaces", "snapshots"] {
        let id = format!("{service}-service");
        graph.register(Registration::new(types::SERVICE, id, stores, |context| {
            backends(context, &[])
        }));
    }
    let around = Rc::clone(surroundings);
    graph.register(Registration::new(types::SERVICE, "diff-service", stores, move |context| {
        let table: DiffConfig = around.tables.take(DIFF)?;
        backends(context, &table.default)
    }));
    graph.register(Registration::new(types::SERVICE, "introspection-service", &[], |_| Ok(())));
    graph.register(Registration::new(types::SANDBOX_STORE, "local", stores, |context| {
        backends(context, &[])
    }));
    graph.register(Registration::new(types::STREAMING, "manager", &[types::METADATA], |_| {
        Ok(Streams::default())
    }));
    let around = Rc::clone(surroundings);
    graph.register(Registration::new(
        types::RUNTIME,
        "task",
        &[types::EVENT, types::METADATA],
        move |context| runtime(context, &around),
    ));
    graph.register(Registration::new(
        types::SERVICE,
        "tasks-service",
        &[types::METADATA, types::GC, types::DIFFER, types::RUNTIME],
        |context| {
            let backends = backends(context, &["walking".to_owned()])?;
            let supervisor: Arc<Supervisor> = context.single(types::RUNTIME)?;
            Ok((backends, (*supervisor).clone()))
        },
    ));
}

fn runtime(
    context: &mut InitContext<'_>,
    surroundings: &Surroundings,
) -> Result<Supervisor, PluginError> {
    let table: TaskConfig = surroundings.tables.take(TASK)?;
    let config = &surroundings.config;
    let stores: Arc<Stores> = context.single(types::METADATA)?;
    let exchange: Arc<Exchange> = context.single(types::EVENT)?;
    context.platforms.extend(table.platforms);
    let timeout = |key: &str| config.timeout(&format!("io.containerd.timeout.{key}"));
    let settings = SupervisorConfig {
        containerd_version: crate::cli::VERSION.to_owned(),
        debug: matches!(config.debug.level.as_str(), "debug" | "trace"),
        max_concurrent_starts: table.max_concurrent_starts.max(1),
        timeouts: Timeouts {
            shim_load: timeout("shim.load"),
            shim_cleanup: timeout("shim.cleanup"),
            shim_shutdown: timeout("shim.shutdown"),
            task_state: timeout("task.state"),
            shim_stats: timeout("metrics.shimstats"),
            ..Timeouts::default()
        },
        ..SupervisorConfig::new(
            &config.root,
            &config.state,
            &config.grpc.address,
            config.ttrpc_address(),
        )
    };
    let containers = Arc::new(Records(stores.metadata.clone()));
    Ok(Supervisor::new(settings, (*exchange).clone(), containers)?)
}
