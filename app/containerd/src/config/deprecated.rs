//! Keys that containerd has deprecated.

use std::collections::BTreeMap;

use service_grpc::Deprecated;
use toml::{Table, Value};

/// Plugin, keys in its table, what they are. Any value but an empty one counts.
const KEYS: [(&str, &[&str], Deprecated); 13] = {
    use Deprecated::{
        CniBinDir, RegistryAuths, RegistryConfigs, RegistryMirrors, TracingProcessor,
        TracingService,
    };
    const IMAGES: &str = "io.containerd.cri.v1.images";
    const RUNTIME: &str = "io.containerd.cri.v1.runtime";
    const CRI: &str = "io.containerd.grpc.v1.cri";
    const PROCESSOR: &str = "io.containerd.tracing.processor.v1.otlp";
    const TRACING: &str = "io.containerd.internal.v1.tracing";
    [
        (IMAGES, &["registry", "mirrors"], RegistryMirrors),
        (IMAGES, &["registry", "auths"], RegistryAuths),
        (IMAGES, &["registry", "configs"], RegistryConfigs),
        (CRI, &["registry", "mirrors"], RegistryMirrors),
        (CRI, &["registry", "auths"], RegistryAuths),
        (CRI, &["registry", "configs"], RegistryConfigs),
        (RUNTIME, &["cni", "bin_dir"], CniBinDir),
        (CRI, &["cni", "bin_dir"], CniBinDir),
        (PROCESSOR, &["endpoint"], TracingProcessor),
        (PROCESSOR, &["protocol"], TracingProcessor),
        (PROCESSOR, &["insecure"], TracingProcessor),
        (TRACING, &["service_name"], TracingService),
        (TRACING, &["sampling_ratio"], TracingService),
    ]
};

/// What the tables of plugins have of it.
#[must_use]
pub fn deprecated(plugins: &BTreeMap<String, Table>) -> Vec<Deprecated> {
    let mut found = Vec::new();
    for (plugin, keys, what) in KEYS {
        let Some((last, folders)) = keys.split_last() else { continue };
        let mut table = plugins.get(plugin);
        for folder in folders {
            table = table.and_then(|table| table.get(*folder)).and_then(Value::as_table);
        }
        let said = table.and_then(|table| table.get(*last)).is_some_and(|value| match value {
            Value::String(text) => !text.is_empty(),
            Value::Table(table) => !table.is_empty(),
            Value::Boolean(yes) => *yes,
            _ => true,
        });
        if said && !found.contains(&what) {
            found.push(what);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_say_something_are_found() {
        let plugins = |text: &str| toml::from_str::<BTreeMap<String, Table>>(text).unwrap();
        let found = deprecated(&plugins(
            r#"
            ["io.containerd.internal.v1.tracing"]
            sampling_ratio = 1.0
            service_name = "containerd"
            ["io.containerd.cri.v1.images".registry]
            config_path = "/etc/certs"
            [io.other.registry.mirrors]
            a = 1
            ["io.containerd.grpc.v1.cri".registry.mirrors."docker.io"]
            endpoint = ["https://mirror"]
            "#,
        ));
        assert_eq!(found, [Deprecated::RegistryMirrors, Deprecated::TracingService]);
        let empty = plugins(
            r#"
            ["io.containerd.cri.v1.runtime".cni]
            bin_dir = ""
            ["io.containerd.tracing.processor.v1.otlp"]
            insecure = false
            ["io.containerd.cri.v1.images".registry.auths]
            "#,
        );
        assert_eq!(deprecated(&empty), []);
    }
}
