//! Metrics of either version.

use api_shim::{Any, cgroups, typeurl};

/// Metrics of a group, as containerd's clients know them.
#[derive(Clone, Debug, PartialEq)]
pub enum Metrics {
    /// `io.containerd.cgroups.v1.Metrics`.
    V1(Box<cgroups::v1::Metrics>),
    /// `io.containerd.cgroups.v2.Metrics`.
    V2(Box<cgroups::v2::Metrics>),
}

impl Metrics {
    /// The message as it travels in a reply, with its bare name as type URL.
    #[must_use]
    pub fn to_any(&self) -> Any {
        match self {
            Metrics::V1(metrics) => typeurl::encode(metrics.as_ref()),
            Metrics::V2(metrics) => typeurl::encode(metrics.as_ref()),
        }
    }
}
