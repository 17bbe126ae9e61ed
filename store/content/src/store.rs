//! What every content store can do.

use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use base_errors::{Error, Result};
use base_ident::{Digest, Labels};
use bytes::Bytes;

/// What is known of a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// The blob.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// When it was committed.
    pub created_at: SystemTime,
    /// When its labels were last changed.
    pub updated_at: SystemTime,
    /// Its labels; a backend store without labels leaves them empty.
    pub labels: Labels,
}

/// The state of an ingest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngestStatus {
    /// The client's reference.
    pub reference: String,
    /// Bytes received so far.
    pub offset: u64,
    /// Bytes expected in all, zero if that is unknown.
    pub total: u64,
    /// The expected digest, if the writer gave one.
    pub expected: Option<Digest>,
    /// When the ingest began.
    pub started_at: SystemTime,
    /// When it last received bytes.
    pub updated_at: SystemTime,
}

/// How a writer is opened.
#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    /// The name of the ingest; an unfinished one of the same name is resumed.
    pub reference: String,
    /// Bytes expected in all, zero if that is unknown.
    pub total: u64,
    /// The digest that the bytes shall have. Content that exists already gives AlreadyExists.
    pub expected: Option<Digest>,
}

/// A field of [`Info`] that a client may change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpdateField {
    /// All labels are replaced.
    Labels,
    /// One label is set, or removed if it is empty or absent in the new info.
    Label(String),
}

/// A store of content. Implementations: local, namespaced (records over a local store), proxy.
///
/// All methods may be called from many tasks at once. Errors are NotFound, AlreadyExists,
/// Unavailable (the reference is locked by another writer), FailedPrecondition, OutOfRange or
/// InvalidArgument as said; a full disk is ResourceExhausted.
#[async_trait]
pub trait Store: Send + Sync {
    /// What is known of a blob. NotFound: `content sha256:…: not found`.
    async fn info(&self, digest: &Digest) -> Result<Info>;

    /// Changes labels; `fields` empty replaces all labels. Gives the new info.
    async fn update(&self, info: &Info, fields: &[UpdateField]) -> Result<Info>;

    /// The blobs that match `filters` (filter language over `digest`, `size`, `labels.*`), all if
    /// there is none. In no particular order.
    async fn list(&self, filters: &[String]) -> Result<Vec<Info>>;

    /// Removes a blob (a namespaced store: the namespace's record of it).
    async fn delete(&self, digest: &Digest) -> Result<()>;

    /// Removes blobs, one after the other; gives what became of each, in the same order.
    async fn delete_all(&self, digests: &[Digest]) -> Vec<Result<()>> {
        let mut outcomes = Vec::with_capacity(digests.len());
        for digest in digests {
            outcomes.push(self.delete(digest).await);
        }
        outcomes
    }

    /// Opens a blob for reading.
    async fn reader(&self, digest: &Digest) -> Result<Arc<dyn ContentReader>>;

    /// The state of an ingest.
    async fn status(&self, reference: &str) -> Result<IngestStatus>;

    /// The states of the ingests that match `filters` (over `ref`).
    async fn list_statuses(&self, filters: &[String]) -> Result<Vec<IngestStatus>>;

    /// Gives up an ingest and removes what it holds.
    async fn abort(&self, reference: &str) -> Result<()>;

    /// Opens or resumes an ingest; it is locked until the writer is dropped.
    async fn writer(&self, options: WriteOptions) -> Result<Box<dyn Writer>>;
}

/// A blob that is open for reading.
///
/// The reading methods may block on the disk or on a peer: call them outside of the reactor.
pub trait ContentReader: Send + Sync {
    /// The size of the blob in bytes.
    fn size(&self) -> u64;

    /// Reads at `offset` into `buffer`; gives the number of bytes, zero only at the end.
    ///
    /// # Errors
    /// Those of the file or the peer.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize>;

    /// The file behind the blob, where there is one: for copies inside the kernel.
    fn file(&self) -> Option<&std::fs::File> {
        None
    }
}

/// An open ingest. Dropping it keeps the ingest for a later resume and unlocks its reference.
#[async_trait]
pub trait Writer: Send + Sync {
    /// Appends bytes.
    async fn write(&mut self, data: Bytes) -> Result<()>;

    /// The state now: offset, total, times.
    async fn status(&self) -> Result<IngestStatus>;

    /// The digest of the bytes received so far.
    fn digest(&self) -> Result<Digest>;

    /// Cuts the ingest to `size` bytes; only 0 must be supported.
    async fn truncate(&mut self, size: u64) -> Result<()>;

    /// Makes the bytes durable and turns them into content.
    ///
    /// `size` is checked unless it is zero, `expected` if it is given: a mismatch is
    /// FailedPrecondition. Content that exists already gives AlreadyExists, and the ingest is gone.
    async fn commit(
        &mut self,
        size: u64,
        expected: Option<&Digest>,
        labels: Labels,
    ) -> Result<Digest>;
}

/// The largest blob that [`read_all`] takes into memory: manifests, indexes and configs. The same
/// limit as containerd's for such documents.
const MAX_DOCUMENT: u64 = 8 << 20;

/// Reads a whole small blob, such as a manifest.
///
/// # Errors
/// NotFound, ResourceExhausted if it is larger than 8 MiB, those of the read.
pub async fn read_all(store: &dyn Store, digest: &Digest) -> Result<Bytes> {
    let reader = store.reader(digest).await?;
    if reader.size() > MAX_DOCUMENT {
        return Err(Error::resource_exhausted(format!(
            "content {digest}: {} bytes are too many for a document",
            reader.size()
        )));
    }
    let read = move || -> std::io::Result<Bytes> {
        let size = usize::try_from(reader.size()).map_err(std::io::Error::other)?;
        let mut buffer = vec![0; size];
        let mut filled = 0;
        while filled < buffer.len() {
            match reader.read_at(&mut buffer[filled..], filled as u64)? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                count => filled += count,
            }
        }
        Ok(Bytes::from(buffer))
    };
    tokio::task::spawn_blocking(read)
        .await
        .map_err(|error| Error::internal(error.to_string()))?
        .map_err(|error| Error::from(error).context(format!("content {digest}")))
}
