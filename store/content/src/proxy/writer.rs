//! Writing over the wire: one stream, one answer per request.

use api_grpc::content::content_client::ContentClient;
use api_grpc::content::{WriteAction, WriteContentRequest, WriteContentResponse};
use api_grpc::status::from_status;
use async_trait::async_trait;
use base_errors::{Error, Result};
use base_ident::{Digest, Labels};
use bytes::Bytes;
use futures_util::stream;
use tokio::sync::{Mutex, mpsc};
use tonic::Streaming;
use tonic::transport::Channel;

use super::Headers;
use super::convert::{size_from, size_to, time_from};
use crate::error::ContentError;
use crate::store::{IngestStatus, WriteOptions, Writer};

/// Bytes per message: as containerd's clients, far below the limit of a message.
const CHUNK: usize = 1 << 20;

/// An open ingest of a proxied store.
pub(super) struct ProxyWriter {
    reference: String,
    expected: Option<Digest>,
    exchange: Mutex<Exchange>,
}

/// The stream and what is known from its answers.
struct Exchange {
    /// `None` once closed.
    stream: Option<(mpsc::Sender<WriteContentRequest>, Streaming<WriteContentResponse>)>,
    /// True while an answer is owed: a call that was given up leaves the stream out of step.
    owed: bool,
    last: WriteContentResponse,
}

impl Exchange {
    async fn call(&mut self, request: WriteContentRequest) -> Result<()> {
        if self.owed {
            self.stream = None;
        }
        let (sender, answers) = self.stream.as_mut().ok_or(ContentError::Closed("write"))?;
        self.owed = true;
        // A failed send means that the peer has ended the stream: its answer says why.
        let sent = sender.send(request).await;
        let answer = answers.message().await.map_err(from_status);
        self.owed = false;
        match (answer, sent) {
            (Ok(Some(answer)), _) => {
                let digest = std::mem::take(&mut self.last.digest);
                self.last = answer;
                if self.last.digest.is_empty() {
                    self.last.digest = digest;
                }
                Ok(())
            }
            (Ok(None), _) => {
                self.stream = None;
                Err(Error::unavailable("content service ended the stream"))
            }
            (Err(error), _) => {
                self.stream = None;
                Err(error)
            }
        }
    }

    fn offset(&self) -> i64 {
        self.last.offset
    }

    fn digest(&self) -> Result<Digest> {
        match self.last.digest.as_str() {
            "" => Err(Error::failed_precondition("content service has not told the digest")),
            text => Ok(Digest::parse(text)?),
        }
    }
}

impl ProxyWriter {
    /// Opens the ingest with a STAT request.
    pub(super) async fn open(
        mut client: ContentClient<Channel>,
        headers: &Headers,
        options: WriteOptions,
    ) -> Result<Self> {
        let (sender, receiver) = mpsc::channel(1);
        let first = WriteContentRequest {
            action: WriteAction::Stat.into(),
            r#ref: options.reference.clone(),
            total: size_to(options.total)?,
            expected: options.expected.as_ref().map(Digest::to_string).unwrap_or_default(),
            ..WriteContentRequest::default()
        };
        let requests = stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|request| (request, receiver))
        });
        // A server may answer the call only after the first message.
        sender.send(first).await.map_err(|error| Error::internal(error.to_string()))?;
        let mut answers =
            client.write(headers.request(requests)).await.map_err(from_status)?.into_inner();
        let last = answers
            .message()
            .await
            .map_err(from_status)?
            .ok_or_else(|| Error::unavailable("content service ended the stream"))?;
        let exchange = Exchange { stream: Some((sender, answers)), owed: false, last };
        Ok(ProxyWriter {
            reference: options.reference,
            expected: options.expected,
            exchange: Mutex::new(exchange),
        })
    }
}

#[async_trait]
impl Writer for ProxyWriter {
    /// CANCEL: a write that is given up closes the writer; the ingest stays for a later one.
    async fn write(&mut self, mut data: Bytes) -> Result<()> {
        let exchange = self.exchange.get_mut();
        while !data.is_empty() {
            let chunk = data.split_to(data.len().min(CHUNK));
            let request = WriteContentRequest {
                action: WriteAction::Write.into(),
                r#ref: self.reference.clone(),
                offset: exchange.offset(),
                data: chunk,
                ..WriteContentRequest::default()
            };
            exchange.call(request).await?;
        }
        Ok(())
    }

    async fn status(&self) -> Result<IngestStatus> {
        let mut exchange = self.exchange.lock().await;
        let request = WriteContentRequest {
            action: WriteAction::Stat.into(),
            r#ref: self.reference.clone(),
            ..WriteContentRequest::default()
        };
        exchange.call(request).await?;
        Ok(IngestStatus {
            reference: self.reference.clone(),
            offset: size_from(exchange.last.offset)?,
            total: size_from(exchange.last.total)?,
            expected: self.expected.clone(),
            started_at: time_from(exchange.last.started_at),
            updated_at: time_from(exchange.last.updated_at),
        })
    }

    /// As the server told it last: with the answers to opening, to `status` and to `commit`.
    fn digest(&self) -> Result<Digest> {
        match self.exchange.try_lock() {
            Ok(exchange) => exchange.digest(),
            Err(_) => Err(Error::unavailable("digest is being asked for")),
        }
    }

    async fn truncate(&mut self, size: u64) -> Result<()> {
        if size != 0 {
            return Err(ContentError::Truncate(size).into());
        }
        let exchange = self.exchange.get_mut();
        if exchange.offset() != 0 {
            // COMPAT: the protocol has no truncation; a write at offset zero is one.
            let request = WriteContentRequest {
                action: WriteAction::Write.into(),
                r#ref: self.reference.clone(),
                ..WriteContentRequest::default()
            };
            exchange.call(request).await?;
            exchange.last.offset = 0;
        }
        Ok(())
    }

    async fn commit(
        &mut self,
        size: u64,
        expected: Option<&Digest>,
        labels: Labels,
    ) -> Result<Digest> {
        let exchange = self.exchange.get_mut();
        let request = WriteContentRequest {
            action: WriteAction::Commit.into(),
            r#ref: self.reference.clone(),
            total: size_to(size)?,
            offset: exchange.offset(),
            expected: expected.map(Digest::to_string).unwrap_or_default(),
            labels,
            ..WriteContentRequest::default()
        };
        let result = exchange.call(request).await;
        exchange.stream = None;
        result?;
        exchange.digest()
    }
}
