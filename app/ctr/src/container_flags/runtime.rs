//! Options of the runtime.

use api_shim::{Any, runc, runtimeoptions, typeurl};
use base_errors::Result;

use super::ContainerFlags;
use crate::command::plain;

impl ContainerFlags {
    fn is_runc(&self) -> bool {
        self.runtime == client::DEFAULT_RUNTIME
    }

    fn runc(&self) -> Result<runc::Options> {
        let no_group = self.cgroup.as_deref().unwrap_or_default().is_empty();
        if self.runc_systemd_cgroup && no_group {
            return Err(plain(
                "option --runc-systemd-cgroup requires --cgroup to be set, \
                 e.g. \"machine.slice:foo:deadbeef\"",
            ));
        }
        Ok(runc::Options {
            binary_name: self.runc_binary.clone(),
            root: self.runc_root.clone(),
            systemd_cgroup: self.runc_systemd_cgroup,
            ..runc::Options::default()
        })
    }

    /// Options for the container's record.
    pub(super) fn runtime_options(&self) -> Result<Option<Any>> {
        if self.is_runc() {
            return Ok(Some(typeurl::encode(&self.runc()?)));
        }
        if !self.runc_binary.is_empty() || self.runc_systemd_cgroup {
            return Err(plain(
                "specifying runc-binary and runc-systemd-cgroup is only supported for \
                 \"io.containerd.runc.v2\"",
            ));
        }
        Ok(self.runtime_config_path.as_ref().map(|path| {
            typeurl::encode(&runtimeoptions::Options {
                config_path: path.clone(),
                ..runtimeoptions::Options::default()
            })
        }))
    }

    /// Options for this task, in place of those of the record; `None` keeps them.
    pub(crate) fn task_options(&self) -> Result<Option<Any>> {
        if !self.no_pivot {
            return Ok(None);
        }
        Ok(Some(typeurl::encode(&runc::Options { no_pivot_root: true, ..self.runc()? })))
    }
}
