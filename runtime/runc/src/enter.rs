//! A process more in a container, without runc.
//!
//! `runc exec` starts a program of ten megabytes three times to make a few calls of the system.
//! What these calls are is in runc's state of the container and in the description of the process;
//! where both ask for nothing but what [`kernel_enter`] does, it does that. Everything else is
//! runc's: terminals, seccomp, security labels, user namespaces, paused containers, and any field
//! that is not known here. So is every failure, because runc finds the words that clients know.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use kernel_enter::{Capabilities, Limit, Order};
use runtime_spec::ALL_CAPABILITIES;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use crate::discard::{MAX_STATE, STATE};

/// The limits by their numbers (`resource.h`).
const LIMITS: [&str; 16] = [
    "RLIMIT_CPU",
    "RLIMIT_FSIZE",
    "RLIMIT_DATA",
    "RLIMIT_STACK",
    "RLIMIT_CORE",
    "RLIMIT_RSS",
    "RLIMIT_NPROC",
    "RLIMIT_NOFILE",
    "RLIMIT_MEMLOCK",
    "RLIMIT_AS",
    "RLIMIT_LOCKS",
    "RLIMIT_SIGPENDING",
    "RLIMIT_MSGQUEUE",
    "RLIMIT_NICE",
    "RLIMIT_RTPRIO",
    "RLIMIT_RTTIME",
];

/// The namespaces that are joined, by runc's names, with their flags of `setns(2)`.
const NAMESPACES: [(&str, u32); 6] = [
    ("NEWNS", 0x0002_0000),
    ("NEWCGROUP", 0x0200_0000),
    ("NEWUTS", 0x0400_0000),
    ("NEWIPC", 0x0800_0000),
    ("NEWPID", 0x2000_0000),
    ("NEWNET", 0x4000_0000),
];

/// Fields of runc's configuration that say nothing about a process that is added later: how the
/// container was made, and what it is limited to by its groups.
const OF_THE_CONTAINER: [&str; 23] = [
    "Hooks",
    "cgroups",
    "devices",
    "domainname",
    "hostname",
    "labels",
    "mask_paths",
    "mount_label",
    "mounts",
    "net_devices",
    "networks",
    "no_new_privileges",
    "no_pivot_root",
    "parent_death_signal",
    "readonly_paths",
    "readonlyfs",
    "rootPropagation",
    "rootfs",
    "rootless_cgroups",
    "routes",
    "sysctl",
    "umask",
    "version",
];

/// The part of runc's state that is of interest here.
#[derive(Deserialize)]
struct State {
    id: String,
    init_process_pid: i32,
    init_process_start: u64,
    cgroup_paths: BTreeMap<String, PathBuf>,
    #[serde(default)]
    intel_rdt_path: String,
    #[serde(default)]
    rootless: bool,
    config: Config,
}

/// runc's configuration of a container.
#[derive(Default)]
struct Config {
    namespaces: Vec<Namespace>,
    no_new_keyring: bool,
    oom_score_adj: Option<i32>,
    capabilities: Option<Sets>,
    rlimits: Option<Vec<Rlimit>>,
    /// A field that is not known here says something.
    says_more: bool,
}

#[derive(Deserialize)]
struct Namespace {
    #[serde(rename = "type")]
    kind: String,
}

