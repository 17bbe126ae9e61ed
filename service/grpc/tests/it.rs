//! The contracts of content stores and snapshotters, through the real services over a unix socket.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests; skips are printed")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use api_grpc::MAX_MESSAGE_SIZE;
use api_grpc::content::content_server::ContentServer;
use api_grpc::namespaces::CreateNamespaceRequest;
use api_grpc::namespaces::namespaces_client::NamespacesClient;
use api_grpc::namespaces::namespaces_server::NamespacesServer;
use api_grpc::snapshots::snapshots_server::SnapshotsServer;
use base_errors::Result;
use base_ident::Namespace;
use base_telemetry::metrics::Registry;
use runtime_event::Exchange;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use service_grpc::metering::MeteringLayer;
use service_grpc::server::{self, Dispatcher, GrpcService};
use service_grpc::{
    Backends, Collector, ContentService, NamespacesService, Notifier, SnapshotsService, Stores,
};
use store_content::{LocalStore, NamespacedContent, ProxyStore, SharingPolicy, Store};
use store_metadata::{Metadata, Scope};
use store_snapshot::{
    NamespacedSnapshots, NativeSnapshotter, OverlayConfig, OverlaySnapshotter, ProxySnapshotter,
    Snapshotter,
};
use tonic::transport::{Channel, Endpoint};
use tower::Layer as _;

/// Collects at once, on the caller's time.
struct CollectNow(Metadata);

#[async_trait::async_trait]
impl Collector for CollectNow {
    async fn collect(&self) -> Result<()> {
        self.0.collect().await.map(|_| ())
    }
}

/// A small daemon in this process, and its metrics.
struct Daemon {
    channel: Channel,
    metrics: Registry,
}

/// Starts the services over stores below `root`; they end with the runtime.
async fn daemon(root: &Path) -> Daemon {
    std::fs::create_dir_all(root).unwrap();
    let metadata =
        Metadata::open(root.join("meta.db"), store_metadata::Options::default()).unwrap();
    let content: Arc<dyn Store> = Arc::new(LocalStore::open(root.join("content")).unwrap());
    let overlay = OverlayConfig { root_path: root.join("overlayfs"), ..OverlayConfig::default() };
    let backends: [(&str, Arc<dyn Snapshotter>); 2] = [
        ("overlayfs", Arc::new(OverlaySnapshotter::open(overlay).unwrap())),
        ("native", Arc::new(NativeSnapshotter::open(root.join("native")).unwrap())),
    ];
    let snapshots: BTreeMap<String, NamespacedSnapshots> = backends
        .into_iter()
        .map(|(name, backend)| {
            (name.to_owned(), NamespacedSnapshots::new(metadata.clone(), name, backend))
        })
        .collect();
    let backends = Backends {
        stores: Stores {
            content: NamespacedContent::new(metadata.clone(), content, SharingPolicy::Shared),
            snapshots: Arc::new(snapshots),
            capabilities: Arc::default(),
            notifier: Notifier::new(Exchange::new()),
            metadata: metadata.clone(),
        },
        differs: Vec::new(),
        collector: Arc::new(CollectNow(metadata)),
    };
    let mut dispatcher = Dispatcher::default();
    dispatcher.add(GrpcService::new(
        ContentServer::new(ContentService(backends.clone()))
            .max_decoding_message_size(MAX_MESSAGE_SIZE)
            .max_encoding_message_size(MAX_MESSAGE_SIZE),
    ));
    dispatcher.add(GrpcService::new(SnapshotsServer::new(SnapshotsService(backends.clone()))));
    dispatcher.add(GrpcService::new(NamespacesServer::new(NamespacesService(backends))));
    let metrics = Registry::default();
    let service = MeteringLayer::new(&metrics, true).layer(dispatcher);
    let socket = root.join("s");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    tokio::spawn(server::serve(listener, service));
    let address = format!("unix://{}", socket.display());
    let channel = Endpoint::try_from(address).unwrap().connect().await.unwrap();
    Daemon { channel, metrics }
}

fn scope() -> Scope {
    Scope::new(Namespace::new("testing").unwrap())
}

/// A folder in memory for each store under test.
fn numbered(root: &Path) -> PathBuf {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    root.join(NEXT.fetch_add(1, Ordering::Relaxed).to_string())
}

fn folder() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("sg-").tempdir_in("/dev/shm").unwrap()
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
        let abilities = store_snapshot::testsuite::Abilities { rebase };
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
