//! Logs in containerd's two formats with `module` fields; the metrics registry; process figures.
