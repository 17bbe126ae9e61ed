//! A small daemon in this process.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use api_grpc::containers::containers_client::ContainersClient;
use api_grpc::containers::containers_server::ContainersServer;
use api_grpc::content::content_client::ContentClient;
use api_grpc::images::images_client::ImagesClient;
use api_grpc::images::images_server::ImagesServer;
use api_grpc::leases::leases_client::LeasesClient;
use api_grpc::leases::leases_server::LeasesServer;
use api_grpc::namespaces::namespaces_client::NamespacesClient;
use api_grpc::namespaces::namespaces_server::NamespacesServer;
use api_grpc::sandbox::store_client::StoreClient;
use api_grpc::sandbox::store_server::StoreServer;
use api_grpc::snapshots::snapshots_client::SnapshotsClient;
use api_grpc::snapshots::snapshots_server::SnapshotsServer;
use api_grpc::{LEASE_HEADER, MAX_MESSAGE_SIZE, NAMESPACE_HEADER};
use base_errors::Result;
use base_ident::Namespace;
use base_telemetry::metrics::Registry;
use runtime_event::Exchange;
use service_grpc::metering::MeteringLayer;
use service_grpc::server::{self, Dispatcher, GrpcService};
use service_grpc::{
    Backends, Collector, ContainersService, ContentRoutes, ContentService, ImagesService,
    LeasesService, NamespacesService, Notifier, SandboxStoreService, SnapshotsService, Stores,
};
use store_content::{LocalStore, NamespacedContent, SharingPolicy, Store};
use store_metadata::{Metadata, Scope};
use store_snapshot::{
    NamespacedSnapshots, NativeSnapshotter, OverlayConfig, OverlaySnapshotter, Snapshotter,
};
use tonic::Request;
use tonic::transport::{Channel, Endpoint};
use tower::Layer as _;

/// Collects and sweeps at once, on the caller's time.
struct CollectNow(Stores);

#[async_trait::async_trait]
impl Collector for CollectNow {
    async fn collect(&self) -> Result<()> {
        let collection = self.0.metadata.collect().await?;
        if collection.sweep_content {
            self.0.content.sweep().await?;
        }
        for name in &collection.sweep_snapshotters {
            self.0.snapshots[name].sweep().await?;
        }
        Ok(())
    }
}

/// A small daemon in this process, and its metrics.
pub(crate) struct Daemon {
    pub(crate) channel: Channel,
    pub(crate) metrics: Registry,
    pub(crate) exchange: Exchange,
    pub(crate) stores: Stores,
}

/// Starts the services over stores below `root`; they end with the runtime.
pub(crate) async fn daemon(root: &Path) -> Daemon {
    daemon_with(root, SharingPolicy::Shared).await
}

/// As [`daemon`], with a policy for content that other namespaces have.
pub(crate) async fn daemon_with(root: &Path, policy: SharingPolicy) -> Daemon {
    std::fs::create_dir_all(root).unwrap();
    let metadata =
        Metadata::open(root.join("meta.db"), store_metadata::Options::default()).unwrap();
    let content: Arc<dyn Store> = Arc::new(LocalStore::open(root.join("content")).unwrap());
    let overlay = OverlayConfig { root_path: root.join("overlayfs"), ..OverlayConfig::default() };
    let native = NativeSnapshotter::open(root.join("native")).unwrap();
    let mut backends: Vec<(&str, Arc<dyn Snapshotter>)> = vec![("native", Arc::new(native))];
    // It mounts to find out what the kernel can do.
    if rustix::process::geteuid().is_root() {
        backends.push(("overlayfs", Arc::new(OverlaySnapshotter::open(overlay).unwrap())));
    }
    let snapshots: BTreeMap<String, NamespacedSnapshots> = backends
        .into_iter()
        .map(|(name, backend)| {
            (name.to_owned(), NamespacedSnapshots::new(metadata.clone(), name, backend))
        })
        .collect();
    let exchange = Exchange::new();
    let stores = Stores {
        content: NamespacedContent::new(metadata.clone(), content, policy),
        snapshots: Arc::new(snapshots),
        capabilities: Arc::default(),
        notifier: Notifier::new(exchange.clone()),
        metadata,
    };
    let backends = Backends {
        stores: stores.clone(),
        differs: Vec::new(),
        collector: Arc::new(CollectNow(stores.clone())),
    };
    let mut dispatcher = Dispatcher::default();
    dispatcher.add(GrpcService::new(
        ContentRoutes::new(ContentService(backends.clone()))
            .max_decoding_message_size(MAX_MESSAGE_SIZE)
            .max_encoding_message_size(MAX_MESSAGE_SIZE),
    ));
    dispatcher.add(GrpcService::new(SnapshotsServer::new(SnapshotsService(backends.clone()))));
    dispatcher.add(GrpcService::new(ImagesServer::new(ImagesService(backends.clone()))));
    dispatcher.add(GrpcService::new(LeasesServer::new(LeasesService(backends.clone()))));
    dispatcher.add(GrpcService::new(ContainersServer::new(ContainersService(backends.clone()))));
    dispatcher.add(GrpcService::new(StoreServer::new(SandboxStoreService(backends.clone()))));
    dispatcher.add(GrpcService::new(NamespacesServer::new(NamespacesService(backends))));
    let metrics = Registry::default();
    let service = MeteringLayer::new(&metrics, true).layer(dispatcher);
    let socket = root.join("s");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    tokio::spawn(server::serve(listener, service));
    let address = format!("unix://{}", socket.display());
    let channel = Endpoint::try_from(address).unwrap().connect().await.unwrap();
    Daemon { channel, metrics, exchange, stores }
}

macro_rules! clients {
    ($($name:ident => $client:ident;)*) => {$(
        pub(crate) fn $name(&self) -> $client<Channel> {
            $client::new(self.channel.clone())
        }
    )*};
}

impl Daemon {
    clients! {
        containers => ContainersClient;
        images => ImagesClient;
        leases => LeasesClient;
        namespaces => NamespacesClient;
        sandboxes => StoreClient;
        snapshots => SnapshotsClient;
    }

    pub(crate) fn content(&self) -> ContentClient<Channel> {
        ContentClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE_SIZE)
            .max_encoding_message_size(MAX_MESSAGE_SIZE)
    }
}

/// `message` in `namespace`.
pub(crate) fn in_namespace<T>(namespace: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(NAMESPACE_HEADER, namespace.parse().unwrap());
    request
}

/// `message` in the namespace of the tests.
pub(crate) fn call<T>(message: T) -> Request<T> {
    in_namespace("testing", message)
}

/// `message` in the namespace of the tests, under a lease.
pub(crate) fn leased<T>(lease: &str, message: T) -> Request<T> {
    let mut request = call(message);
    request.metadata_mut().insert(LEASE_HEADER, lease.parse().unwrap());
    request
}

pub(crate) fn scope() -> Scope {
    Scope::new(Namespace::new("testing").unwrap())
}

pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("sg-").tempdir_in("/dev/shm").unwrap()
}
