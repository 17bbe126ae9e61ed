//! The content store trait, its test suite, the local store, the namespaced store, the proxy.
//!
//! Content is bytes under their digest. It is written through an *ingest* that has a client's
//! reference as its name, and becomes content when it is committed.
//!
//! * [`Store`], [`Writer`], [`ContentReader`]: the traits; [`testsuite`] is their contract as code.
//! * [`LocalStore`]: a folder, in containerd's layout.
//! * [`NamespacedContent`], [`NamespacedStore`]: records of namespaces over a backend, and the sweep.
//! * [`ProxyStore`]: a store behind the gRPC service.
//! * [`Hasher`]: running digests.
//!
//! Errors: [`ContentError`], which meets others as `base_errors::Error`.
//!
//! Laws: a blob has its name only when its bytes are durable; a record names a blob only when its
//! name is durable; no transaction is held while a backend works.

mod error;
mod hasher;
mod local;
mod namespaced;
mod proxy;
mod select;
mod store;
pub mod testsuite;

pub use error::ContentError;
pub use hasher::Hasher;
pub use local::LocalStore;
pub use namespaced::{NamespacedContent, NamespacedStore, SharingPolicy, Swept};
pub use proxy::ProxyStore;
pub use store::{
    ContentReader, Info, IngestStatus, Store, UpdateField, WriteOptions, Writer, read_all,
};
