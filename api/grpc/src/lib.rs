//! The gRPC services of containerd, with reflection and health.
//!
//! Servers and clients of every service of the daemon, of the shim services that speak gRPC, and of
//! the API of 0.2 ([`v0`]). Messages that shims share live in `api_shim`. Maps are sorted maps;
//! file contents ([`content::WriteContentRequest`], [`content::ReadContentResponse`],
//! [`transfer_types::Data`]) are [`prost::bytes::Bytes`], not copied.
//!
//! Servers are made by `new`, and must be given [`MAX_MESSAGE_SIZE`] for both directions. Errors
//! become codes in [`status`], and nowhere else.

pub mod codec;
pub mod health;
mod reflection;
pub mod status;

pub use reflection::{
    EVERY_DESCRIPTOR_SET, FILE_DESCRIPTOR_SET, SERVICES, reflection_v1, reflection_v1alpha,
};

/// Most bytes of one message, in both directions, as in containerd.
pub const MAX_MESSAGE_SIZE: usize = 16 << 20;

/// Header of every namespaced call.
pub const NAMESPACE_HEADER: &str = "containerd-namespace";
/// Header that puts what a call makes under a lease.
pub const LEASE_HEADER: &str = "containerd-lease";
/// Key of the namespace in the metadata of a ttrpc call.
pub const NAMESPACE_TTRPC_HEADER: &str = "containerd-namespace-ttrpc";

/// The modules as their packages nest.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, clippy::restriction)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/grpc.rs"));
}

use generated::containerd::services;

pub use services::containers::v1 as containers;
pub use services::content::v1 as content;
pub use services::diff::v1 as diff;
pub use services::events::v1 as events;
pub use services::images::v1 as images;
pub use services::introspection::v1 as introspection;
pub use services::leases::v1 as leases;
pub use services::mounts::v1 as mounts;
pub use services::namespaces::v1 as namespaces;
pub use services::sandbox::v1 as sandbox;
pub use services::snapshots::v1 as snapshots;
pub use services::streaming::v1 as streaming;
pub use services::tasks::v1 as tasks;
pub use services::transfer::v1 as transfer;
pub use services::version::v1 as version;

pub use generated::containerd::types::transfer as transfer_types;

/// What the daemon is doing just now; ours alone.
pub use generated::ironhull::operations::v1 as operations;

/// The API of containerd 0.2: package `types`, service `types.API`.
pub use generated::types as v0;

/// The task service of a shim that speaks gRPC, version 2. Messages: `api_shim::task`.
pub use generated::containerd::task::v2 as task_v2;

/// The task service of a shim that speaks gRPC, version 3. Messages: `api_shim::task`.
pub use generated::containerd::task::v3 as task_v3;

/// The sandbox service of a shim that speaks gRPC. Messages: `api_shim::sandbox`.
pub use generated::containerd::runtime::sandbox::v1 as runtime_sandbox;
