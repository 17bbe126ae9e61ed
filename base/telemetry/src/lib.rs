//! Logs in containerd's two formats with `module` fields; the metrics registry; process figures.
//!
//! [`logs::init`] sets the process's subscriber. [`metrics::Registry`] holds named families of counters,
//! gauges and histograms and writes them in Prometheus' text format 0.0.4, with exactly the names
//! that it was given. Law: nothing here can fail the work that it reports on.

pub mod logs;
pub mod metrics;
pub mod process;
