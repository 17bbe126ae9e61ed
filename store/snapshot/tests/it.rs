//! The snapshotters against the common contract, and what is particular to each.
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "it/disks.rs"]
mod disks;
#[path = "it/local.rs"]
mod local;
#[path = "it/namespaced.rs"]
mod namespaced;
#[path = "it/proxy.rs"]
mod proxy;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use store_snapshot::{NativeSnapshotter, OverlayConfig, OverlaySnapshotter, Snapshotter};
use tempfile::TempDir;

/// Says that a test is skipped, past what is kept back of tests that pass.
fn say_skipped(reason: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "skipped: {reason}");
}

/// A folder in memory: unlinking on a disk that discards costs a millisecond each.
fn folder() -> TempDir {
    tempfile::Builder::new().prefix("store-snapshot-").tempdir_in("/dev/shm").unwrap()
}

/// Runs `test` in a mount namespace of its own, with a folder that is a tmpfs of `size`.
fn in_namespace<F: Future<Output = ()>>(
    size: &str,
    test: impl FnOnce(PathBuf) -> F + Send + 'static,
) {
    if !rustix::process::geteuid().is_root() {
        say_skipped("mounting needs root");
        return;
    }
    let folder = folder();
    let path = folder.path().to_owned();
    let data = std::ffi::CString::new(format!("size={size}")).unwrap();
    let result = std::thread::spawn(move || {
        #[expect(deprecated, reason = "the thread is new and has no descriptors to share")]
        rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNS).unwrap();
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private).unwrap();
        rustix::mount::mount("tmpfs", &path, "tmpfs", MountFlags::empty(), Some(&*data)).unwrap();
        // Its threads for files are made from here, so they share the namespace.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test(path.clone()));
        drop(runtime);
        rustix::mount::unmount(&path, UnmountFlags::DETACH).unwrap();
    })
    .join();
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

fn overlay_config(root: &Path) -> OverlayConfig {
    OverlayConfig { root_path: root.to_owned(), ..OverlayConfig::default() }
}

fn overlay(root: &Path) -> Arc<dyn Snapshotter> {
    Arc::new(OverlaySnapshotter::open(overlay_config(root)).unwrap())
}

fn native(root: &Path) -> Arc<dyn Snapshotter> {
    Arc::new(NativeSnapshotter::open(root).unwrap())
}

/// A folder for the next thing under test.
fn numbered(root: &Path) -> PathBuf {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    root.join(format!("root-{}", NEXT.fetch_add(1, Ordering::Relaxed)))
}
