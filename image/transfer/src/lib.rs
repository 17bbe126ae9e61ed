//! The one pipeline for import, export, tag and unpack, with progress.
//!
//! [`Transferrer`] moves images between archives, the content store, the image records and
//! snapshotters. [`ImageStoreOptions`] say under which names and for which platforms images are
//! kept, [`Progress`] tells how far it is, [`ImageChange`] which records were written.
//!
//! Errors: [`TransferError`] and those of the stores, as `base_errors::Error`.
//!
//! Laws: an image record is written last, when its content is durable and its snapshots are
//! committed; a failed transfer leaves no record and no snapshot, and what content it has brought
//! is held by nothing. What an archive says is untrusted: digests are checked against the bytes,
//! documents are bounded.

mod document;
mod error;
mod export;
mod import;
mod lease;
mod names;
mod platform;
mod progress;
mod reference;
mod transferrer;
mod unpack;
mod walk;

pub use document::{
    Config, Index, Manifest, OciDescriptor, is_config, is_index, is_manifest, media_type,
};
pub use error::TransferError;
pub use export::ExportOptions;
pub use import::ImportOptions;
pub use names::{ImageReference, ImageStoreOptions, UnpackConfiguration};
pub use platform::{Matcher, Platform};
pub use progress::{ImageChange, ImageListener, Progress, ProgressSender};
pub use reference::{familiar, normalize, reference_object};
pub use transferrer::{Transferrer, TransferrerConfig, Unpacker};
pub use unpack::{UnpackOutcome, chain_ids};
