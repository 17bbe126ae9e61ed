//! What differs that apply layers have in common: the blob as a stream, on a thread that may block,
//! with an end to it if nobody waits any more.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base_errors::{Error, Result, ResultExt as _};
use base_ident::Descriptor;
use store_content::{ContentReader, Store};

use crate::apply::ApplyResult;
use crate::media;

/// Runs `work` with the blob of `descriptor` and a flag that says that it shall end early.
///
/// CANCEL: a dropped call sets the flag, and does not wait for `work` to see it.
///
/// # Errors
/// NotFound for the blob; those of `work`.
pub(crate) async fn with_blob<T: Send + 'static>(
    content: &dyn Store,
    descriptor: &Descriptor,
    work: impl FnOnce(BlobReader, &AtomicBool) -> Result<T> + Send + 'static,
) -> Result<T> {
    let reader = content
        .reader(&descriptor.digest)
        .await
        .context("failed to get reader from content store")?;
    let cancel = CancelOnDrop::default();
    let flag = Arc::clone(&cancel.0);
    blocking(move || work(BlobReader { reader, offset: 0 }, &flag)).await
}

/// What an apply answers: the uncompressed tar.
pub(crate) fn uncompressed(applied: ApplyResult) -> Descriptor {
    Descriptor {
        media_type: media::OCI_LAYER.to_owned(),
        digest: applied.diff_id,
        size: applied.size,
        annotations: std::collections::BTreeMap::new(),
    }
}

/// Runs what blocks outside of the reactor.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => Err(Error::internal(error.to_string())),
    }
}

/// A blob as a stream.
pub(crate) struct BlobReader {
    reader: Arc<dyn ContentReader>,
    offset: u64,
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.reader.read_at(buffer, self.offset)?;
        self.offset += length as u64;
        Ok(length)
    }
}

/// Tells the working thread that nobody waits for it any more.
#[derive(Default)]
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
