//! The Rust client of the API, used by ctr and by the tests.
//!
//! [`Client`] connects to the socket of a daemon, ours or containerd's, and hands out the generated
//! clients of all services with the namespace (and a lease) in their headers. Above them:
//! [`content`] reads and writes blobs, [`image`] finds the manifest, configuration and chain id of an
//! image, [`disk`] says where space is, [`transfer`] imports and exports through the transfer
//! service, [`container`] makes containers from images, [`task`] runs them with streams of
//! [`stdio`], [`terminal`] is the caller's own terminal.
//!
//! Errors: [`base_errors::Error`] with the class that the daemon gave.
//!
//! Laws: what a call makes on the way is under a lease until it is referred to; a failed call takes
//! back what it made. Contents are checked against what is asked for only by the daemon.

mod connection;
pub mod container;
pub mod content;
mod defaults;
pub mod disk;
pub mod image;
pub mod stdio;
pub mod task;
pub mod terminal;
pub mod transfer;

pub use connection::{CONNECT_TIMEOUT, Client, Connect, Headers, MAX_FRAME, Service};
pub use defaults::{RUNTIME_LABEL, SNAPSHOTTER_LABEL};

/// The snapshotter where nobody names one, nor a label of the namespace does.
pub const DEFAULT_SNAPSHOTTER: &str = "overlayfs";

/// The runtime where nobody names one, nor a label of the namespace does.
pub const DEFAULT_RUNTIME: &str = "io.containerd.runc.v2";

use base_errors::{Error, Result};

/// The body of an answer, or the daemon's error.
pub(crate) fn body<T>(answer: std::result::Result<tonic::Response<T>, tonic::Status>) -> Result<T> {
    answer.map(tonic::Response::into_inner).map_err(api_grpc::status::from_status)
}

/// An answer lacks what it always has.
pub(crate) fn missing(what: &str) -> Error {
    Error::internal(format!("the daemon's answer has no {what}"))
}