/// An OCI process. A field that is not here is not known here.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Process {
    #[serde(default)]
    terminal: bool,
    /// Of a terminal.
    #[serde(default, rename = "consoleSize")]
    _console_size: Option<Value>,
    #[serde(default)]
    user: User,
    args: Vec<String>,
    #[serde(default)]
    env: Vec<String>,
    cwd: String,
    #[serde(default)]
    capabilities: Option<Sets>,
    #[serde(default)]
    rlimits: Vec<Rlimit>,
    #[serde(default)]
    no_new_privileges: bool,
    #[serde(default)]
    apparmor_profile: String,
    #[serde(default)]
    selinux_label: String,
    /// Counts for the init process; `runc exec` goes by the container's.
    #[serde(default, rename = "oomScoreAdj")]
    _oom_score_adj: Option<i32>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct User {
    uid: u32,
    gid: u32,
    #[serde(default)]
    additional_gids: Vec<u32>,
    /// For other systems.
    #[serde(default, rename = "username")]
    _username: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sets {
    #[serde(default, alias = "Bounding")]
    bounding: Option<Vec<String>>,
    #[serde(default, alias = "Effective")]
    effective: Option<Vec<String>>,
    #[serde(default, alias = "Inheritable")]
    inheritable: Option<Vec<String>>,
    #[serde(default, alias = "Permitted")]
    permitted: Option<Vec<String>>,
    #[serde(default, alias = "Ambient")]
    ambient: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rlimit {
    #[serde(rename = "type")]
    kind: LimitKind,
    hard: u64,
    soft: u64,
}

/// A name in a process, a number in runc's configuration.
#[derive(Deserialize)]
#[serde(untagged)]
enum LimitKind {
    Name(String),
    Number(u32),
}

/// The order for a process in the container whose state runc keeps in `folder`. `None` if it is
/// runc's to run.
pub(crate) fn order(folder: &Path, process: &[u8], pid_file: &Path) -> Option<Order> {
    let text = base_fs::read_file(folder.join(STATE), MAX_STATE).ok()?;
    let state: State = serde_json::from_slice(&text).ok()?;
    let process: Process = serde_json::from_slice(process).ok()?;
    let order = combine(state, process, pid_file)?;
    if is_frozen(&order) { None } else { Some(order) }
}

fn combine(state: State, process: Process, pid_file: &Path) -> Option<Order> {
    let config = state.config;
    let labelled = !process.apparmor_profile.is_empty() || !process.selinux_label.is_empty();
    if process.terminal || labelled || state.rootless || !state.intel_rdt_path.is_empty() {
        return None;
    }
    if config.says_more || !process.cwd.starts_with('/') {
        return None;
    }
    let mut namespaces = 0;
    for namespace in &config.namespaces {
        namespaces |= NAMESPACES.iter().find(|(name, _)| *name == namespace.kind)?.1;
    }
    // What the process does not say, the container does.
    let capabilities = process.capabilities.or(config.capabilities);
    let limits = match process.rlimits {
        limits if limits.is_empty() => config.rlimits.unwrap_or_default(),
        limits => limits,
    };
    let mut cgroup_paths = state.cgroup_paths;
    let unified = cgroup_paths.remove("");
    // Controllers that are mounted together share a folder.
    let groups: BTreeSet<PathBuf> = cgroup_paths.into_values().collect();
    let absolute = groups.iter().chain(&unified).all(|group| group.is_absolute());
    if !absolute || groups.is_empty() && unified.is_none() {
        return None;
    }
    Some(Order {
        init: state.init_process_pid,
        init_start: state.init_process_start,
        namespaces,
        groups: groups.into_iter().collect(),
        unified,
        keyring: (!config.no_new_keyring).then(|| format!("_ses.{}", state.id)),
        oom_score_adj: config.oom_score_adj,
        no_new_privileges: process.no_new_privileges,
        capabilities: capabilities.map_or(Some(Capabilities::default()), Sets::bits)?,
        limits: limits.into_iter().map(Rlimit::limit).collect::<Option<_>>()?,
        uid: process.user.uid,
        gid: process.user.gid,
        additional_gids: process.user.additional_gids,
        args: process.args,
        env: process.env,
        cwd: process.cwd,
        pid_file: pid_file.to_owned(),
    })
}

// === impl Config ===

impl<'de> Deserialize<'de> for Config {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ConfigVisitor)
    }
}

/// Reads a configuration without keeping what is of no interest, which is nearly all of it.
struct ConfigVisitor;

impl<'de> Visitor<'de> for ConfigVisitor {
    type Value = Config;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a configuration of runc")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Config, A::Error> {
        let mut config = Config::default();
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            match &*name {
                "namespaces" => config.namespaces = map.next_value()?,
                "no_new_keyring" => config.no_new_keyring = map.next_value()?,
                "oom_score_adj" => config.oom_score_adj = map.next_value()?,
                "capabilities" => config.capabilities = map.next_value()?,
                "rlimits" => config.rlimits = map.next_value()?,
                name if OF_THE_CONTAINER.contains(&name) => {
                    map.next_value::<IgnoredAny>()?;
                }
                _ => config.says_more |= !says_nothing(&map.next_value()?),
            }
        }
        Ok(config)
    }
}

/// True for what a field has that is not set.
fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => number.as_u64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

/// True if a group of the container is frozen, or cannot be asked.
fn is_frozen(order: &Order) -> bool {
    let frozen = |path: PathBuf, free: &str| {
        std::fs::read_to_string(path).is_ok_and(|state| state.trim() != free)
    };
    order.groups.iter().any(|group| frozen(group.join("freezer.state"), "THAWED"))
        || order.unified.iter().any(|group| frozen(group.join("cgroup.freeze"), "0"))
}

impl Sets {
    fn bits(self) -> Option<Capabilities> {
        let bits = |names: Option<Vec<String>>| {
            names.unwrap_or_default().iter().try_fold(0, |set, name| {
                let number = ALL_CAPABILITIES.iter().position(|known| known == name)?;
                Some(set | 1 << number)
            })
        };
        Some(Capabilities {
            bounding: bits(self.bounding)?,
            effective: bits(self.effective)?,
            inheritable: bits(self.inheritable)?,
            permitted: bits(self.permitted)?,
            ambient: bits(self.ambient)?,
        })
    }
}

impl Rlimit {
    fn limit(self) -> Option<Limit> {
        let resource = match self.kind {
            LimitKind::Number(number) => number,
            LimitKind::Name(name) => {
                u32::try_from(LIMITS.iter().position(|known| *known == name)?).ok()?
            }
        };
        Some(Limit { resource, soft: self.soft, hard: self.hard })
    }
}
