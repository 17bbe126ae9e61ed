//! The content stores against the common contract, and what is particular to each.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests; skips are printed")]

#[path = "it/local.rs"]
mod local;
#[path = "it/namespaced.rs"]
mod namespaced;
#[path = "it/proxy.rs"]
mod proxy;

use std::sync::Arc;

use store_content::{LocalStore, Store};
use tempfile::TempDir;

/// A folder in memory: unlinking on a disk that discards costs a millisecond each.
fn folder() -> TempDir {
    tempfile::Builder::new().prefix("store-content-").tempdir_in("/dev/shm").unwrap()
}

fn local(folder: &TempDir) -> Arc<dyn Store> {
    Arc::new(LocalStore::open(folder.path().join("content")).unwrap())
}
