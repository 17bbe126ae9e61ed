//! How the snapshotter is set up.

use std::path::PathBuf;

use serde::Deserialize;

use super::Probe;

/// Trees of user namespaces are mapped by the kernel at their mount.
pub const CAPABILITY_REMAP_IDS: &str = "remap-ids";
/// Where that does not work, copying with other owners is no way out.
pub const CAPABILITY_ONLY_REMAP_IDS: &str = "only-remap-ids";
/// A parentless snapshot can be committed onto a parent.
pub const CAPABILITY_REBASE: &str = "rebase";

/// The table `[plugins."io.containerd.snapshotter.v1.overlayfs"]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct OverlayConfig {
    /// The folder of the snapshotter; the daemon sets the plugin's own if it is empty.
    pub root_path: PathBuf,
    /// Show the layer's folder as a label of each snapshot.
    pub upperdir_label: bool,
    /// Remove folders with their snapshots instead of at the next cleanup.
    pub sync_remove: bool,
    /// Let clients copy trees for user namespaces instead of mapping them at the mount.
    pub slow_chown: bool,
    /// More options of every overlay mount.
    pub mount_options: Vec<String>,
}

impl OverlayConfig {
    /// The capabilities that the plugin shows.
    pub(super) fn capabilities(&self, probe: &Probe) -> Vec<&'static str> {
        let mut capabilities = vec![CAPABILITY_REBASE];
        if !self.slow_chown {
            capabilities.push(CAPABILITY_ONLY_REMAP_IDS);
        }
        if probe.remap_ids {
            capabilities.push(CAPABILITY_REMAP_IDS);
        }
        capabilities
    }
}
