//! Applying a layer: inflate on one thread, hash and unpack on another.

mod applier;
mod error;
mod lower;
mod remove;
mod stream;
mod target;
mod tree;
mod whiteout;

use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};

use base_ident::Digest;

use crate::media::Compression;
use crate::tar::TarReader;

pub use error::ApplyError;
pub use stream::decompress;
pub use target::{Target, Whiteouts};

pub(crate) use stream::with_inflated;
pub(crate) use tree::open_below;

use applier::Applier;

/// What an applied layer was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApplyResult {
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// Bytes of the uncompressed tar.
    pub size: u64,
}

/// Applies the layer that `source` holds to the tree of `target`. Blocks: one thread of its own
/// inflates, the caller's hashes and unpacks.
///
/// `cancel` is looked at with each buffer; once it is true the call ends with
/// [`ApplyError::Cancelled`]. After an error the tree is in between, and of no use.
///
/// # Errors
/// [`ApplyError`]; [`ApplyError::NeedsParent`] for a target that said that its parent comes later.
pub fn apply_layer(
    source: impl Read + Send,
    compression: Compression,
    target: &Target,
    cancel: &AtomicBool,
) -> Result<ApplyResult, ApplyError> {
    let outcome = stream::with_inflated(source, compression, cancel, |stream| {
        let mut reader = TarReader::new(stream);
        Applier::open(target)?.apply(&mut reader)?;
        let mut stream = reader.into_inner();
        // What follows the archive belongs to the diff id.
        stream.drain()?;
        let (diff_id, size) = stream.finish()?;
        Ok(ApplyResult { diff_id, size })
    });
    match outcome {
        Err(_) if cancel.load(Ordering::Relaxed) => Err(ApplyError::Cancelled),
        outcome => outcome,
    }
}

/// Applies a plain tar from a buffered stream, on the caller's thread and without digests.
///
/// # Errors
/// [`ApplyError`]
pub fn apply_tar(source: impl std::io::BufRead, target: &Target) -> Result<(), ApplyError> {
    Applier::open(target)?.apply(&mut TarReader::new(source))
}
