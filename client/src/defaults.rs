//! What stands where nobody names anything: the namespace's labels say, then containerd's defaults.

use api_grpc::namespaces::GetNamespaceRequest;
use base_errors::Result;

use crate::{Client, DEFAULT_RUNTIME, DEFAULT_SNAPSHOTTER, body};

/// The label of a namespace that names its snapshotter.
pub const SNAPSHOTTER_LABEL: &str = "containerd.io/defaults/snapshotter";

/// The label of a namespace that names its runtime.
pub const RUNTIME_LABEL: &str = "containerd.io/defaults/runtime";

impl Client {
    /// `name`, or the snapshotter of the namespace where it is empty.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn snapshotter_or_default(&self, name: &str) -> Result<String> {
        self.named_or(name, SNAPSHOTTER_LABEL, DEFAULT_SNAPSHOTTER).await
    }

    /// `name`, or the runtime of the namespace where it is empty.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn runtime_or_default(&self, name: &str) -> Result<String> {
        self.named_or(name, RUNTIME_LABEL, DEFAULT_RUNTIME).await
    }

    async fn named_or(&self, name: &str, label: &str, default: &str) -> Result<String> {
        if !name.is_empty() {
            return Ok(name.to_owned());
        }
        Ok(self.namespace_label(label).await?.unwrap_or_else(|| default.to_owned()))
    }

    /// The value of one label of the namespace; none if it is empty.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn namespace_label(&self, label: &str) -> Result<Option<String>> {
        let request = GetNamespaceRequest { name: self.namespace().to_owned() };
        let found = body(self.namespaces().get(request).await)?.namespace;
        let value = found.and_then(|mut found| found.labels.remove(label));
        Ok(value.filter(|value| !value.is_empty()))
    }
}
