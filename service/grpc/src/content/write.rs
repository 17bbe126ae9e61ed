//! The write protocol: the client names an ingest, sends bytes, and commits; each frame is answered
//! with the state after it.

use std::sync::Arc;

use api_grpc::content::{WriteAction, WriteContentRequest, WriteContentResponse};
use base_errors::Error;
use base_ident::Digest;
use store_content::{Store, WriteOptions, Writer};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use crate::convert::{optional_digest, size, status, timestamp, unsigned};

/// What a session has turned into content.
pub(super) struct Committed {
    pub(super) digest: Digest,
    pub(super) size: u64,
}

/// One call of Write.
pub(super) struct Session {
    content: Arc<dyn Store>,
    answers: mpsc::Sender<Result<WriteContentResponse, Status>>,
    reference: String,
    total: u64,
    expected: Option<Digest>,
}

impl Session {
    pub(super) fn new(
        content: Arc<dyn Store>,
        answers: mpsc::Sender<Result<WriteContentResponse, Status>>,
    ) -> Self {
        Session { content, answers, reference: String::new(), total: 0, expected: None }
    }

    /// Serves `frames` to the end; gives what was committed, if it came to that.
    pub(super) async fn run(
        mut self,
        mut frames: Streaming<WriteContentRequest>,
    ) -> Result<Option<Committed>, Status> {
        let Some(mut frame) = frames.message().await? else { return Ok(None) };
        if frame.r#ref.is_empty() {
            return Err(status(Error::invalid_argument("first message must have a reference")));
        }
        self.reference.clone_from(&frame.r#ref);
        self.total = unsigned(frame.total);
        // The store itself refuses to open a writer for content that exists.
        self.expected = optional_digest(&frame.expected)?;
        let options = WriteOptions {
            reference: self.reference.clone(),
            total: self.total,
            expected: self.expected.clone(),
        };
        let mut writer = self.content.writer(options).await.map_err(status)?;
        loop {
            let action = frame.action();
            let committed = self.serve(&mut *writer, action, frame).await?;
            if committed.is_some() {
                return Ok(committed);
            }
            match frames.message().await? {
                Some(next) => frame = next,
                None => return Ok(None),
            }
            if !frame.r#ref.is_empty() && frame.r#ref != self.reference {
                return Err(status(Error::invalid_argument(format!(
                    "reference changed from {:?} to {:?} within a write",
                    self.reference, frame.r#ref
                ))));
            }
            self.expect(&frame.expected).await?;
            if frame.total > 0 {
                self.total = unsigned(frame.total);
            }
        }
    }

    /// Takes note of the digest that the client expects; AlreadyExists if there is such content.
    async fn expect(&mut self, expected: &str) -> Result<(), Status> {
        let Some(expected) = optional_digest(expected)? else { return Ok(()) };
        if self.expected.as_ref() == Some(&expected) {
            return Ok(());
        }
        if self.content.info(&expected).await.is_ok() {
            // The ingest is of no use any more. It may not exist, or belong to another writer.
            if let Err(error) = self.content.abort(&self.reference).await {
                tracing::debug!(reference = self.reference, %error, "abort of needless ingest");
            }
            return Err(Status::already_exists(format!(
                "blob with expected digest {expected} exists"
            )));
        }
        self.expected = Some(expected);
        Ok(())
    }

    /// Does what one frame asks for and answers it.
    async fn serve(
        &mut self,
        writer: &mut dyn Writer,
        action: WriteAction,
        frame: WriteContentRequest,
    ) -> Result<Option<Committed>, Status> {
        let before = writer.status().await.map_err(status)?;
        let mut offset = before.offset;
        let mut committed = None;
        if action != WriteAction::Stat {
            if frame.offset > 0 && unsigned(frame.offset) != offset {
                return Err(status(Error::out_of_range(format!(
                    "write @{} must occur at current offset {offset}",
                    frame.offset
                ))));
            }
            if frame.offset == 0 && offset > 0 {
                writer.truncate(0).await.map_err(status)?;
                offset = 0;
            }
            if !frame.data.is_empty() {
                let length = frame.data.len() as u64;
                writer.write(frame.data).await.map_err(status)?;
                offset += length;
            }
            if action == WriteAction::Commit {
                let digest = writer
                    .commit(self.total, self.expected.as_ref(), frame.labels)
                    .await
                    .map_err(status)?;
                committed = Some(Committed { digest, size: offset });
            }
        }
        let digest = match &committed {
            Some(committed) => committed.digest.clone(),
            None => writer.digest().map_err(status)?,
        };
        let answer = WriteContentResponse {
            action: action.into(),
            started_at: timestamp(before.started_at),
            updated_at: timestamp(before.updated_at),
            offset: size(offset),
            total: size(self.total.max(before.total)),
            digest: digest.as_str().to_owned(),
        };
        if self.answers.send(Ok(answer)).await.is_err() && committed.is_none() {
            return Err(Status::cancelled("the client is gone"));
        }
        Ok(committed)
    }
}
