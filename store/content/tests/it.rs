//! The content stores against the common contract, and what is particular to each.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests; skips are printed")]

#[path = "it/local.rs"]
mod local;
#[path = "it/namespaced.rs"]
mod namespaced;
#[path = "it/proxy.rs"]
mod proxy;

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use store_content::{LocalStore, Store};
use tempfile::TempDir;

thread_local! {
    /// Folders of this thread's test.
    static FOLDERS: RefCell<Vec<TempDir>> = const { RefCell::new(Vec::new()) };
}

/// A folder in memory (unlinking on a disk that discards costs a millisecond each), which is
/// removed when the test has ended.
struct Folder(PathBuf);

impl Folder {
    fn path(&self) -> &Path {
        &self.0
    }
}

fn temporary() -> TempDir {
    tempfile::Builder::new().prefix("store-content-").tempdir_in("/dev/shm").unwrap()
}

fn folder() -> Folder {
    let folder = temporary();
    let path = folder.path().to_owned();
    FOLDERS.with_borrow_mut(|folders| folders.push(folder));
    Folder(path)
}

/// Runs a test; its folders go after the last job of a dropped writer.
fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(test);
    drop(runtime);
    FOLDERS.take();
}

fn local(folder: &Folder) -> Arc<dyn Store> {
    Arc::new(LocalStore::open(folder.path().join("content")).unwrap())
}
