//! Namespaced records, leases, references and GC marking over bolt.
//!
//! `meta.db` is the truth about what exists: containers, images, blobs, ingests, snapshots, leases,
//! sandboxes and namespaces. This crate owns its bytes (containerd's, both ways) and its rules; it
//! knows nothing of the stores behind the records.
//!
//! * [`Metadata`] is a cheap handle. [`Metadata::view`] reads a snapshot, [`Metadata::update`] writes.
//! * [`View`] and [`Update`] have the operations, one file per object; [`Scope`] says in which
//!   namespace and under which lease a call acts.
//! * [`Metadata::collect`] finds and removes records that nothing needs ([`Collection`]).
//! * [`Hold`] keeps a thing of a backend alive until its record is written.
//!
//! Errors are [`MetadataError`]; its texts are containerd's. The laws:
//!
//! * A closure of an update does nothing but read and write records: no RPC, no mount, no process.
//! * A record and its entry in the lease of the call are written by the same commit.
//! * A record that cannot be read costs itself: lists leave it out and log it, `get` gives DataLoss.
//! * Keys in backends come from bucket sequences, which never go back.

mod blob;
mod container;
mod encode;
mod error;
mod gc;
mod hold;
mod image;
mod ingest;
mod lease;
mod metadata;
mod migrate;
mod namespace;
mod record;
mod sandbox;
mod schema;
mod scope;
mod snapshot;

pub use blob::Blob;
pub use container::{Container, Runtime};
pub use error::{MetadataError, Object};
pub use gc::{Collection, Removed, Resource};
pub use hold::{Held, Hold};
pub use image::{Image, ImageChange};
pub use ingest::{Committed, INGEST_LIFE, Ingest, Opened};
pub use lease::{Lease, LeaseResource};
pub use metadata::{Metadata, Mutation, Options, Update, View};
pub use namespace::NamespaceRecord;
pub use prost_types::Any;
pub use sandbox::Sandbox;
pub use schema::VERSION;
pub use scope::Scope;
pub use snapshot::{NewCommit, NewSnapshot, Reserved, ReservedCommit, SnapshotRecord};
pub use store_bolt::value::ZERO_TIME_SECONDS;

/// A result whose error is a [`MetadataError`].
pub type Result<T, E = MetadataError> = std::result::Result<T, E>;
