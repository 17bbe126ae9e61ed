//! What is built in: the one list of plugins, in containerd's types, ids and configuration.

mod differs;
mod grpc;
mod mounts;
mod proxies;
mod restart;
mod services;
mod snapshotters;
mod stores;
mod transfer;
mod v0;

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use anyhow::Result;
use base_plugin::Graph;
use base_telemetry::metrics::Registry;
use service_grpc::{Deprecations, PluginReport};

use crate::config::{Config, PluginTables};

/// What plugins need of the daemon, beside each other.
pub struct Surroundings {
    /// The configuration.
    pub config: Config,
    /// The plugins' tables.
    pub tables: Rc<PluginTables>,
    /// Where metrics are registered.
    pub metrics: Registry,
    /// What introspection shows once all plugins are there.
    pub report: PluginReport,
    /// What introspection warns of.
    pub deprecations: Deprecations,
    /// Whether records may be missing of what is there: then nothing may be collected.
    pub incomplete: bool,
    /// The API of 0.2, once its plugin is there.
    pub v0: OnceCell<service_v0::Api>,
}

/// Our platform, as plugins show it.
pub fn platform() -> String {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("linux/{architecture}")
}

/// All plugins, in containerd's order.
pub fn graph(surroundings: &Rc<Surroundings>) -> Graph {
    let mut graph = Graph::default();
    stores::register(&mut graph, surroundings);
    snapshotters::register(&mut graph, surroundings);
    mounts::register(&mut graph, surroundings);
    differs::register(&mut graph, surroundings);
    proxies::register(&mut graph, surroundings);
    services::register(&mut graph, surroundings);
    transfer::register(&mut graph, surroundings);
    graph.register(restart::registration(surroundings));
    grpc::register(&mut graph, surroundings);
    graph.register(v0::registration(surroundings));
    graph
}

/// The configurations of the plugins that have one, with their defaults filled in.
const CONFIGURED: [&str; 15] = [
    stores::BOLT,
    stores::OVERLAYFS,
    stores::NATIVE,
    snapshotters::BTRFS,
    snapshotters::BLOCKFILE,
    snapshotters::DEVMAPPER,
    snapshotters::EROFS,
    differs::EROFS,
    stores::SCHEDULER,
    services::DIFF,
    services::TASK,
    transfer::TRANSFER,
    grpc::EVENTS,
    v0::API,
    restart::RESTART,
];

/// The plugins that have a configuration.
pub fn configured() -> BTreeSet<String> {
    CONFIGURED.iter().map(|uri| (*uri).to_owned()).collect()
}

/// The effective tables of all plugins that have a configuration.
pub fn effective_tables(config: &Config) -> Result<BTreeMap<String, toml::Table>> {
    let tables = PluginTables::new(config, crate::config::Provenance::default());
    let failed = |error: base_errors::Error| anyhow::anyhow!("{error}");
    tables.take::<stores::BoltConfig>(stores::BOLT).map_err(failed)?;
    tables.take::<restart::RestartConfig>(restart::RESTART).map_err(failed)?;
    tables.take::<stores::OverlayTable>(stores::OVERLAYFS).map_err(failed)?;
    tables.take::<stores::NativeTable>(stores::NATIVE).map_err(failed)?;
    tables.take::<stores::NativeTable>(snapshotters::BTRFS).map_err(failed)?;
    tables.take::<snapshotters::BlockfileTable>(snapshotters::BLOCKFILE).map_err(failed)?;
    tables.take::<snapshotters::DevmapperTable>(snapshotters::DEVMAPPER).map_err(failed)?;
    tables.take::<snapshotters::ErofsTable>(snapshotters::EROFS).map_err(failed)?;
    tables.take::<differs::ErofsTable>(differs::EROFS).map_err(failed)?;
    tables.take::<crate::collector::SchedulerConfig>(stores::SCHEDULER).map_err(failed)?;
    tables.take::<services::DiffConfig>(services::DIFF).map_err(failed)?;
    tables.take::<services::TaskConfig>(services::TASK).map_err(failed)?;
    tables.take::<transfer::TransferTable>(transfer::TRANSFER).map_err(failed)?;
    tables.take::<grpc::EventsConfig>(grpc::EVENTS).map_err(failed)?;
    tables.take::<v0::V0Config>(v0::API).map_err(failed)?;
    Ok(tables.effective())
}
