//! The schedule over real stores, and a proxy whose removals hang.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::pin::Pin;
use std::sync::Mutex;

use api_grpc::snapshots::snapshots_server::{Snapshots, SnapshotsServer};
use api_grpc::snapshots::{
    self, CleanupRequest, CommitSnapshotRequest, Info, ListSnapshotsRequest, ListSnapshotsResponse,
    MountsRequest, MountsResponse, PrepareSnapshotRequest, PrepareSnapshotResponse,
    RemoveSnapshotRequest, StatSnapshotRequest, StatSnapshotResponse, UpdateSnapshotRequest,
    UpdateSnapshotResponse, UsageRequest, UsageResponse, ViewSnapshotRequest, ViewSnapshotResponse,
};
use base_ident::{Digest, Labels, timestamp};
use futures_util::Stream;
use runtime_event::Exchange;
use service_grpc::Notifier;
use service_grpc::server::{self, Dispatcher, GrpcService};
use store_content::{LocalStore, NamespacedContent, SharingPolicy};
use store_metadata::{Metadata, Scope};
use store_snapshot::{NamespacedSnapshots, NativeSnapshotter, ProxySnapshotter, Snapshotter as _};
use tonic::transport::Endpoint;
use tonic::{Request, Response, Status};

use super::*;

/// A test that has not ended by then hangs.
const HANGS: Duration = Duration::from_secs(120);

/// The service of a proxy plugin that knows names alone and never answers a removal.
#[derive(Default)]
struct Wedged {
    names: Mutex<BTreeSet<String>>,
    removals: AtomicU64,
}

type List = Pin<Box<dyn Stream<Item = std::result::Result<ListSnapshotsResponse, Status>> + Send>>;
type Answer<T> = std::result::Result<Response<T>, Status>;

fn info(name: String) -> Info {
    Info { name, kind: snapshots::Kind::Active.into(), ..Info::default() }
}

/// The service in the form that a server takes.
struct Served(Arc<Wedged>);

#[tonic::async_trait]
impl Snapshots for Served {
    type ListStream = List;

    async fn prepare(
        &self,
        request: Request<PrepareSnapshotRequest>,
    ) -> Answer<PrepareSnapshotResponse> {
        self.0.names.lock().unwrap().insert(request.into_inner().key);
        Ok(Response::new(PrepareSnapshotResponse::default()))
    }

    async fn list(&self, _: Request<ListSnapshotsRequest>) -> Answer<List> {
        let info = self.0.names.lock().unwrap().iter().cloned().map(info).collect();
        let block = Ok(ListSnapshotsResponse { info });
        Ok(Response::new(Box::pin(futures_util::stream::iter([block]))))
    }

    async fn stat(&self, request: Request<StatSnapshotRequest>) -> Answer<StatSnapshotResponse> {
        let info = Some(info(request.into_inner().key));
        Ok(Response::new(StatSnapshotResponse { info }))
    }

    async fn remove(&self, _: Request<RemoveSnapshotRequest>) -> Answer<()> {
        self.0.removals.fetch_add(1, Ordering::SeqCst);
        std::future::pending().await
    }

    async fn view(&self, _: Request<ViewSnapshotRequest>) -> Answer<ViewSnapshotResponse> {
        Err(Status::unimplemented("view"))
    }

    async fn mounts(&self, _: Request<MountsRequest>) -> Answer<MountsResponse> {
        Err(Status::unimplemented("mounts"))
    }

    async fn commit(&self, _: Request<CommitSnapshotRequest>) -> Answer<()> {
        Err(Status::unimplemented("commit"))
    }

    async fn update(&self, _: Request<UpdateSnapshotRequest>) -> Answer<UpdateSnapshotResponse> {
        Err(Status::unimplemented("update"))
    }

    async fn usage(&self, _: Request<UsageRequest>) -> Answer<UsageResponse> {
        Err(Status::unimplemented("usage"))
    }

    async fn cleanup(&self, _: Request<CleanupRequest>) -> Answer<()> {
        Ok(Response::new(()))
    }
}

struct Fixture {
    _folder: tempfile::TempDir,
    stores: Stores,
    wedged: Arc<Wedged>,
    exchange: Exchange,
    metrics: Registry,
}

/// Stores with the snapshotters `native` and `wedged`, the latter behind a socket.
async fn fixture() -> Fixture {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let root: &Path = folder.path();
    let wedged = Arc::new(Wedged::default());
    let mut dispatcher = Dispatcher::default();
    dispatcher.add(GrpcService::new(SnapshotsServer::new(Served(Arc::clone(&wedged)))));
    let socket = root.join("s");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    tokio::spawn(server::serve(listener, dispatcher));
    let address = format!("unix://{}", socket.display());
    let channel = Endpoint::try_from(address).unwrap().connect().await.unwrap();
    let metadata =
        Metadata::open(root.join("meta.db"), store_metadata::Options::default()).unwrap();
    let proxy = ProxySnapshotter::new(channel, "wedged", None).unwrap();
    let native = NativeSnapshotter::open(root.join("native")).unwrap();
    let snapshots = BTreeMap::from([
        (
            "wedged".to_owned(),
            NamespacedSnapshots::new(metadata.clone(), "wedged", Arc::new(proxy)),
        ),
        (
            "native".to_owned(),
            NamespacedSnapshots::new(metadata.clone(), "native", Arc::new(native)),
        ),
    ]);
    let content = Arc::new(LocalStore::open(root.join("content")).unwrap());
    let exchange = Exchange::new();
    let stores = Stores {
        content: NamespacedContent::new(metadata.clone(), content, SharingPolicy::Shared),
        snapshots: Arc::new(snapshots),
        capabilities: Arc::default(),
        notifier: Notifier::new(exchange.clone()),
        metadata,
    };
    Fixture { _folder: folder, stores, wedged, exchange, metrics: Registry::default() }
}

