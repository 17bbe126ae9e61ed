//! The content store trait, its test suite, the local store, the namespaced store, the proxy.
//!
//! Content is bytes under their digest. It is written through an *ingest* that has a client's
//! reference as its name, and becomes content when it is committed.

mod store;

pub use store::{
    ContentReader, Info, IngestStatus, Store, UpdateField, WriteOptions, Writer, read_all,
};
