//! Plugins that serve gRPC: one for each service.

use std::rc::Rc;

use api_grpc::containers::containers_server::ContainersServer;
use api_grpc::diff::diff_server::DiffServer;
use api_grpc::events::events_server::EventsServer;
use api_grpc::images::images_server::ImagesServer;
use api_grpc::introspection::introspection_server::IntrospectionServer;
use api_grpc::leases::leases_server::LeasesServer;
use api_grpc::mounts::mounts_server::MountsServer;
use api_grpc::namespaces::namespaces_server::NamespacesServer;
use api_grpc::sandbox::controller_server::ControllerServer;
use api_grpc::sandbox::store_server::StoreServer;
use api_grpc::snapshots::snapshots_server::SnapshotsServer;
use api_grpc::streaming::streaming_server::StreamingServer;
use api_grpc::tasks::tasks_server::TasksServer;
use api_grpc::transfer::transfer_server::TransferServer;
use api_grpc::version::version_server::VersionServer;
use base_plugin::{Graph, Registration, types};
use image_transfer::Transferrer;
use runtime_event::Exchange;
use runtime_supervisor::Supervisor;
use serde::{Deserialize, Serialize};
use service_grpc::server::GrpcService;
use service_grpc::{
    Backends, ContainersService, ContentRoutes, ContentService, DiffService, EventTypes,
    EventsService, ImagesService, IntrospectionService, LeasesService, MountsService,
    NamespacesService, SandboxControllerService, SandboxStoreService, SnapshotsService,
    StreamingService, Streams, TasksService, TransferService, VersionService,
};
use store_mount::MountManager;

use super::Surroundings;

pub(super) const EVENTS: &str = "io.containerd.grpc.v1.events";

/// `[plugins."io.containerd.grpc.v1.events"]`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EventsConfig {
    /// `1.0`: subscribers get only types that clients of 1.0 know, which end at others. Empty: all.
    pub only_types_of: String,
}

/// A plugin's instance that adds `server`, with the configured sizes, to the routes.
macro_rules! serve {
    ($config:expr, $server:ident, $service:expr) => {{
        let server = $server::new($service)
            .max_decoding_message_size($config.max_recv_message_size)
            .max_encoding_message_size($config.max_send_message_size);
        Ok(GrpcService::new(server))
    }};
}

/// Registers the service `$id` over the backends of the plugin `$source`.
macro_rules! store_service {
    ($graph:expr, $around:expr, $id:literal, $kind:expr, $source:literal, $server:ident, $service:ident) => {{
        let config = $around.config.grpc.clone();
        $graph.register(Registration::new(types::GRPC, $id, &[$kind], move |context| {
            let backends = context.get::<Backends>($kind, $source)?;
            serve!(config, $server, $service((*backends).clone()))
        }));
    }};
}

pub(super) fn register(graph: &mut Graph, surroundings: &Rc<Surroundings>) {
    store_service!(
        graph,
        surroundings,
        "containers",
        types::SERVICE,
        "containers-service",
        ContainersServer,
        ContainersService
    );
    store_service!(
        graph,
        surroundings,
        "content",
        types::SERVICE,
        "content-service",
        ContentRoutes,
        ContentService
    );
    store_service!(
        graph,
        surroundings,
        "diff",
        types::SERVICE,
        "diff-service",
        DiffServer,
        DiffService
    );
    store_service!(
        graph,
        surroundings,
        "images",
        types::SERVICE,
        "images-service",
        ImagesServer,
        ImagesService
    );
    store_service!(
        graph,
        surroundings,
        "leases",
        types::LEASE,
        "manager",
        LeasesServer,
        LeasesService
    );
    store_service!(
        graph,
        surroundings,
        "namespaces",
        types::SERVICE,
        "namespaces-service",
        NamespacesServer,
        NamespacesService
    );
    store_service!(
        graph,
        surroundings,
        "sandboxes",
        types::SANDBOX_STORE,
        "local",
        StoreServer,
        SandboxStoreService
    );
    store_service!(
        graph,
        surroundings,
        "snapshots",
        types::SERVICE,
        "snapshots-service",
        SnapshotsServer,
        SnapshotsService
    );
    with_runtime(graph, surroundings);
    alone(graph, surroundings);
}

