//! Blobs: reading, and writing with resumption.

use std::collections::BTreeMap;

use api_grpc::content::{
    InfoRequest, ReadContentRequest, Status as Ingest, WriteAction, WriteContentRequest,
    WriteContentResponse,
};
use base_errors::{Error, Result};
use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use crate::{Client, body, missing};

pub use api_grpc::content::Info;

/// The most that [`Client::read_blob`] takes into memory; manifests and configurations are smaller.
const MAX_SMALL_BLOB: i64 = 64 << 20;

/// Bytes of one message of a write: large enough that its cost does not count.
const CHUNK: usize = 1 << 20;

/// Messages of a write that wait to be sent.
const QUEUE: usize = 4;

impl Client {
    /// What is known of a blob.
    ///
    /// # Errors
    /// NotFound.
    pub async fn blob_info(&self, digest: &str) -> Result<Info> {
        let request = InfoRequest { digest: digest.to_owned() };
        body(self.contents().info(request).await)?.info.ok_or_else(|| missing("info"))
    }

    /// The bytes of a blob, in their order, from `offset` on; all of them are checked by nobody.
    ///
    /// # Errors
    /// NotFound.
    pub async fn blob_stream(
        &self,
        digest: &str,
        offset: i64,
    ) -> Result<impl Stream<Item = Result<Bytes>> + use<>> {
        let request = ReadContentRequest { digest: digest.to_owned(), offset, size: 0 };
        let stream = body(self.contents().read(request).await)?;
        Ok(stream.map(|answer| answer.map(|part| part.data).map_err(api_grpc::status::from_status)))
    }

    /// A small blob as a whole.
    ///
    /// # Errors
    /// NotFound; ResourceExhausted if it is too large for memory.
    pub async fn read_blob(&self, digest: &str) -> Result<Bytes> {
        let too_large = || {
            Error::resource_exhausted(format!(
                "blob {digest} is larger than {MAX_SMALL_BLOB} bytes"
            ))
        };
        let limit = usize::try_from(MAX_SMALL_BLOB).unwrap_or(usize::MAX);
        let mut stream = std::pin::pin!(self.blob_stream(digest, 0).await?);
        let first = stream.try_next().await?.unwrap_or_default();
        let mut rest = BytesMut::new();
        while let Some(part) = stream.try_next().await? {
            if rest.is_empty() {
                rest.extend_from_slice(&first);
            }
            if rest.len() + part.len() > limit {
                return Err(too_large());
            }
            rest.extend_from_slice(&part);
        }
        if first.len() > limit {
            return Err(too_large());
        }
        Ok(if rest.is_empty() { first } else { rest.freeze() })
    }

    /// Opens the ingest `reference`, or takes up one that was left. `total` bytes are expected (0
    /// if unknown), with the digest `expected` (empty if unknown).
    ///
    /// # Errors
    /// AlreadyExists if the blob is there; Unavailable if somebody else writes the ingest.
    pub async fn write_blob(&self, reference: &str, total: i64, expected: &str) -> Result<Writer> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let request = WriteContentRequest {
            action: WriteAction::Stat.into(),
            r#ref: reference.to_owned(),
            total,
            expected: expected.to_owned(),
            ..WriteContentRequest::default()
        };
        sender.send(request).await.map_err(|_| closed())?;
        let answers = body(self.contents().write(ReceiverStream::new(receiver)).await)?;
        let mut writer = Writer { sender, answers, offset: 0, total, digest: String::new() };
        writer.answer().await?;
        Ok(writer)
    }

    /// Writes all of `source` and commits it; gives the digest. A partial ingest is continued: as
    /// many bytes of the source are passed over.
    ///
    /// # Errors
    /// As [`Client::write_blob`] and [`Writer::commit`]; OutOfRange if the source is shorter than
    /// `total`.
    pub async fn ingest(
        &self,
        reference: &str,
        mut source: impl AsyncRead + Unpin,
        total: i64,
        expected: &str,
        labels: BTreeMap<String, String>,
    ) -> Result<String> {
        let mut writer = self.write_blob(reference, total, expected).await?;
        let mut passed = usize::try_from(writer.offset()).unwrap_or(0);
        let mut buffer = BytesMut::with_capacity(CHUNK);
        let mut read: i64 = 0;
        loop {
            buffer.reserve(CHUNK);
            while buffer.len() < CHUNK && source.read_buf(&mut buffer).await? != 0 {}
            if buffer.is_empty() {
                break;
            }
            let full = buffer.len() >= CHUNK;
            let mut part = buffer.split().freeze();
            read += i64::try_from(part.len()).unwrap_or(i64::MAX);
            let skip = passed.min(part.len());
            passed -= skip;
            drop(part.split_to(skip));
            writer.write(part).await?;
            if !full {
                break;
            }
        }
        if total > 0 && read != total {
            let text = format!("short read: expected {total} bytes but got {read}: unexpected EOF");
            return Err(Error::unknown(text));
        }
        writer
            .commit(total, expected, labels)
            .await
            .map_err(|error| error.context(format!("failed commit on ref {reference:?}")))
    }

    /// The ingests that are under way.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn ingests(&self, filters: Vec<String>) -> Result<Vec<Ingest>> {
        let request = api_grpc::content::ListStatusesRequest { filters };
        Ok(body(self.contents().list_statuses(request).await)?.statuses)
    }
}

/// An open ingest. Dropping it leaves what was written, for a later writer of the same reference.
#[derive(Debug)]
pub struct Writer {
    sender: mpsc::Sender<WriteContentRequest>,
    answers: tonic::Streaming<WriteContentResponse>,
    offset: i64,
    total: i64,
    digest: String,
}

impl Writer {
    /// The bytes that are written.
    #[must_use]
    pub fn offset(&self) -> i64 {
        self.offset
    }

    /// The digest of the bytes so far, as the daemon last told it.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Adds bytes.
    ///
    /// # Errors
    /// The daemon's; then the ingest is as it was.
    pub async fn write(&mut self, mut data: Bytes) -> Result<()> {
        while !data.is_empty() {
            let part = data.split_to(data.len().min(CHUNK));
            let request = WriteContentRequest {
                action: WriteAction::Write.into(),
                offset: self.offset,
                data: part,
                ..WriteContentRequest::default()
            };
            self.ask(request).await?;
        }
        Ok(())
    }

    /// Makes the blob of what was written; gives its digest. `size` and `expected` are checked
    /// where they are not empty.
    ///
    /// # Errors
    /// FailedPrecondition if size or digest differ, AlreadyExists if the blob is there.
    pub async fn commit(
        mut self,
        size: i64,
        expected: &str,
        labels: BTreeMap<String, String>,
    ) -> Result<String> {
        let request = WriteContentRequest {
            action: WriteAction::Commit.into(),
            total: if size > 0 { size } else { self.total },
            offset: self.offset,
            expected: expected.to_owned(),
            labels,
            ..WriteContentRequest::default()
        };
        self.ask(request).await.map_err(|error| error.context("commit failed"))?;
        Ok(self.digest)
    }

    async fn ask(&mut self, request: WriteContentRequest) -> Result<()> {
        // A closed queue means that the daemon has answered with an error: that is what to tell.
        let _ = self.sender.send(request).await;
        self.answer().await
    }

    async fn answer(&mut self) -> Result<()> {
        let answer = self.answers.message().await.map_err(api_grpc::status::from_status)?;
        let answer = answer.ok_or_else(closed)?;
        self.offset = answer.offset;
        self.digest = answer.digest;
        Ok(())
    }
}

fn closed() -> Error {
    Error::unavailable("the daemon closed the write")
}
