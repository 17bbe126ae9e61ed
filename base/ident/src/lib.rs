//! Validated values: what a client may call things, and how it may ask for them.
//!
//! Types: [`Namespace`], [`Digest`], [`Descriptor`], [`Labels`], [`filter::Filter`]. Functions that validate
//! give an [`IdentError`], whose texts are containerd's, because clients match on them. Law: a
//! value of one of these types has been validated; nothing else in the project checks again.

pub mod digest;
mod field;
pub mod filter;
mod identifier;
mod labels;
mod namespace;
pub mod timestamp;

pub use digest::{Algorithm, Digest};
pub use field::{FieldPath, apply_label};
pub use identifier::{IdentError, MAX_IDENTIFIER, validate_identifier};
pub use labels::{Labels, MAX_LABEL, validate_label, validate_labels};
pub use namespace::Namespace;

/// A reference to content: what it is, which bytes, how many (OCI image spec, descriptor).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Media type of the content.
    pub media_type: String,
    /// Digest of the bytes.
    pub digest: Digest,
    /// Size in bytes.
    pub size: u64,
    /// Free annotations.
    pub annotations: std::collections::BTreeMap<String, String>,
}
