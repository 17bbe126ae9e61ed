//! The names of buckets and keys.
//!
//! ```text
//! v1/
//!   version                                  zigzag varint
//!   <namespace>/
//!     labels/<key> = value
//!     images/<name>/                         image.rs
//!     containers/<id>/                       container.rs
//!     snapshots/<snapshotter>/<key>/         snapshot.rs; sequence: backend keys
//!     content/blob/<digest>/                 blob.rs
//!     content/ingests/<ref>/                 ingest.rs; sequence: backend refs
//!     sandboxes/<id>/                        sandbox.rs
//!     leases/<id>/                           lease.rs
//! <namespace>/
//!   sandboxes/<id>/                          sandbox.rs, below version 4
//! ```

/// The version of the schema that a new file gets.
pub const VERSION: i64 = 4;

/// The version that files of older daemons are brought to, and stay at.
///
/// COMPAT: containerd 1.7 looks for sandboxes where version 3 has them, whatever the file's version
/// is. It finds them again if its file has not been moved on; containerd 2.x moves it on by itself.
pub(crate) const KEPT: i64 = 3;

pub(crate) const ROOT: &[u8] = b"v1";
pub(crate) const DB_VERSION: &[u8] = b"version";

pub(crate) const LABELS: &[u8] = b"labels";
pub(crate) const IMAGES: &[u8] = b"images";
pub(crate) const CONTAINERS: &[u8] = b"containers";
pub(crate) const SNAPSHOTS: &[u8] = b"snapshots";
pub(crate) const CONTENT: &[u8] = b"content";
pub(crate) const BLOB: &[u8] = b"blob";
pub(crate) const INGESTS: &[u8] = b"ingests";
/// Flat links of versions before 2.
pub(crate) const INGEST: &[u8] = b"ingest";
pub(crate) const SANDBOXES: &[u8] = b"sandboxes";
pub(crate) const LEASES: &[u8] = b"leases";

pub(crate) const ANNOTATIONS: &[u8] = b"annotations";
pub(crate) const CHILDREN: &[u8] = b"children";
pub(crate) const CREATED_AT: &[u8] = b"createdat";
pub(crate) const DIGEST: &[u8] = b"digest";
pub(crate) const EXPECTED: &[u8] = b"expected";
pub(crate) const EXPIRE_AT: &[u8] = b"expireat";
pub(crate) const EXTENSIONS: &[u8] = b"extensions";
pub(crate) const IMAGE: &[u8] = b"image";
pub(crate) const MEDIA_TYPE: &[u8] = b"mediatype";
pub(crate) const NAME: &[u8] = b"name";
pub(crate) const OPTIONS: &[u8] = b"options";
pub(crate) const PARENT: &[u8] = b"parent";
pub(crate) const REF: &[u8] = b"ref";
pub(crate) const RUNTIME: &[u8] = b"runtime";
pub(crate) const SANDBOXER: &[u8] = b"sandboxer";
pub(crate) const SANDBOX_ID: &[u8] = b"sandboxid";
pub(crate) const SIZE: &[u8] = b"size";
/// COMPAT: the only key in camel case.
pub(crate) const SNAPSHOT_KEY: &[u8] = b"snapshotKey";
pub(crate) const SNAPSHOTTER: &[u8] = b"snapshotter";
pub(crate) const SPEC: &[u8] = b"spec";
pub(crate) const TARGET: &[u8] = b"target";
pub(crate) const UPDATED_AT: &[u8] = b"updatedat";
