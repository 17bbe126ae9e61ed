//! One thin module per containerd gRPC service: decode, call, encode.
//!
//! No logic lives here: records are `store_metadata`'s, bytes `store_content`'s, tasks the
//! supervisor's. What is common stands in [`backends`] (what the services call), `request` (headers)
//! and `convert` (messages to values and back). Errors become statuses in `api_grpc::status` alone.

pub mod backends;
mod containers;
mod content;
mod convert;
mod deprecation;
mod diff;
mod event_types;
mod events;
mod images;
mod introspection;
mod leases;
pub mod metering;
mod mounts;
mod namespaces;
mod notify;
mod operations;
mod request;
mod sandbox;
pub mod server;
mod snapshots;
mod streaming;
mod tasks;
mod transfer;
pub mod ttrpc_events;
mod version;

pub use backends::{Backends, Collector, Stores};
pub use containers::ContainersService;
pub use content::{ContentRoutes, ContentService};
pub use deprecation::{Deprecated, Deprecations};
pub use diff::DiffService;
pub use event_types::EventTypes;
pub use events::EventsService;
pub use images::ImagesService;
pub use introspection::{IntrospectionService, PluginReport};
pub use leases::LeasesService;
pub use mounts::MountsService;
pub use namespaces::NamespacesService;
pub use notify::Notifier;
pub use operations::OperationsService;
pub use sandbox::{SandboxControllerService, SandboxStoreService};
pub use snapshots::SnapshotsService;
pub use streaming::{StreamingService, Streams};
pub use tasks::TasksService;
pub use transfer::TransferService;
pub use version::VersionService;
