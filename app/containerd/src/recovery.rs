//! What happens before anything opens a database: whatever a crash or a bad disk has left, the daemon
//! starts.
//!
//! ```text
//! start       clean or not: `last-start` in the root folder         boot.rs
//! databases   the newest state; the one before; what is readable,   databases.rs
//!             filled from the backup; the backup; an empty one
//! records     those that a backup or an empty file does not have,   records.rs, documents.rs
//!             from snapshots, blobs and running tasks
//! records     those that cannot be read are moved aside            quarantine.rs
//! trees       after a loss of power: layers that lost files are     trees.rs
//!             unpacked anew from their blobs
//! backups     of databases that have changed                        databases.rs
//! ```
//!
//! No step fails the start. Each one that does anything says so in the log and in the metric
//! `ironhull_recovery_total`; what is replaced is kept beside its place, as `*.damaged-<time>`.
//! A start that ends in between is gone on with by the next one. After a step that could not do its
//! work (a full disk) records may be missing: the daemon collects nothing, and the next start tries again.

mod boot;
mod databases;
mod documents;
mod encode;
mod places;
mod quarantine;
mod records;
mod trees;

use std::collections::BTreeMap;

use base_telemetry::metrics::Registry;

use crate::config::Config;

pub use self::boot::Marker;
pub use self::databases::{BACKUP_INTERVAL, backup_path, worth_a_backup};
use self::places::Places;

/// What was done, by kind: `database_fell_back`, `tree_unpacked` and so on.
#[derive(Debug, Default)]
pub struct Tally(BTreeMap<&'static str, u64>);

impl Tally {
    fn add(&mut self, what: &'static str, count: u64) {
        if count > 0 {
            *self.0.entry(what).or_default() += count;
        }
    }

    /// Shows all in `registry`.
    pub fn publish(&self, registry: &Registry) {
        let help = "Things that the daemon had to recover at its start.";
        let family = registry.counter("ironhull_recovery_total", help, &["what"]);
        for (what, count) in &self.0 {
            family.with(&[what]).add(*count);
        }
    }
}

/// An error with its causes: errors of the database leave those to the reader of the chain.
struct Causes<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut next = self.0.source();
        while let Some(cause) = next {
            write!(f, ": {cause}")?;
            next = cause.source();
        }
        Ok(())
    }
}

/// Recovers what has to be, on the thread of the caller; `runtime` is for unpacking. No plugin may
/// have opened anything yet.
pub fn run(config: &Config, runtime: &tokio::runtime::Runtime) -> (Marker, Tally) {
    let mut tally = Tally::default();
    let places = Places::of(config);
    let mut marker = Marker::begin(&config.root);
    if marker.is_unclean() {
        tracing::warn!("the last run did not end cleanly: everything is checked");
        tally.add("unclean_start", 1);
    }
    let mut failed = false;
    for database in places.databases() {
        match databases::ensure(&database, &mut marker, &mut tally) {
            Ok(()) => {}
            Err(error) => {
                let error = Causes(&error);
                tracing::error!(path = %database.display(), %error, "cannot recover the database");
            }
        }
    }
    if marker.is_incomplete() {
        match records::complete(&places, &mut tally) {
            Ok(()) => {}
            Err(error) => {
                tracing::error!(
                    error = %Causes(&error),
                    "cannot complete the records: nothing is collected until a start that can"
                );
                failed = true;
            }
        }
    }
    if (marker.is_unclean() || databases::is_quick(&places.metadata))
        && let Err(error) = quarantine::run(&places.metadata, &mut tally)
    {
        tracing::error!(error = %Causes(&error), "cannot look for bad records");
    }
    if marker.is_unclean() {
        if places.has_bundles() {
            // Another daemon's tasks run on these trees: no loss of power.
            tracing::info!("tasks are running: their trees are taken to be whole");
        } else {
            trees::verify(&places, runtime, &mut tally);
        }
    }
    // What records are missing of is no better than the backup.
    for database in places.databases().iter().filter(|_| !failed) {
        databases::back_up_closed(database);
    }
    marker.checked(!failed);
    (marker, tally)
}
