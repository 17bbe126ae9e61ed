//! The few things that a shim wants to know of a container's OCI spec.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use base_errors::{Error, Result, ResultExt};
use serde::Deserialize;
use serde::de::IgnoredAny;

/// Annotations that say which containers share a shim; the first one present counts.
const GROUP_ANNOTATIONS: [&str; 2] =
    ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"];

/// The part of `config.json` that is read; all else is skipped.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Spec {
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
    #[serde(default)]
    linux: Option<Linux>,
    #[serde(default)]
    hooks: Option<Hooks>,
}

#[derive(Debug, Default, Deserialize)]
struct Hooks {
    #[serde(default)]
    poststart: Option<Vec<IgnoredAny>>,
    #[serde(default)]
    poststop: Option<Vec<IgnoredAny>>,
}

#[derive(Debug, Default, Deserialize)]
struct Linux {
    #[serde(default)]
    namespaces: Option<Vec<Namespace>>,
}

#[derive(Debug, Deserialize)]
struct Namespace {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    path: String,
}

impl Spec {
    /// Reads the spec of a bundle.
    ///
    /// # Errors
    /// Not found if there is none; invalid argument if it is no JSON of such a shape.
    pub(crate) fn read(bundle: &Path) -> Result<Self> {
        let path = bundle.join("config.json");
        let text = fs::read(&path).with_context(|| format!("open {}", path.display()))?;
        serde_json::from_slice(&text)
            .map_err(|error| Error::invalid_argument(format!("{}: {error}", path.display())))
    }

    /// The group whose containers share a shim, if one is named.
    pub(crate) fn group(&self) -> Option<&str> {
        let annotations = self.annotations.as_ref()?;
        GROUP_ANNOTATIONS.iter().find_map(|key| annotations.get(*key)).map(String::as_str)
    }

    /// True if the container has a pid namespace of its own: then the kernel ends all of its
    /// processes with the init process.
    pub(crate) fn has_own_pid_namespace(&self) -> bool {
        self.linux
            .as_ref()
            .and_then(|linux| linux.namespaces.as_ref())
            .is_some_and(|all| all.iter().any(|one| one.kind == "pid" && one.path.is_empty()))
    }

    /// True if programs of the host are to be run once the container has started.
    pub(crate) fn has_poststart_hooks(&self) -> bool {
        self.has_hooks(|hooks| &hooks.poststart)
    }

    /// True if programs of the host are to be run once the container has been deleted.
    pub(crate) fn has_poststop_hooks(&self) -> bool {
        self.has_hooks(|hooks| &hooks.poststop)
    }

    fn has_hooks(&self, kind: impl FnOnce(&Hooks) -> &Option<Vec<IgnoredAny>>) -> bool {
        let hooks = self.hooks.as_ref().and_then(|hooks| kind(hooks).as_ref());
        hooks.is_some_and(|hooks| !hooks.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> Spec {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn groups_and_namespaces() {
        let one = spec(
            r#"{"ociVersion":"1.0.2","annotations":{"io.kubernetes.cri.sandbox-id":"pod"},
                "linux":{"namespaces":[{"type":"pid"},{"type":"network","path":"/n"}]}}"#,
        );
        assert_eq!(one.group(), Some("pod"));
        assert!(one.has_own_pid_namespace());
        let two = spec(
            r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"pod",
                "io.containerd.runc.v2.group":"g"},
                "linux":{"namespaces":[{"type":"pid","path":"/proc/1/ns/pid"}]}}"#,
        );
        assert_eq!(two.group(), Some("g"));
        assert!(!two.has_own_pid_namespace());
        let three = spec(r#"{"annotations":null,"linux":null}"#);
        assert_eq!(three.group(), None);
        assert!(!three.has_own_pid_namespace());
    }

    #[test]
    fn hooks_at_the_start_and_after_the_end() {
        for without in ["{}", r#"{"hooks":null}"#, r#"{"hooks":{"poststart":[]}}"#] {
            assert!(!spec(without).has_poststart_hooks(), "{without}");
        }
        let prestart = spec(r#"{"hooks":{"prestart":[{"path":"/bin/true"}],"poststart":null}}"#);
        assert!(!prestart.has_poststart_hooks());
        let with = spec(r#"{"hooks":{"poststart":[{"path":"/bin/true","args":["true"]}]}}"#);
        assert!(with.has_poststart_hooks() && !with.has_poststop_hooks());
        let last = spec(r#"{"hooks":{"poststop":[{"path":"/bin/true"}]}}"#);
        assert!(last.has_poststop_hooks() && !last.has_poststart_hooks());
    }
}
