//! Flags that describe a container, of `run` and `containers create`, and what is made of them.

mod mount;
mod runtime;
mod spec;

use std::collections::BTreeMap;
use std::path::PathBuf;

use api_grpc::containers::Container;
use api_shim::types::Mount;
use base_errors::{Error, Result};
use client::Client;
use client::container::{IdMap, NewContainer, image_labels};
use client::image::{Platform, Resolved};
use runtime_spec::ImageConfig;

use crate::command::plain;
use crate::format;

/// Flags of both commands.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct ContainerFlags {
    /// Path to the runtime-specific spec config file
    #[arg(long, short, value_name = "value")]
    pub(crate) config: Option<PathBuf>,
    /// Run image for specific platform
    #[arg(long, value_name = "value")]
    platform: Option<String>,
    /// Runtime name or absolute path to runtime binary
    #[arg(long, value_name = "value", default_value = client::DEFAULT_RUNTIME)]
    runtime: String,
    /// Optional runtime config path
    #[arg(long, value_name = "value")]
    runtime_config_path: Option<String>,
    /// Specify runc-compatible binary
    #[arg(long, value_name = "value", default_value = "", hide_default_value = true)]
    runc_binary: String,
    /// Specify runc-compatible root
    #[arg(long, value_name = "value", default_value = "", hide_default_value = true)]
    runc_root: String,
    /// Start runc with systemd cgroup manager
    #[arg(long)]
    runc_systemd_cgroup: bool,
    /// Snapshotter name. Empty value stands for the default value.
    #[arg(long, value_name = "value", env = "CONTAINERD_SNAPSHOTTER", default_value = "")]
    snapshotter: String,
    /// Labels added to the new snapshot for this container.
    #[arg(long, value_name = "value")]
    snapshotter_label: Vec<String>,
    /// Specify the working directory of the process
    #[arg(long, value_name = "value")]
    cwd: Option<String>,
    /// Specify additional container environment variables (e.g. FOO=bar)
    #[arg(long, value_name = "value")]
    pub(crate) env: Vec<String>,
    /// Specify additional container environment variables in a file(e.g. FOO=bar, one per line)
    #[arg(long, value_name = "value")]
    env_file: Option<PathBuf>,
    /// Specify additional labels (e.g. foo=bar)
    #[arg(long, value_name = "value")]
    label: Vec<String>,
    /// Specify additional OCI annotations (e.g. foo=bar)
    #[arg(long, value_name = "value")]
    annotation: Vec<String>,
    /// Specify additional container mount (e.g. type=bind,src=/tmp,dst=/host,options=rbind:ro)
    #[arg(long, value_name = "value")]
    mount: Vec<String>,
    /// Enable host networking for the container
    #[arg(long)]
    net_host: bool,
    /// Run privileged container
    #[arg(long)]
    privileged: bool,
    /// Set the containers filesystem as readonly
    #[arg(long, alias = "readonly")]
    read_only: bool,
    /// Create the container in the given sandbox
    #[arg(long, value_name = "value", default_value = "", hide_default_value = true)]
    sandbox: String,
    /// Allocate a TTY for the container
    #[arg(long, short)]
    pub(crate) tty: bool,
    /// Existing Linux namespaces to join, as `nstype:path`
    #[arg(
        help = "Specify existing Linux namespaces to join at container runtime (format '<nstype>:<path>')",
        long,
        value_name = "value"
    )]
    with_ns: Vec<String>,
    /// File path to write the task's pid
    #[arg(long, value_name = "value")]
    pub(crate) pid_file: Option<PathBuf>,
    /// Turn off OCI spec's NoNewPrivileges feature flag
    #[arg(long)]
    allow_new_privs: bool,
    /// Memory limit (in bytes) for the container
    #[arg(long, value_name = "value", default_value_t = 0)]
    memory_limit: u64,
    /// Add Linux capabilities (Set capabilities with 'CAP_' prefix)
    #[arg(long, value_name = "value")]
    cap_add: Vec<String>,
    /// Drop Linux capabilities (Set capabilities with 'CAP_' prefix)
    #[arg(long, value_name = "value")]
    cap_drop: Vec<String>,
    /// Enable the default seccomp profile
    #[arg(long)]
    seccomp: bool,
    /// File path to custom seccomp profile. seccomp must be set to true, before using
    /// seccomp-profile
    #[arg(long, value_name = "value")]
    seccomp_profile: Option<PathBuf>,
    /// Enable AppArmor with an existing custom profile
    #[arg(long, value_name = "value")]
    apparmor_profile: Option<String>,
    /// Set the container's host name
    #[arg(long, value_name = "value")]
    hostname: Option<String>,
    /// Username or user id, group optional (format: <name|uid>[:<group|gid>])
    #[arg(long, short, value_name = "value")]
    user: Option<String>,
    /// Use custom rootfs that is not managed by containerd snapshotter
    #[arg(long)]
    rootfs: bool,
    /// Disable use of pivot-root (linux only)
    #[arg(long)]
    no_pivot: bool,
    /// Limit CPU CFS quota
    #[arg(long, value_name = "value", default_value_t = -1, allow_negative_numbers = true)]
    cpu_quota: i64,
    /// Limit CPU CFS period
    #[arg(long, value_name = "value", default_value_t = 0)]
    cpu_period: u64,
    /// Set the propagation of the container rootfs
    #[arg(long, value_name = "value")]
    rootfs_propagation: Option<String>,
    /// File path to a device to add to the container; or a path to a directory tree of devices to
    /// add to the container
    #[arg(long, value_name = "value")]
    device: Vec<PathBuf>,
    /// Cgroup path (To disable use of cgroup, set to "" explicitly)
    #[arg(long, value_name = "value")]
    cgroup: Option<String>,
    /// Limit of open files, `soft[:hard]`
    #[arg(long, value_name = "value")]
    rlimit_nofile: Option<String>,
}

