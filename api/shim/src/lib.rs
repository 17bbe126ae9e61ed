//! The wire types that a shim needs: messages, ttrpc services, type URLs.
//!
//! Every message is made from the descriptions in `api/proto`; maps are sorted maps, so that one
//! message has one encoding. The modules are named by subject, not by protobuf package:
//!
//! | module | protobuf package |
//! | --- | --- |
//! | [`types`] | `containerd.types` |
//! | [`process`] | `containerd.v1.types` |
//! | [`events`] | `containerd.events`, and the image events of `containerd.services.images.v1` |
//! | [`task`] | `containerd.task.v3`, on the wire also `containerd.task.v2` |
//! | [`sandbox`] | `containerd.runtime.sandbox.v1` |
//! | [`bootstrap`] | `containerd.runtime.bootstrap.v1` |
//! | [`ttrpc_events`] | `containerd.services.events.ttrpc.v1` |
//! | [`runc`] | `containerd.runc.v1` |
//! | [`linux_runc`] | `containerd.linux.runc` |
//! | [`runtimeoptions`] | `runtimeoptions.v1` |
//! | [`cgroups`] | `io.containerd.cgroups.v1`, `io.containerd.cgroups.v2` |
//!
//! Each service has a trait (`Task`), a `TaskServer` that makes it an [`api_ttrpc::Service`], and a
//! `TaskClient` over an [`api_ttrpc::Client`].
//!
//! Nothing here fails but the decoding in [`typeurl`], with [`typeurl::TypeUrlError`].

pub mod typeurl;

pub use prost::{Message, Name};
pub use prost_types::{Any, Duration, Timestamp};

/// The modules as their packages nest.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/shim.rs"));
}

pub use generated::containerd::types;

pub use generated::containerd::v1::types as process;

/// Events, as they travel in [`types::Envelope`], and their topics.
pub mod events {
    pub use super::generated::containerd::events::*;
    pub use super::generated::containerd::services::images::v1::*;
}

/// The service of a shim: tasks and their processes.
pub mod task {
    pub use super::generated::containerd::task::v3::*;

    /// The service's name in version 2. The messages are the same as in version 3.
    pub const SERVICE_V2: &str = "containerd.task.v2.Task";
    /// The service's name in version 3.
    pub const SERVICE_V3: &str = TASK_SERVICE;
}

pub use generated::containerd::runtime::sandbox::v1 as sandbox;

pub use generated::containerd::runtime::bootstrap::v1 as bootstrap;

pub use generated::containerd::services::events::ttrpc::v1 as ttrpc_events;

pub use generated::containerd::runc::v1 as runc;

pub use generated::containerd::linux::runc as linux_runc;

pub use generated::runtimeoptions::v1 as runtimeoptions;

/// Metrics of control groups, both versions.
pub mod cgroups {
    pub use super::generated::io::containerd::cgroups::{v1, v2};
}

/// `google.rpc`.
pub mod rpc {
    pub use api_ttrpc::Status;
}
