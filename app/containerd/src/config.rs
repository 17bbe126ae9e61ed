//! The configuration: containerd's TOML, versions 1 to 3 (and what 4 calls by other names),
//! imports, flags, and where each key came from.
//!
//! Three steps: [`file::read`] turns files into one table and remembers the line of every key;
//! [`migrate`] renames what older versions called differently; [`Config::from_table`] gives types
//! to it. Keys that nobody reads are warned about with file and line: they are often typing errors.

mod deprecated;
mod file;
mod migrate;
mod plugin_tables;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

pub use deprecated::deprecated;
pub use file::Provenance;
pub use plugin_tables::PluginTables;

/// The version that we write.
pub const VERSION: i64 = 3;

/// Where the configuration is unless a flag says otherwise.
pub const DEFAULT_PATH: &str = "/etc/containerd/config.toml";

/// The whole configuration, without what belongs to plugins.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Version of the file's layout.
    pub version: i64,
    /// What lasts.
    pub root: PathBuf,
    /// What a reboot ends.
    pub state: PathBuf,
    /// Temporary files, if not the system's place for them.
    pub temp: String,
    /// Plugins (`type.id`) that are not started.
    pub disabled_plugins: Vec<String>,
    /// Plugins without which the daemon does not start.
    pub required_plugins: Vec<String>,
    /// Written to our own `oom_score_adj` unless zero.
    pub oom_score: i32,
    /// More files, by path or pattern.
    pub imports: Vec<String>,
    /// What the command line of 0.2 asks for; nothing of it is in a file.
    #[serde(skip)]
    pub v0: crate::v0::Asked,
    /// The gRPC listener.
    pub grpc: Grpc,
    /// The ttrpc listener, for shims.
    pub ttrpc: Ttrpc,
    /// Logs and the debug listener.
    pub debug: Debug,
    /// The metrics listener.
    pub metrics: Metrics,
    /// The control group that the daemon joins.
    pub cgroup: Cgroup,
    /// Deadlines by name, as Go durations.
    pub timeouts: BTreeMap<String, String>,
    /// Plugins that run as other programs.
    pub proxy_plugins: BTreeMap<String, ProxyPlugin>,
    /// Programs that decode layers.
    pub stream_processors: BTreeMap<String, toml::Table>,
    /// The tables of the plugins.
    pub plugins: BTreeMap<String, toml::Table>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            version: VERSION,
            root: "/var/lib/containerd".into(),
            state: "/run/containerd".into(),
            temp: String::new(),
            disabled_plugins: Vec::new(),
            required_plugins: Vec::new(),
            oom_score: 0,
            imports: vec!["/etc/containerd/conf.d/*.toml".to_owned()],
            v0: crate::v0::Asked::default(),
            grpc: Grpc::default(),
            ttrpc: Ttrpc::default(),
            debug: Debug::default(),
            metrics: Metrics::default(),
            cgroup: Cgroup::default(),
            timeouts: BTreeMap::from(
                [
                    ("io.containerd.timeout.bolt.open", "0s"),
                    ("io.containerd.timeout.metrics.shimstats", "2s"),
                    ("io.containerd.timeout.shim.cleanup", "5s"),
                    ("io.containerd.timeout.shim.load", "5s"),
                    ("io.containerd.timeout.shim.shutdown", "3s"),
                    ("io.containerd.timeout.task.state", "2s"),
                ]
                .map(|(key, value)| (key.to_owned(), value.to_owned())),
            ),
            proxy_plugins: BTreeMap::new(),
            stream_processors: BTreeMap::new(),
            plugins: BTreeMap::new(),
        }
    }
}

/// `[grpc]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Grpc {
    /// Path of the unix socket.
    pub address: String,
    /// Owner of the socket.
    pub uid: u32,
    /// Group of the socket.
    pub gid: u32,
    /// The largest message that we take, in bytes.
    pub max_recv_message_size: usize,
    /// The largest message that we send, in bytes.
    pub max_send_message_size: usize,
    /// Address of a TCP listener; only CRI is served there, so this has no effect without it.
    pub tcp_address: String,
}

impl Default for Grpc {
    fn default() -> Self {
        Grpc {
            address: "/run/containerd/containerd.sock".to_owned(),
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            max_recv_message_size: 16 << 20,
            max_send_message_size: 16 << 20,
            tcp_address: String::new(),
        }
    }
}

/// `[ttrpc]`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Ttrpc {
    /// Path of the unix socket; empty means the gRPC one with `.ttrpc` behind it.
    pub address: String,
    /// Owner of the socket.
    pub uid: u32,
    /// Group of the socket.
    pub gid: u32,
}

/// `[debug]`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Debug {
    /// Unix socket (absolute path) or TCP address; empty means none.
    pub address: String,
    /// Owner of the socket.
    pub uid: u32,
    /// Group of the socket.
    pub gid: u32,
    /// Level of the log.
    pub level: String,
    /// `text` or `json`.
    pub format: String,
}

