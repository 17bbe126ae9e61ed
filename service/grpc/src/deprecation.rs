//! What is in use although containerd has deprecated it, for those who want to move on in time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use api_grpc::introspection::DeprecationWarning;

/// Something that containerd has deprecated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deprecated {
    /// Mirrors of registries in the configuration of CRI.
    RegistryMirrors,
    /// Credentials of registries in the configuration of CRI.
    RegistryAuths,
    /// Certificates of registries in the configuration of CRI.
    RegistryConfigs,
    /// One folder of CNI plugins in the configuration of CRI.
    CniBinDir,
    /// Where traces go, in the configuration.
    TracingProcessor,
    /// Name and rate of traces, in the configuration.
    TracingService,
    /// The address of a task service in options of the runtime.
    TaskApiAddress,
    /// The version of a task service in options of the runtime.
    TaskApiVersion,
}

impl Deprecated {
    /// containerd's id, without what all ids begin with.
    fn name(self) -> &'static str {
        match self {
            Deprecated::RegistryMirrors => "cri-registry-mirrors",
            Deprecated::RegistryAuths => "cri-registry-auths",
            Deprecated::RegistryConfigs => "cri-registry-configs",
            Deprecated::CniBinDir => "cri-cni-bin-dir",
            Deprecated::TracingProcessor => "tracing-processor-config",
            Deprecated::TracingService => "tracing-service-config",
            Deprecated::TaskApiAddress => "runc-options-task-api-address",
            Deprecated::TaskApiVersion => "runc-options-task-api-version",
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn message(self) -> &'static str {
        match self {
            Deprecated::RegistryMirrors => {
                "`registry.mirrors` of the CRI plugin is deprecated: use `registry.config_path`"
            }
            Deprecated::RegistryAuths => {
                "`registry.auths` of the CRI plugin is deprecated: use `ImagePullSecrets`"
            }
            Deprecated::RegistryConfigs => {
                "`registry.configs` of the CRI plugin is deprecated: use `registry.config_path`"
            }
            Deprecated::CniBinDir => {
                "`cni.bin_dir` of the CRI plugin is deprecated: use `cni.bin_dirs`"
            }
            Deprecated::TracingProcessor => {
                "`endpoint`, `protocol` and `insecure` of the tracing processor are deprecated: use \
                 the OTEL_EXPORTER_OTLP variables of the environment"
            }
            Deprecated::TracingService => {
                "`service_name` and `sampling_ratio` of the tracing plugin are deprecated: use \
                 OTEL_SERVICE_NAME and the OTEL_TRACES_SAMPLER variables of the environment"
            }
            Deprecated::TaskApiAddress => {
                "`task_api_address` of runc's options is deprecated: use the field of the request \
                 that creates a task"
            }
            Deprecated::TaskApiVersion => {
                "`task_api_version` of runc's options is deprecated: use the field of the request \
                 that creates a task"
            }
        }
    }
}

/// What of it was seen, and when the last time. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Deprecations(Arc<Mutex<BTreeMap<Deprecated, SystemTime>>>);

impl Deprecations {
    /// It was seen just now.
    pub fn note(&self, what: Deprecated) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(what, SystemTime::now());
    }

    /// All that was seen.
    pub(crate) fn list(&self) -> Vec<DeprecationWarning> {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let warning = |(what, at): (&Deprecated, &SystemTime)| DeprecationWarning {
            id: format!("io.containerd.deprecation/{}", what.name()),
            message: what.message().to_owned(),
            last_occurrence: Some((*at).into()),
        };
        seen.iter().map(warning).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_is_listed_once() {
        let all = Deprecations::default();
        assert!(all.list().is_empty());
        all.note(Deprecated::TracingService);
        let first = all.list()[0].last_occurrence;
        all.clone().note(Deprecated::TracingService);
        all.note(Deprecated::RegistryAuths);
        let list = all.list();
        let ids: Vec<&str> = list.iter().map(|warning| warning.id.as_str()).collect();
        let expected = [
            "io.containerd.deprecation/cri-registry-auths",
            "io.containerd.deprecation/tracing-service-config",
        ];
        assert_eq!(ids, expected);
        let seconds = |at: Option<prost_types::Timestamp>| at.map(|at| (at.seconds, at.nanos));
        assert!(first.is_some() && seconds(list[1].last_occurrence) >= seconds(first));
    }
}
