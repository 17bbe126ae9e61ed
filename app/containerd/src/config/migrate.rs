//! What older (and newer) versions of the configuration call by other names.

use anyhow::{Result, bail};

/// Bare plugin ids of version 1, and what they are called since.
const BARE_IDS: &[(&str, &str)] = &[
    ("cri", "io.containerd.grpc.v1.cri"),
    ("cgroups", "io.containerd.monitor.v1.cgroups"),
    ("linux", "io.containerd.runtime.v1.linux"),
    ("scheduler", "io.containerd.gc.v1.scheduler"),
    ("bolt", "io.containerd.metadata.v1.bolt"),
    ("task", "io.containerd.runtime.v2.task"),
    ("opt", "io.containerd.internal.v1.opt"),
    ("restart", "io.containerd.internal.v1.restart"),
    ("tracing", "io.containerd.internal.v1.tracing"),
    ("otlp", "io.containerd.tracing.processor.v1.otlp"),
    ("aufs", "io.containerd.snapshotter.v1.aufs"),
    ("btrfs", "io.containerd.snapshotter.v1.btrfs"),
    ("devmapper", "io.containerd.snapshotter.v1.devmapper"),
    ("native", "io.containerd.snapshotter.v1.native"),
    ("overlayfs", "io.containerd.snapshotter.v1.overlayfs"),
    ("zfs", "io.containerd.snapshotter.v1.zfs"),
];

/// Renamed plugins since version 2.
const RENAMED: &[(&str, &str)] = &[
    ("io.containerd.monitor.v1.cgroups", "io.containerd.monitor.task.v1.cgroups"),
    ("io.containerd.internal.v1.restart", "io.containerd.monitor.container.v1.restart"),
];

/// Where version 4 keeps what is at the top until version 3: plugin, table.
const SERVERS: &[(&str, &str)] = &[
    ("io.containerd.server.v1.grpc", "grpc"),
    ("io.containerd.server.v1.ttrpc", "ttrpc"),
    ("io.containerd.server.v1.debug", "debug"),
    ("io.containerd.server.v1.metrics", "metrics"),
];

/// Brings `table` of `version` to the layout that we read.
pub(super) fn migrate(table: &mut toml::Table, version: i64) -> Result<()> {
    if !(0..=4).contains(&version) {
        bail!("expected containerd config version equal to or less than `4`, got `{version}`");
    }
    if version <= 1 {
        for (bare, uri) in BARE_IDS {
            rename_plugin(table, bare, uri);
        }
        for list in ["disabled_plugins", "required_plugins"] {
            let entries = table.get_mut(list).and_then(toml::Value::as_array_mut);
            for entry in entries.into_iter().flatten() {
                let uri = entry
                    .as_str()
                    .and_then(|id| BARE_IDS.iter().find(|(bare, _)| *bare == id))
                    .map(|(_, uri)| toml::Value::from(*uri));
                if let Some(uri) = uri {
                    *entry = uri;
                }
            }
        }
    }
    for (old, new) in RENAMED {
        rename_plugin(table, old, new);
    }
    if version == 4 {
        for (plugin, name) in SERVERS {
            if let Some(toml::Value::Table(server)) =
                plugins(table).and_then(|all| all.remove(*plugin))
            {
                let top = table.entry((*name).to_owned()).or_insert(toml::Table::new().into());
                if let Some(top) = top.as_table_mut() {
                    super::file::merge(top, server);
                }
            }
        }
    }
    Ok(())
}

fn plugins(table: &mut toml::Table) -> Option<&mut toml::Table> {
    table.get_mut("plugins").and_then(toml::Value::as_table_mut)
}

fn rename_plugin(table: &mut toml::Table, old: &str, new: &str) {
    let Some(plugins) = plugins(table) else { return };
    if let Some(value) = plugins.remove(old) {
        plugins.entry(new.to_owned()).or_insert(value);
    }
}