/// Flags of `run` alone.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct CpuFlags {
    /// Set the CFS cpu quota
    #[arg(long, value_name = "value", default_value_t = 0.0)]
    cpus: f64,
    /// Set the cpu shares
    #[arg(long, value_name = "value", default_value_t = 1024)]
    cpu_shares: u64,
    /// Set the CPUs the container will run in (e.g., 1-2,4)
    #[arg(long, value_name = "value", default_value = "", hide_default_value = true)]
    cpuset_cpus: String,
    /// Set the memory nodes the container will run in (e.g., 1-2,4)
    #[arg(long, value_name = "value", default_value = "", hide_default_value = true)]
    cpuset_mems: String,
    /// Don't pass all host devices to privileged container
    #[arg(long)]
    privileged_without_host_devices: bool,
    /// Run inside a user namespace with the specified UID mapping ranges; specified with the format
    /// container-uid:host-uid:length
    #[arg(long, value_name = "container-uid:host-uid:length")]
    uidmap: Vec<String>,
    /// Run inside a user namespace with the specified GID mapping ranges; specified with the format
    /// container-gid:host-gid:length
    #[arg(long, value_name = "container-gid:host-gid:length")]
    gidmap: Vec<String>,
    /// Provide the user namespace ID remapping to the snapshotter via label options; requires
    /// snapshotter support
    #[arg(long)]
    remap_labels: bool,
}

impl CpuFlags {
    /// The ids of a user namespace; none without both of its flags.
    fn id_map(&self) -> Result<Option<IdMap>> {
        if self.uidmap.is_empty() || self.gidmap.is_empty() {
            return Ok(None);
        }
        let (users, groups) = (spec::mappings(&self.uidmap)?, spec::mappings(&self.gidmap)?);
        Ok(Some(IdMap { users, groups }))
    }
}

/// The words of the command line by their meaning.
pub(crate) struct Words<'a> {
    /// The image, or the folder with `--rootfs`; empty with `--config`.
    reference: &'a str,
    /// The container.
    id: &'a str,
    /// The program, if it is not the image's.
    args: &'a [String],
}

impl ContainerFlags {
    /// Splits the words after the flags.
    pub(crate) fn split<'a>(&self, words: &'a [String]) -> Result<Words<'a>> {
        let need_id = || plain("container id must be provided");
        if self.config.is_some() {
            return match words {
                [] => Err(need_id()),
                [id] => Ok(Words { reference: "", id, args: &[] }),
                _ => Err(Error::invalid_argument(
                    "with spec config file, only container id should be provided",
                )),
            };
        }
        match words {
            [] => Err(plain("image ref must be provided")),
            [_] => Err(need_id()),
            [reference, id, args @ ..] => Ok(Words { reference, id, args }),
        }
    }

    /// Makes the container; gives its record and the mounts of its root file system.
    pub(crate) async fn create(
        &self,
        client: &Client,
        words: &Words<'_>,
        cpu: Option<&CpuFlags>,
    ) -> Result<(Container, Vec<Mount>)> {
        let namespace = client.namespace();
        let (image, found);
        let mut labels = format::parse_labels(&self.label);
        if self.config.is_some() || self.rootfs {
            (image, found) = (None, None);
        } else {
            let (resolved, config, record) = self.find_image(client, words.reference).await?;
            labels = image_labels(&config.labels, &record, &config.stop_signal, labels);
            (image, found) = (Some(resolved), Some(config));
        }
        let mut snapshot_labels = format::parse_labels(&self.snapshotter_label);
        let mut owners = cpu.map(CpuFlags::id_map).transpose()?.flatten();
        if cpu.is_some_and(|cpu| cpu.remap_labels)
            && let Some(map) = owners.take()
        {
            snapshot_labels.extend(map.labels());
        }
        let new = NewContainer {
            id: words.id,
            image: image.as_ref().map(|image| (words.reference, image)),
            snapshotter: &self.snapshotter,
            snapshot_labels,
            owners,
            labels,
            runtime: &self.runtime,
            runtime_options: self.runtime_options()?,
            sandbox: &self.sandbox,
            extensions: BTreeMap::new(),
            spec: Box::new(|rootfs| self.spec(namespace, words, cpu, found.as_ref(), rootfs)),
        };
        client.create_container(new).await
    }

    /// The image, its configuration, and the labels of its record.
    async fn find_image(
        &self,
        client: &Client,
        reference: &str,
    ) -> Result<(Resolved, ImageConfig, BTreeMap<String, String>)> {
        let image = client.image(reference).await?;
        let platform = match &self.platform {
            Some(platform) => Platform::parse(platform)?,
            None => Platform::host(),
        };
        let resolved = client.resolve_image(&image, &platform).await?;
        let config = ImageConfig::parse(&resolved.config_json)?;
        Ok((resolved, config, image.labels))
    }
}