fn scope() -> Scope {
    Scope::new(Namespace::new("default").unwrap())
}

fn start(fixture: &Fixture, config: &SchedulerConfig) -> Scheduler {
    Scheduler::start(config, fixture.stores.clone(), &fixture.metrics).unwrap()
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..6000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} did not come");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_hangs_in_remove_delays_nobody_else() {
    let fixture = fixture().await;
    let mut scheduler = start(&fixture, &SchedulerConfig::default());
    // It runs out in every collection here: none of the sweeps of the proxy ends.
    scheduler.patience = Duration::from_millis(300);
    let scheduler = Arc::new(scheduler);
    let wedged = fixture.stores.snapshotter(&scope(), "wedged").unwrap();
    wedged.prepare("stuck", "", Labels::new()).await.unwrap();
    wedged.remove("stuck").await.unwrap();
    // Whoever waits for this collection waits for the removal as well.
    let waiting = Arc::clone(&scheduler);
    let waiting = tokio::spawn(async move { waiting.collect().await });
    until("the removal", || fixture.wedged.removals.load(Ordering::SeqCst) == 1).await;

    let others = async {
        let native = fixture.stores.snapshotter(&scope(), "native").unwrap();
        for round in 0..2 {
            let key = format!("k{round}");
            native.prepare(&key, "", Labels::new()).await.unwrap();
            native.remove(&key).await.unwrap();
            // Records of the same snapshotter, too.
            wedged.prepare(&key, "", Labels::new()).await.unwrap();
            assert_eq!(wedged.stat(&key).await.unwrap().name, key);
            scheduler.collect().await.unwrap();
            let left = fixture.stores.snapshots["native"].backend().list(&[]).await.unwrap();
            assert_eq!(left.len(), 0, "the collection has swept what does not hang");
        }
    };
    tokio::time::timeout(HANGS, others).await.unwrap();
    assert_eq!(fixture.wedged.removals.load(Ordering::SeqCst), 1, "one sweep at a time");
    waiting.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_expires_goes_without_another_trigger() {
    let fixture = fixture().await;
    let _scheduler = start(&fixture, &SchedulerConfig::default());
    let metadata = &fixture.stores.metadata;
    let mut events = fixture.exchange.subscribe(&["topic==\"/images/delete\""]).unwrap();
    // The collection after the start is over.
    until("the first collection", || {
        fixture.metrics.encode().contains("containerd_gc_collections_total{status=\"success\"} 1")
    })
    .await;
    let expiry = timestamp::format(SystemTime::now() + Duration::from_millis(500));
    let labels = Labels::from([("containerd.io/gc.expire".to_owned(), expiry)]);
    metadata
        .update(move |tx| {
            tx.create_lease(&scope(), "l", &labels)?;
            let digest = Digest::parse(&format!("sha256:{:064x}", 1))?;
            let now = SystemTime::now();
            let image = store_metadata::Image {
                name: "i".to_owned(),
                labels,
                target: base_ident::Descriptor {
                    media_type: "application/x".to_owned(),
                    digest,
                    size: 1,
                    annotations: Labels::new(),
                },
                created_at: now,
                updated_at: now,
            };
            Ok(tx.create_image(&scope(), image, None)?)
        })
        .await
        .unwrap();
    let namespace = scope().namespace;
    until("the end of the lease", || {
        let gone = metadata.view(|tx| Ok(tx.lease(&namespace, "l").is_err()));
        gone.unwrap()
    })
    .await;
    let told = tokio::time::timeout(HANGS, events.next()).await.unwrap();
    assert_eq!(told.topic.as_str(), "/images/delete");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_is_collected_without_a_request() {
    let fixture = fixture().await;
    let config = SchedulerConfig { startup_delay: "0s".to_owned(), ..SchedulerConfig::default() };
    let _scheduler = start(&fixture, &config);
    let native = fixture.stores.snapshotter(&scope(), "native").unwrap();
    let backend = fixture.stores.snapshots["native"].backend();
    for key in ["a", "b"] {
        native.prepare(key, "", Labels::new()).await.unwrap();
        native.remove(key).await.unwrap();
        for round in 0.. {
            if backend.list(&[]).await.unwrap().is_empty() {
                break;
            }
            assert!(round < 6000, "{key} stays");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
