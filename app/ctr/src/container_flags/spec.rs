//! The spec that the flags ask for.

use std::path::{Path, PathBuf};

use api_shim::{Any, typeurl};
use base_errors::{Error, Result, ResultExt as _};
use runtime_spec::{IdMapping, ImageConfig, SpecBuilder};

use super::{ContainerFlags, CpuFlags, Words, mount};
use crate::command::plain;
use crate::format;

/// Microseconds in which `--cpus` is measured.
const CPU_PERIOD: u64 = 100_000;

/// Kinds of namespaces that can be joined.
const NAMESPACES: [&str; 8] = ["pid", "network", "mount", "ipc", "user", "cgroup", "uts", "time"];

/// How deep a folder of devices may nest; `/dev` nests three deep.
const MAX_DEVICE_DEPTH: usize = 16;

impl ContainerFlags {
    /// Makes the spec. `image` is absent with `--rootfs` and `--config`.
    pub(super) fn spec(
        &self,
        namespace: &str,
        words: &Words<'_>,
        cpu: Option<&CpuFlags>,
        image: Option<&ImageConfig>,
        rootfs: Option<&Path>,
    ) -> Result<Any> {
        if let Some(path) = &self.config {
            let json = std::fs::read(path).with_context(|| format!("open {}", path.display()))?;
            serde_json::from_slice::<serde::de::IgnoredAny>(&json)
                .map_err(|error| Error::invalid_argument(error.to_string()))?;
            return Ok(typeurl::encode_json(typeurl::SPEC, json));
        }
        let mut builder = SpecBuilder::new(namespace, words.id);
        for line in self.env_lines()? {
            builder = builder.env(line);
        }
        for text in &self.mount {
            builder = builder.mount(mount::parse(text)?);
        }
        let folder = std::path::absolute(words.reference)?;
        let rootfs = match image {
            Some(image) => {
                builder = builder.image_config(image, words.args, rootfs)?;
                if !words.args.is_empty() {
                    // COMPAT: a command on the command line replaces the image's entry point too.
                    builder = builder.args(words.args.iter().cloned());
                }
                rootfs
            }
            None => {
                builder = builder.rootfs_path(folder.display().to_string());
                builder = builder.args(words.args.iter().cloned());
                Some(folder.as_path())
            }
        };
        builder = self.process(builder, rootfs)?;
        builder = self.isolation(builder, cpu)?;
        builder = self.resources(builder, cpu)?;
        for path in &self.device {
            for device in devices(path, 0)? {
                builder = builder.device(&device)?;
            }
        }
        for (key, value) in format::parse_labels(&self.annotation) {
            builder = builder.annotation(key, value);
        }
        // COMPAT: labels of the command line are annotations as well.
        for (key, value) in format::parse_labels(&self.label) {
            builder = builder.annotation(key, value);
        }
        let (url, json) = builder.build_any();
        Ok(typeurl::encode_json(url, json))
    }

