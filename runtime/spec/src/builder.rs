//! From the default container to the one that is wanted.

use std::path::Path;

use serde_json::Value;

use crate::capability::{ALL_CAPABILITIES, DEFAULT_CAPABILITIES, current_capabilities};
use crate::{
    Capabilities, Cpu, IdMapping, ImageConfig, Linux, Memory, Mount, NamespaceEntry, Pids, Process,
    Resources, Rlimit, Root, Spec, SpecError, User, device, seccomp,
};

/// Under which type URL a spec travels in an `Any`.
pub const SPEC_TYPE_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";

/// The version of the OCI runtime spec that is written.
const OCI_VERSION: &str = "1.2.1";
/// Open files of a process, unless asked for otherwise.
const OPEN_FILES: u64 = 1024;
/// Where programs are looked for, unless the image says otherwise.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What every container has of its own.
const NAMESPACES: [&str; 5] = ["pid", "ipc", "uts", "mount", "network"];
/// What the OCI spec knows.
const NAMESPACE_KINDS: [&str; 8] =
    ["pid", "ipc", "uts", "mount", "network", "user", "cgroup", "time"];
/// Files of the host that a container must not read.
const MASKED_PATHS: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
    "/proc/scsi",
];
/// Files of the host that a container must not write.
const READONLY_PATHS: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
/// Destination, kind, source and options of the usual mounts.
const MOUNTS: [(&str, &str, &str, &[&str]); 7] = [
    ("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
    ("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
    (
        "/dev/pts",
        "devpts",
        "devpts",
        &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
    ),
    ("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
    ("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
    ("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
    ("/run", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
];

/// Builds one spec; each method changes it and gives the builder back.
#[derive(Clone, Debug)]
pub struct SpecBuilder {
    spec: Spec,
    default_seccomp: bool,
}

fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}

impl SpecBuilder {
    /// containerd's default spec for container `id` of `namespace`, and rules for the usual devices.
    #[must_use]
    pub fn new(namespace: &str, id: &str) -> Self {
        let capabilities = texts(&DEFAULT_CAPABILITIES);
        let mount = |(destination, kind, source, options): &(&str, &str, &str, &[&str])| Mount {
            destination: (*destination).to_owned(),
            kind: (*kind).to_owned(),
            source: (*source).to_owned(),
            options: texts(options),
        };
        let namespace_entry =
            |kind: &&str| NamespaceEntry { kind: (*kind).to_owned(), path: String::new() };
        let devices = std::iter::once(device::deny_all()).chain(device::default_rules());
        let spec = Spec {
            oci_version: OCI_VERSION.to_owned(),
            process: Process {
                cwd: "/".to_owned(),
                capabilities: Some(Capabilities {
                    bounding: capabilities.clone(),
                    effective: capabilities.clone(),
                    permitted: capabilities,
                    ..Capabilities::default()
                }),
                rlimits: vec![Rlimit {
                    kind: "RLIMIT_NOFILE".to_owned(),
                    hard: OPEN_FILES,
                    soft: OPEN_FILES,
                }],
                no_new_privileges: true,
                ..Process::default()
            },
            root: Root { path: "rootfs".to_owned(), readonly: false },
            mounts: MOUNTS.iter().map(mount).collect(),
            linux: Linux {
                resources: Resources { devices: devices.collect(), ..Resources::default() },
                cgroups_path: format!("/{namespace}/{id}"),
                namespaces: NAMESPACES.iter().map(namespace_entry).collect(),
                masked_paths: texts(&MASKED_PATHS),
                readonly_paths: texts(&READONLY_PATHS),
                ..Linux::default()
            },
            ..Spec::default()
        };
        SpecBuilder { spec, default_seccomp: false }
    }

    /// Takes environment, program, folder and user from an image. `args`, if there are any, replace
    /// the image's `cmd`. `rootfs` is where users and groups are looked up.
    ///
    /// # Errors
    /// [`SpecError::NoArguments`] if there is no program; as [`User::resolve`].
    pub fn image_config(
        mut self,
        config: &ImageConfig,
        args: &[String],
        rootfs: Option<&Path>,
    ) -> Result<Self, SpecError> {
        let asked = std::mem::take(&mut self.spec.process.env);
        self.spec.process.env =
            if config.env.is_empty() { vec![DEFAULT_PATH.to_owned()] } else { config.env.clone() };
        for line in asked {
            self = self.env(line);
        }
        let rest = if args.is_empty() { &config.cmd } else { args };
        self.spec.process.args = config.entrypoint.iter().chain(rest).cloned().collect();
        if self.spec.process.args.is_empty() {
            return Err(SpecError::NoArguments);
        }
        if !config.working_dir.is_empty() {
            self.spec.process.cwd.clone_from(&config.working_dir);
        }
        let user = match config.user.as_str() {
            // The groups of root, even if nobody says that it is root.
            "" => "0",
            user => user,
        };
        self.user(user, rootfs)
    }

    /// Runs `args`, whatever the image says.
    ///
    /// COMPAT: without an image there is no variable, not even a path.
    #[must_use]
    pub fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.spec.process.args = args.into_iter().map(Into::into).collect();
        self
    }

    /// Sets a variable, `KEY=value`; a line without `=` removes the variable.
    #[must_use]
    pub fn env(mut self, line: impl Into<String>) -> Self {
        let line = line.into();
        let key = line.split('=').next().unwrap_or_default();
        let env = &mut self.spec.process.env;
        let place = env.iter().position(|known| known.split('=').next() == Some(key));
        match (place, line.contains('=')) {
            (Some(place), true) => env[place] = line,
            (Some(place), false) => drop(env.remove(place)),
            (None, true) => env.push(line),
            (None, false) => {}
        }
        self
    }

    /// Starts in `cwd`.
    #[must_use]
    pub fn cwd(mut self, cwd: impl Into<String>) -> Self {
        self.spec.process.cwd = cwd.into();
        self
    }

    /// Runs as `user[:group]`, names or numbers, looked up below `rootfs`.
    ///
    /// # Errors
    /// As [`User::resolve`].
    pub fn user(mut self, user: &str, rootfs: Option<&Path>) -> Result<Self, SpecError> {
        self.spec.process.user = User::resolve(user, rootfs)?.into();
        Ok(self)
    }

    /// Gives the process a terminal, and tells it so.
    #[must_use]
    pub fn tty(mut self, tty: bool) -> Self {
        self.spec.process.terminal = tty;
        if tty { self.env("TERM=xterm") } else { self }
    }

    /// Names the host.
    #[must_use]
    pub fn hostname(mut self, hostname: impl Into<String>) -> Self {
        self.spec.hostname = hostname.into();
        self
    }

    /// Mounts one thing more.
    #[must_use]
    pub fn mount(mut self, mount: Mount) -> Self {
        self.spec.mounts.push(mount);
        self
    }

    /// Takes the mount at `destination` away.
    #[must_use]
    pub fn without_mount(mut self, destination: &str) -> Self {
        self.spec.mounts.retain(|mount| mount.destination != destination);
        self
    }

    /// Uses the host's network, and its names of hosts.
    ///
    /// # Errors
    /// None; as [`host_namespace`](Self::host_namespace).
    pub fn host_network(self) -> Result<Self, SpecError> {
        let bind = |path: &str| Mount {
            destination: path.to_owned(),
            kind: "bind".to_owned(),
            source: path.to_owned(),
            options: texts(&["rbind", "ro"]),
        };
        let builder = self.host_namespace("network")?;
        Ok(builder.mount(bind("/etc/hosts")).mount(bind("/etc/resolv.conf")))
    }

    /// Shares a namespace with the host: `pid`, `ipc`, `uts`, `network` and so on.
    ///
    /// # Errors
    /// [`SpecError::Namespace`] if there is no such kind.
    pub fn host_namespace(mut self, kind: &str) -> Result<Self, SpecError> {
        check_kind(kind)?;
        self.spec.linux.namespaces.retain(|entry| entry.kind != kind);
        Ok(self)
    }

    /// Joins the namespace at `path`; an empty path means a new one.
    ///
    /// # Errors
    /// [`SpecError::Namespace`] if there is no such kind.
    pub fn namespace(mut self, kind: &str, path: &str) -> Result<Self, SpecError> {
        check_kind(kind)?;
        let namespaces = &mut self.spec.linux.namespaces;
        match namespaces.iter_mut().find(|entry| entry.kind == kind) {
            Some(entry) => path.clone_into(&mut entry.path),
            None => {
                let (kind, path) = (kind.to_owned(), path.to_owned());
                namespaces.push(NamespaceEntry { kind, path });
            }
        }
        Ok(self)
    }

    /// Runs in a user namespace with these ranges, for users and for groups.
    #[must_use]
    pub fn user_namespace(mut self, users: Vec<IdMapping>, groups: Vec<IdMapping>) -> Self {
        self.spec.linux.namespaces.retain(|entry| entry.kind != "user");
        let entry = NamespaceEntry { kind: "user".to_owned(), path: String::new() };
        self.spec.linux.namespaces.push(entry);
        self.spec.linux.uid_mappings = users;
        self.spec.linux.gid_mappings = groups;
        self
    }

    /// Limits memory, in bytes.
    #[must_use]
    pub fn memory_limit(mut self, bytes: u64) -> Self {
        let memory = self.spec.linux.resources.memory.get_or_insert_with(Memory::default);
        memory.limit = Some(i64::try_from(bytes).unwrap_or(i64::MAX));
        self
    }

    /// The share of processor time under contention; 1024 is the usual one.
    #[must_use]
    pub fn cpu_shares(mut self, shares: u64) -> Self {
        self.cpu().shares = Some(shares);
        self
    }

    /// At most `quota` microseconds of processor time in each `period` microseconds.
    #[must_use]
    pub fn cpu_quota(mut self, quota: i64, period: u64) -> Self {
        self.cpu().quota = Some(quota);
        self.cpu().period = Some(period);
        self
    }

    /// The processors and memory nodes to use, `0-3,8`; empty means all.
    #[must_use]
    pub fn cpuset(mut self, cpus: &str, mems: &str) -> Self {
        cpus.clone_into(&mut self.cpu().cpus);
        mems.clone_into(&mut self.cpu().mems);
        self
    }

    fn cpu(&mut self) -> &mut Cpu {
        self.spec.linux.resources.cpu.get_or_insert_with(Cpu::default)
    }

    /// Limits the number of processes.
    #[must_use]
    pub fn pids_limit(mut self, limit: i64) -> Self {
        self.spec.linux.resources.pids = Some(Pids { limit });
        self
    }

    /// All that this process itself may do, all devices, nothing hidden. Privileges stay as they
    /// are asked for by [`no_new_privileges`](Self::no_new_privileges).
    #[must_use]
    pub fn privileged(mut self) -> Self {
        let capabilities = texts(&current_capabilities());
        self.spec.process.capabilities = Some(Capabilities {
            bounding: capabilities.clone(),
            effective: capabilities.clone(),
            permitted: capabilities,
            ..Capabilities::default()
        });
        self.spec.linux.masked_paths.clear();
        self.spec.linux.readonly_paths.clear();
        for mount in &mut self.spec.mounts {
            if mount.kind == "sysfs" || mount.kind == "cgroup" {
                for option in mount.options.iter_mut().filter(|option| *option == "ro") {
                    "rw".clone_into(option);
                }
            }
        }
        self.spec.process.selinux_label.clear();
        self.spec.process.apparmor_profile.clear();
        self.spec.linux.seccomp = None;
        self.default_seccomp = false;
        self.all_devices_allowed()
    }

    /// Allows the use of every device.
    #[must_use]
    pub fn all_devices_allowed(mut self) -> Self {
        self.spec.linux.resources.devices = vec![device::allow_all()];
        self
    }

    /// Puts every device of the host into the container.
    #[must_use]
    pub fn host_devices(mut self) -> Self {
        self.spec.linux.devices.extend(device::host_devices());
        self
    }

    /// Puts one device of the host into the container, and allows its use.
    ///
    /// # Errors
    /// [`SpecError::Device`] or [`SpecError::NotADevice`].
    pub fn device(mut self, path: &Path) -> Result<Self, SpecError> {
        let device = device::host_device(path)?;
        self.spec.linux.resources.devices.push(device::allow(&device));
        self.spec.linux.devices.push(device);
        Ok(self)
    }

    /// Makes the root file system read-only.
    #[must_use]
    pub fn read_only_rootfs(mut self) -> Self {
        self.spec.root.readonly = true;
        self
    }

    /// Uses the root file system at `path`, in place of what is mounted in the bundle.
    #[must_use]
    pub fn rootfs_path(mut self, path: impl Into<String>) -> Self {
        self.spec.root.path = path.into();
        self
    }

    /// Allows one capability more, `CAP_…`.
    #[must_use]
    pub fn add_capability(mut self, name: &str) -> Self {
        let sets = self.spec.process.capabilities.get_or_insert_with(Capabilities::default);
        for set in [&mut sets.bounding, &mut sets.effective, &mut sets.permitted] {
            if !set.iter().any(|known| known == name) {
                set.push(name.to_owned());
            }
        }
        self
    }

    /// Forbids one capability, `CAP_…`; `ALL` forbids all.
    #[must_use]
    pub fn drop_capability(mut self, name: &str) -> Self {
        let sets = self.spec.process.capabilities.get_or_insert_with(Capabilities::default);
        for set in [&mut sets.bounding, &mut sets.effective, &mut sets.permitted] {
            set.retain(|known| known != name && name != "ALL");
        }
        self
    }

    /// Allows every capability that Linux has.
    #[must_use]
    pub fn all_capabilities(mut self) -> Self {
        for name in ALL_CAPABILITIES {
            self = self.add_capability(name);
        }
        self
    }

    /// Lets the process gain privileges by set-user-id programs, or not.
    #[must_use]
    pub fn no_new_privileges(mut self, on: bool) -> Self {
        self.spec.process.no_new_privileges = on;
        self
    }

    /// Adds an annotation.
    #[must_use]
    pub fn annotation(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.spec.annotations.insert(key.into(), value.into());
        self
    }

    /// Sets a kernel parameter of the container's namespaces.
    #[must_use]
    pub fn sysctl(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.spec.linux.sysctl.insert(key.into(), value.into());
        self
    }

    /// Limits open files.
    #[must_use]
    pub fn rlimit_nofile(mut self, soft: u64, hard: u64) -> Self {
        self.spec.process.rlimits.retain(|limit| limit.kind != "RLIMIT_NOFILE");
        let kind = "RLIMIT_NOFILE".to_owned();
        self.spec.process.rlimits.push(Rlimit { kind, hard, soft });
        self
    }

    /// The control group, in place of `/namespace/id`.
    #[must_use]
    pub fn cgroups_path(mut self, path: impl Into<String>) -> Self {
        self.spec.linux.cgroups_path = path.into();
        self
    }

    /// How likely the process is the victim when memory runs out, -1000 to 1000.
    #[must_use]
    pub fn oom_score_adj(mut self, score: i32) -> Self {
        self.spec.process.oom_score_adj = Some(score);
        self
    }

    /// Confines the process by an AppArmor profile.
    #[must_use]
    pub fn apparmor_profile(mut self, profile: impl Into<String>) -> Self {
        self.spec.process.apparmor_profile = profile.into();
        self
    }

    /// Filters system calls by the default profile, made for the capabilities in the end.
    #[must_use]
    pub fn default_seccomp(mut self) -> Self {
        self.default_seccomp = true;
        self
    }

    /// Filters system calls by a profile of the caller's, in the form of the OCI spec.
    #[must_use]
    pub fn seccomp_profile(mut self, profile: Value) -> Self {
        self.spec.linux.seccomp = Some(profile);
        self.default_seccomp = false;
        self
    }

    /// Changes what no other method changes.
    #[must_use]
    pub fn edit(mut self, change: impl FnOnce(&mut Spec)) -> Self {
        change(&mut self.spec);
        self
    }

    /// The spec as typed values.
    #[must_use]
    pub fn build_spec(mut self) -> Spec {
        if self.default_seccomp {
            let capabilities = self.spec.process.capabilities.as_ref();
            let bounding = capabilities.map(|sets| sets.bounding.clone()).unwrap_or_default();
            self.spec.linux.seccomp = Some(seccomp::default_profile(&bounding));
        }
        self.spec
    }

    /// The spec as JSON.
    #[must_use]
    pub fn build(self) -> Value {
        // Plain values and sorted maps always have a JSON form.
        serde_json::to_value(self.build_spec()).unwrap_or_default()
    }

    /// Type URL and bytes of the spec, for an `Any`.
    #[must_use]
    pub fn build_any(self) -> (&'static str, Vec<u8>) {
        // Plain values and sorted maps always have a JSON form.
        (SPEC_TYPE_URL, serde_json::to_vec(&self.build_spec()).unwrap_or_default())
    }
}

fn check_kind(kind: &str) -> Result<(), SpecError> {
    if NAMESPACE_KINDS.contains(&kind) {
        Ok(())
    } else {
        Err(SpecError::Namespace(kind.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn builder() -> SpecBuilder {
        SpecBuilder::new("default", "c1")
    }

    #[test]
    fn the_default_is_containerds() {
        let spec = builder().build();
        assert_eq!(spec["ociVersion"], "1.2.1");
        assert_eq!(spec["root"], json!({"path": "rootfs"}));
        assert_eq!(spec["linux"]["cgroupsPath"], "/default/c1");
        assert_eq!(spec["process"]["user"], json!({"uid": 0, "gid": 0}));
        assert_eq!(
            spec["process"]["rlimits"],
            json!([{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}])
        );
        assert_eq!(spec["process"]["noNewPrivileges"], true);
        assert_eq!(
            spec["process"]["capabilities"]["bounding"],
            spec["process"]["capabilities"]["effective"]
        );
        assert!(spec["process"]["capabilities"].get("inheritable").is_none());
        let kinds: Vec<_> = spec["linux"]["namespaces"].as_array().unwrap().iter().collect();
        assert_eq!(kinds[4], &json!({"type": "network"}));
        let devices = spec["linux"]["resources"]["devices"].as_array().unwrap();
        assert_eq!(devices[0], json!({"allow": false, "access": "rwm"}));
        assert_eq!(devices[8]["major"], 136);
        assert_eq!(devices.len(), 10);
        assert_eq!(spec["mounts"].as_array().unwrap().len(), 7);
        assert!(spec.get("hostname").is_none() && spec.get("annotations").is_none());
    }

    #[test]
    fn an_image_gives_the_process() {
        let config = ImageConfig {
            env: vec!["PATH=/bin".to_owned(), "A=1".to_owned()],
            entrypoint: vec!["/init".to_owned()],
            cmd: vec!["-x".to_owned()],
            working_dir: "/srv".to_owned(),
            user: "5:6".to_owned(),
            ..ImageConfig::default()
        };
        let spec = builder().env("A=2").image_config(&config, &[], None).unwrap().build();
        assert_eq!(spec["process"]["args"], json!(["/init", "-x"]));
        assert_eq!(spec["process"]["env"], json!(["PATH=/bin", "A=2"]));
        assert_eq!(spec["process"]["cwd"], "/srv");
        assert_eq!(spec["process"]["user"], json!({"uid": 5, "gid": 6, "additionalGids": [6]}));
        let other = builder().image_config(&config, &["-y".to_owned()], None).unwrap().build();
        assert_eq!(other["process"]["args"], json!(["/init", "-y"]));
        let empty = ImageConfig::default();
        assert!(matches!(builder().image_config(&empty, &[], None), Err(SpecError::NoArguments)));
    }

    #[test]
    fn variables_are_replaced_and_removed() {
        let spec = builder().args(["sh"]).env("A=1").env("B=2").env("A=3").env("B").build_spec();
        assert_eq!(spec.process.env, ["A=3"]);
        let spec = builder().args(["sh"]).tty(true).build_spec();
        assert!(spec.process.terminal && spec.process.env.contains(&"TERM=xterm".to_owned()));
    }

    #[test]
    fn privileges_are_all_or_as_asked() {
        let spec = builder().default_seccomp().privileged().build();
        assert!(spec["linux"].get("maskedPaths").is_none());
        assert!(spec["linux"].get("seccomp").is_none());
        let sys = spec["mounts"].as_array().unwrap().iter().find(|m| m["destination"] == "/sys");
        assert_eq!(sys.unwrap()["options"], json!(["nosuid", "noexec", "nodev", "rw"]));
        assert_eq!(
            spec["linux"]["resources"]["devices"],
            json!([{"allow": true, "access": "rwm"}])
        );
        let spec = builder().drop_capability("CAP_KILL").add_capability("CAP_BPF").build_spec();
        let bounding = spec.process.capabilities.unwrap().bounding;
        assert!(!bounding.contains(&"CAP_KILL".to_owned()));
        assert!(bounding.contains(&"CAP_BPF".to_owned()));
        let none = builder().drop_capability("ALL").build_spec().process.capabilities.unwrap();
        assert!(none.bounding.is_empty());
    }

    #[test]
    fn namespaces_are_shared_and_joined() {
        let spec = builder().host_network().unwrap().build_spec();
        assert!(spec.linux.namespaces.iter().all(|entry| entry.kind != "network"));
        assert!(spec.mounts.iter().any(|mount| mount.destination == "/etc/hosts"));
        let spec = builder().namespace("pid", "/proc/1/ns/pid").unwrap().build_spec();
        assert_eq!(spec.linux.namespaces[0].path, "/proc/1/ns/pid");
        assert!(matches!(builder().host_namespace("net"), Err(SpecError::Namespace(_))));
    }

    #[test]
    fn limits_are_set() {
        let spec = builder()
            .memory_limit(1 << 20)
            .cpu_quota(50_000, 100_000)
            .pids_limit(7)
            .rlimit_nofile(10, 20)
            .read_only_rootfs()
            .build();
        assert_eq!(spec["linux"]["resources"]["memory"], json!({"limit": 1_048_576}));
        assert_eq!(spec["linux"]["resources"]["cpu"], json!({"quota": 50_000, "period": 100_000}));
        assert_eq!(spec["linux"]["resources"]["pids"], json!({"limit": 7}));
        assert_eq!(spec["process"]["rlimits"][0]["soft"], 10);
        assert_eq!(spec["root"]["readonly"], true);
    }

    #[test]
    fn what_is_built_can_be_read() {
        let (url, bytes) = builder().args(["sh"]).default_seccomp().build_any();
        assert_eq!(url, SPEC_TYPE_URL);
        let spec: Spec = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(serde_json::to_vec(&spec).unwrap(), bytes);
    }
}