/// `[metrics]`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Metrics {
    /// TCP address; empty means none.
    pub address: String,
    /// Measure the time of calls, too.
    pub grpc_histogram: bool,
}

/// `[cgroup]`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Cgroup {
    /// Path below the hierarchies; empty means that we stay where we are.
    pub path: String,
}

/// `[proxy_plugins.<name>]`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ProxyPlugin {
    /// `snapshot`, `content`, `diff`, `sandbox`, or a plugin type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Path of its unix socket.
    pub address: String,
    /// Platform that it serves.
    pub platform: String,
    /// Facts for introspection.
    pub exports: BTreeMap<String, String>,
    /// What it can do.
    pub capabilities: Vec<String>,
}

/// Flags that override the configuration.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--address`.
    pub address: Option<String>,
    /// `--root`.
    pub root: Option<PathBuf>,
    /// `--state`.
    pub state: Option<PathBuf>,
    /// `--log-level`.
    pub log_level: Option<String>,
}

/// A configuration that was read, with what is to be said about it once there is a log.
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Where its keys came from.
    pub provenance: Provenance,
    /// What looks wrong, each with file and line.
    pub warnings: Vec<String>,
}

impl Config {
    /// Reads `path` with its imports. A missing file is an error only if it was asked for.
    pub fn load(path: &Path, asked_for: bool, overrides: &Overrides) -> Result<Loaded> {
        let mut source = file::read(path, asked_for)?;
        let mut loaded = Self::from_table(&mut source)?;
        let config = &mut loaded.config;
        if let Some(address) = &overrides.address {
            config.grpc.address.clone_from(address);
        }
        if let Some(root) = &overrides.root {
            config.root.clone_from(root);
        }
        if let Some(state) = &overrides.state {
            config.state.clone_from(state);
        }
        if let Some(level) = &overrides.log_level {
            config.debug.level.clone_from(level);
        }
        config.check()?;
        Ok(loaded)
    }

    /// Gives types to a merged table.
    fn from_table(source: &mut file::Source) -> Result<Loaded> {
        let version = source.table.get("version").and_then(toml::Value::as_integer).unwrap_or(1);
        migrate::migrate(&mut source.table, version)?;
        let mut warnings = source.warnings.clone();
        let table = toml::Value::Table(source.table.clone());
        let mut config: Config = serde_ignored::deserialize(table, |path| {
            let place = source.provenance.place_of(&path.to_string());
            warnings
                .push(format!("{place}: ignoring unknown key {path:?}", path = path.to_string()));
        })
        .with_context(|| format!("configuration {}", source.provenance.root()))?;
        config.version = VERSION;
        Ok(Loaded { config, provenance: std::mem::take(&mut source.provenance), warnings })
    }

    /// Refuses what cannot work.
    pub(crate) fn check(&self) -> Result<()> {
        if self.root.as_os_str().is_empty() {
            bail!("root must be specified: invalid argument");
        }
        if self.state.as_os_str().is_empty() {
            bail!("state must be specified: invalid argument");
        }
        if self.root == self.state {
            bail!("root and state must be different paths: invalid argument");
        }
        if self.grpc.address.is_empty() {
            bail!("grpc address cannot be empty: invalid argument");
        }
        /// The longest path of a unix socket, less what temporary names need; as containerd.
        const MAX_SOCKET: usize = 104;
        for address in [&self.grpc.address, &self.ttrpc_address()] {
            if address.len() > MAX_SOCKET {
                bail!("{address:?}: unix socket path too long (> {MAX_SOCKET})");
            }
        }
        match self.debug.format.as_str() {
            "" | "text" | "json" => {}
            other => bail!("unsupported log format {other:?}: debug.format is text or json"),
        }
        if base_telemetry::logs::parse_level(&self.debug.level).is_none() {
            bail!("not a valid log level: {:?}", self.debug.level);
        }
        Ok(())
    }

    /// The path of the ttrpc socket.
    #[must_use]
    pub fn ttrpc_address(&self) -> String {
        if self.ttrpc.address.is_empty() {
            format!("{}.ttrpc", self.grpc.address)
        } else {
            self.ttrpc.address.clone()
        }
    }

    /// The deadline `key`, or one second, containerd's answer for a key that is not set.
    #[must_use]
    pub fn timeout(&self, key: &str) -> std::time::Duration {
        self.timeouts
            .get(key)
            .and_then(|text| parse_duration(text))
            .unwrap_or(std::time::Duration::from_secs(1))
    }

    /// The text of `config default` and `config dump`.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).context("write the configuration")
    }
}

/// A Go duration such as `1m30s`, `250ms` or `0`; none if it is negative or no duration.
#[must_use]
pub fn parse_duration(text: &str) -> Option<std::time::Duration> {
    if text == "0" {
        return Some(std::time::Duration::ZERO);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut seconds = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        seconds += number
            * match &rest[..unit] {
                "ns" => 1e-9,
                "us" | "µs" | "μs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    std::time::Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests;