    fn env_lines(&self) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        if let Some(path) = &self.env_file {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("open {}", path.display()))?;
            for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
                // A name alone takes the value that it has here.
                match line.split_once('=') {
                    Some(_) => lines.push(line.to_owned()),
                    None => {
                        if let Ok(value) = std::env::var(line) {
                            lines.push(format!("{line}={value}"));
                        }
                    }
                }
            }
        }
        lines.extend(self.env.iter().cloned());
        Ok(lines)
    }

    fn process(&self, mut builder: SpecBuilder, rootfs: Option<&Path>) -> Result<SpecBuilder> {
        if self.read_only {
            builder = builder.read_only_rootfs();
        }
        if let Some(cwd) = &self.cwd {
            builder = builder.cwd(cwd);
        }
        if let Some(user) = &self.user {
            builder = builder.user(user, rootfs)?;
        }
        if self.tty {
            builder = builder.tty(true);
        }
        if let Some(hostname) = &self.hostname {
            builder = builder.hostname(hostname);
        }
        if let Some(limit) = &self.rlimit_nofile {
            let (soft, hard) = limit.split_once(':').unwrap_or((limit, limit));
            let number = |text: &str| {
                text.parse::<u64>().map_err(|_| {
                    plain(format!("invalid --rlimit-nofile {limit:?}: want soft:hard"))
                })
            };
            builder = builder.rlimit_nofile(number(soft)?, number(hard)?);
        }
        Ok(builder)
    }

    fn isolation(&self, mut builder: SpecBuilder, cpu: Option<&CpuFlags>) -> Result<SpecBuilder> {
        let without_devices = cpu.is_some_and(|cpu| cpu.privileged_without_host_devices);
        if without_devices && !self.privileged {
            return Err(plain(
                "can't use 'privileged-without-host-devices' without 'privileged' specified",
            ));
        }
        if self.privileged {
            builder = builder.privileged();
            if !without_devices {
                builder = builder.all_devices_allowed().host_devices();
            }
        }
        if self.net_host {
            builder = builder.host_network()?;
            let name = rustix::system::uname();
            let name = name.nodename().to_string_lossy();
            builder = builder.env(format!("HOSTNAME={name}"));
        }
        for (names, add) in [(&self.cap_add, true), (&self.cap_drop, false)] {
            for name in names {
                if !name.starts_with("CAP_") {
                    return Err(plain("capabilities must be specified with 'CAP_' prefix"));
                }
                builder =
                    if add { builder.add_capability(name) } else { builder.drop_capability(name) };
            }
        }
        builder = match (&self.seccomp_profile, self.seccomp) {
            (Some(_), false) => {
                return Err(plain(
                    "seccomp must be set to true, if using a custom seccomp-profile",
                ));
            }
            (Some(path), true) => {
                let json = std::fs::read(path)
                    .with_context(|| format!("cannot load seccomp profile {:?}", path.display()))?;
                let profile = serde_json::from_slice(&json).map_err(|error| {
                    plain(format!("decoding seccomp profile failed {:?}: {error}", path.display()))
                })?;
                builder.seccomp_profile(profile)
            }
            (None, true) => builder.default_seccomp(),
            (None, false) => builder,
        };
        if let Some(profile) = &self.apparmor_profile {
            builder = builder.apparmor_profile(profile);
        }
        for text in &self.with_ns {
            let (kind, path) = text.split_once(':').ok_or_else(|| {
                plain("joining a Linux namespace using --with-ns requires the format 'nstype:path'")
            })?;
            if !NAMESPACES.contains(&kind) {
                return Err(plain(format!(
                    "the Linux namespace type specified in --with-ns is not valid: {kind}"
                )));
            }
            builder = builder.namespace(kind, path)?;
        }
        if let Some(map) = cpu.map(CpuFlags::id_map).transpose()?.flatten() {
            builder = builder.user_namespace(map.users, map.groups);
        }
        if self.allow_new_privs {
            builder = builder.no_new_privileges(false);
        }
        if let Some(propagation) = &self.rootfs_propagation {
            builder = builder.edit(|spec| spec.linux.rootfs_propagation.clone_from(propagation));
        }
        Ok(builder)
    }

    fn resources(&self, mut builder: SpecBuilder, cpu: Option<&CpuFlags>) -> Result<SpecBuilder> {
        let quota_is_set = self.cpu_quota != -1 || self.cpu_period != 0;
        if let Some(cpu) = cpu {
            if cpu.cpus > 0.0 {
                if quota_is_set {
                    return Err(plain("cpus and quota/period should be used separately"));
                }
                builder = builder.cpu_quota(quota(cpu.cpus), CPU_PERIOD);
            }
            if !cpu.cpuset_cpus.is_empty() || !cpu.cpuset_mems.is_empty() {
                builder = builder.cpuset(&cpu.cpuset_cpus, &cpu.cpuset_mems);
            }
            if cpu.cpu_shares > 0 {
                builder = builder.cpu_shares(cpu.cpu_shares);
            }
        }
        if quota_is_set {
            builder = builder.cpu_quota(self.cpu_quota, self.cpu_period);
        }
        if let Some(group) = &self.cgroup {
            builder = builder.cgroups_path(group);
        }
        if self.memory_limit != 0 {
            builder = builder.memory_limit(self.memory_limit);
        }
        Ok(builder)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a part of a microsecond does not count")]
fn quota(cpus: f64) -> i64 {
    (cpus * 100_000.0) as i64
}

pub(super) fn mappings(texts: &[String]) -> Result<Vec<IdMapping>> {
    let parse = |text: &String| {
        let parts: Vec<_> = text.split(':').map(str::parse).collect();
        match parts[..] {
            [Ok(container), Ok(host), Ok(size)] => Ok(IdMapping { container, host, size }),
            _ => Err(plain(format!(
                "parse id mapping: ParseMapping of {text:?}: want container-id:host-id:length"
            ))),
        }
    };
    texts.iter().map(parse).collect()
}

/// The device itself, or all devices below a folder.
fn devices(path: &Path, depth: usize) -> Result<Vec<PathBuf>> {
    let metadata = std::fs::metadata(path).with_context(|| format!("stat {}", path.display()))?;
    if !metadata.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    if depth > MAX_DEVICE_DEPTH {
        return Err(plain(format!("{} nests too deep", path.display())));
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            found.extend(devices(&entry.path(), depth + 1)?);
        } else if std::os::unix::fs::FileTypeExt::is_char_device(&kind)
            || std::os::unix::fs::FileTypeExt::is_block_device(&kind)
        {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}