/// Services that need tasks, events or streams.
fn with_runtime(graph: &mut Graph, surroundings: &Rc<Surroundings>) {
    let config = surroundings.config.grpc.clone();
    let deprecations = surroundings.deprecations.clone();
    let requires = &[types::SERVICE, super::mounts::MANAGER];
    graph.register(Registration::new(types::GRPC, "tasks", requires, move |context| {
        let parts = context.get::<(Backends, Supervisor)>(types::SERVICE, "tasks-service")?;
        let (backends, supervisor) = (*parts).clone();
        let mounts = context.get::<MountManager>(super::mounts::MANAGER, "bolt").ok();
        let mounts = mounts.map(|manager| (*manager).clone());
        let deprecations = deprecations.clone();
        serve!(config, TasksServer, TasksService { backends, supervisor, mounts, deprecations })
    }));
    let config = surroundings.config.grpc.clone();
    let around = Rc::clone(surroundings);
    let requires = &[types::EVENT, types::RUNTIME];
    graph.register(Registration::new(types::GRPC, "events", requires, move |context| {
        let table: EventsConfig = around.tables.take(EVENTS)?;
        let types = EventTypes::parse(&table.only_types_of)?;
        let exchange = (*context.single::<Exchange>(types::EVENT)?).clone();
        let supervisor = (*context.single::<Supervisor>(types::RUNTIME)?).clone();
        serve!(config, EventsServer, EventsService { exchange, supervisor, types })
    }));
    let config = surroundings.config.grpc.clone();
    graph.register(Registration::new(
        types::GRPC,
        "streaming",
        &[types::STREAMING],
        move |context| {
            let streams = (*context.single::<Streams>(types::STREAMING)?).clone();
            serve!(config, StreamingServer, StreamingService(streams))
        },
    ));
    let config = surroundings.config.grpc.clone();
    let requires = &[types::TRANSFER, types::STREAMING];
    graph.register(Registration::new(types::GRPC, "transfer", requires, move |context| {
        let transferrer = (*context.single::<Transferrer>(types::TRANSFER)?).clone();
        let streams = (*context.single::<Streams>(types::STREAMING)?).clone();
        serve!(config, TransferServer, TransferService { transferrer, streams })
    }));
}

/// Services that stand by themselves.
fn alone(graph: &mut Graph, surroundings: &Rc<Surroundings>) {
    let config = surroundings.config.grpc.clone();
    graph.register(Registration::new(types::GRPC, "version", &[], move |_| {
        let version = crate::cli::VERSION.to_owned();
        let revision = crate::cli::REVISION.to_owned();
        serve!(config, VersionServer, VersionService { version, revision })
    }));
    let config = surroundings.config.grpc.clone();
    let requires = &[super::mounts::MANAGER];
    graph.register(Registration::new(types::GRPC, "mounts", requires, move |context| {
        let manager = context.get::<MountManager>(super::mounts::MANAGER, "bolt")?;
        serve!(config, MountsServer, MountsService((*manager).clone()))
    }));
    let config = surroundings.config.grpc.clone();
    graph.register(Registration::new(types::GRPC, "sandbox-controllers", &[], move |_| {
        serve!(config, ControllerServer, SandboxControllerService)
    }));
    graph.register(Registration::new(types::GRPC, "healthcheck", &[], |_| {
        Ok(GrpcService::new(api_grpc::health::server()))
    }));
    let config = surroundings.config.grpc.clone();
    let report = surroundings.report.clone();
    let deprecations = surroundings.deprecations.clone();
    graph.register(Registration::new(
        types::GRPC,
        "introspection",
        &[types::ALL],
        move |context| {
            let uuid_file = context.root.join("uuid");
            let service = IntrospectionService { report, uuid_file, deprecations };
            serve!(config, IntrospectionServer, service)
        },
    ));
}
