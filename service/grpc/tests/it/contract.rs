//! The contracts of content stores and snapshotters, through the real services over a unix socket.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use api_grpc::namespaces::CreateNamespaceRequest;
use api_grpc::namespaces::namespaces_client::NamespacesClient;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use store_content::{ProxyStore, Store};
use store_snapshot::{ProxySnapshotter, Snapshotter};

use super::daemon::{daemon, folder, scope};

/// A folder in memory for each store under test.
fn numbered(root: &Path) -> PathBuf {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    root.join(NEXT.fetch_add(1, Ordering::Relaxed).to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_keeps_the_contract_through_grpc() {
    let folder = folder();
    let root = folder.path().to_owned();
    let make = move || -> std::pin::Pin<Box<dyn Future<Output = Arc<dyn Store>> + Send>> {
        let root = numbered(&root);
        Box::pin(async move {
            let daemon = daemon(&root).await;
            Arc::new(ProxyStore::new(daemon.channel, &scope()).unwrap()) as Arc<dyn Store>
        })
    };
    let abilities = store_content::testsuite::Abilities { labels: true, running_digest: false };
    store_content::testsuite::run(&make, abilities).await;
}

/// Runs the suite of snapshotters in a mount namespace of its own.
fn snapshots(name: &'static str, rebase: bool) {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: mounting needs root");
        return;
    }
    let folder = folder();
    let path = folder.path().to_owned();
    let result = std::thread::spawn(move || {
        #[expect(deprecated, reason = "the thread is new and has no descriptors to share")]
        rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNS).unwrap();
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private).unwrap();
        rustix::mount::mount("tmpfs", &path, "tmpfs", MountFlags::empty(), None).unwrap();
        // Its threads are made from here, so they share the namespace.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let root = path.clone();
        let make =
            move || -> std::pin::Pin<Box<dyn Future<Output = Arc<dyn Snapshotter>> + Send>> {
                let root = numbered(&root);
                Box::pin(async move {
                    let daemon = daemon(&root).await;
                    let proxy =
                        ProxySnapshotter::new(daemon.channel, name, Some(&scope())).unwrap();
                    Arc::new(proxy) as Arc<dyn Snapshotter>
                })
            };
        let abilities = store_snapshot::testsuite::Abilities { rebase, exact_usage: true };
        let work = path.join("work");
        std::fs::create_dir_all(&work).unwrap();
        runtime.block_on(store_snapshot::testsuite::run(&make, &work, abilities));
        drop(runtime);
        rustix::mount::unmount(&path, UnmountFlags::DETACH).unwrap();
    })
    .join();
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn overlayfs_keeps_the_contract_through_grpc() {
    snapshots("overlayfs", true);
}

#[test]
fn native_keeps_the_contract_through_grpc() {
    snapshots("native", false);
}

#[tokio::test]
async fn calls_are_counted_by_code() {
    let folder = folder();
    let daemon = daemon(&folder.path().join("d")).await;
    let mut client = NamespacesClient::new(daemon.channel.clone());
    for _ in 0..2 {
        let namespace = api_grpc::namespaces::Namespace {
            name: "counted".to_owned(),
            ..api_grpc::namespaces::Namespace::default()
        };
        let _ = client.create(CreateNamespaceRequest { namespace: Some(namespace) }).await;
    }
    let text = daemon.metrics.encode();
    let labels = "grpc_method=\"Create\",grpc_service=\"containerd.services.namespaces.v1.Namespaces\",grpc_type=\"unary\"";
    for line in [
        format!("grpc_server_started_total{{{labels}}} 2"),
        format!("grpc_server_handled_total{{grpc_code=\"OK\",{labels}}} 1"),
        format!("grpc_server_handled_total{{grpc_code=\"AlreadyExists\",{labels}}} 1"),
        format!("grpc_server_msg_received_total{{{labels}}} 2"),
        format!("grpc_server_msg_sent_total{{{labels}}} 1"),
        format!("grpc_server_handling_seconds_count{{{labels}}} 2"),
    ] {
        assert!(text.contains(&line), "{line} in\n{text}");
    }
}
