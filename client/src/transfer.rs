//! The transfer service: images in and out over byte streams.

mod bytes;

use std::time::{Duration, SystemTime};

use api_grpc::streaming::StreamInit;
use api_grpc::transfer::{TransferOptions, TransferRequest};
use api_grpc::transfer_types::{ImageExportStream, ImageImportStream, ImageStore, Progress};
use api_shim::{Any, typeurl};
use base_errors::{Error, Result};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

use crate::container::unique_id;
use crate::{Client, body};

/// Messages of a stream that wait to be sent; windows bound their bytes.
const QUEUE: usize = 16;

/// How long news of a transfer that has ended may still be on their way.
const LAST_NEWS: Duration = Duration::from_millis(200);

/// Takes news of a transfer.
pub type OnProgress<'a> = Box<dyn FnMut(Progress) + Send + 'a>;

/// An open stream of messages.
pub(crate) struct Stream {
    pub(crate) id: String,
    pub(crate) sender: mpsc::Sender<Any>,
    pub(crate) receiver: tonic::Streaming<Any>,
}

impl Client {
    /// Opens a stream that another call refers to by its id, which begins with `prefix`.
    pub(crate) async fn open_stream(&self, prefix: &str) -> Result<Stream> {
        let id = format!("{prefix}-{}", unique_id(SystemTime::now()));
        let (sender, messages) = mpsc::channel(QUEUE);
        let init = typeurl::encode(&StreamInit { id: id.clone() });
        let closed = || Error::unavailable("the daemon closed the stream");
        sender.send(init).await.map_err(|_| closed())?;
        let mut receiver = body(self.streaming().stream(ReceiverStream::new(messages)).await)?;
        // The first answer says that the name is known.
        receiver.message().await.map_err(api_grpc::status::from_status)?.ok_or_else(closed)?;
        Ok(Stream { id, sender, receiver })
    }

    /// Moves an image from `source` to `destination`, both messages of the transfer service.
    ///
    /// # Errors
    /// The daemon's; NotImplemented for a pair that it does not know.
    pub async fn transfer(
        &self,
        source: Any,
        destination: Any,
        mut progress: Option<OnProgress<'_>>,
    ) -> Result<()> {
        let mut request =
            TransferRequest { source: Some(source), destination: Some(destination), options: None };
        let Some(progress) = &mut progress else {
            return body(self.transfers().transfer(request).await);
        };
        let Stream { id, sender, mut receiver } = self.open_stream("progress").await?;
        request.options = Some(TransferOptions { progress_stream: id });
        let mut news = async |limit: Option<tokio::time::Instant>| {
            loop {
                let message = match limit {
                    None => receiver.message().await,
                    Some(limit) => match tokio::time::timeout_at(limit, receiver.message()).await {
                        Ok(message) => message,
                        Err(_) => return,
                    },
                };
                let Ok(Some(message)) = message else { return };
                if let Ok(message) = typeurl::decode::<Progress>(&message) {
                    progress(message);
                }
            }
        };
        let mut transfers = self.transfers();
        let mut transferred = std::pin::pin!(transfers.transfer(request));
        let answer = tokio::select! {
            biased;
            () = news(None) => transferred.await,
            answer = &mut transferred => answer,
        };
        // Our side ends, so the daemon ends its own after what it still has to say.
        drop(sender);
        news(Some(tokio::time::Instant::now() + LAST_NEWS)).await;
        body(answer)
    }

    /// Imports an archive (of OCI or docker) from `source` as `store` says.
    ///
    /// # Errors
    /// InvalidArgument for what is no archive, and the daemon's; then no image is made.
    pub async fn import(
        &self,
        source: impl AsyncRead + Unpin,
        store: &ImageStore,
        force_compress: bool,
        progress: Option<OnProgress<'_>>,
    ) -> Result<()> {
        let Stream { id, sender, receiver } = self.open_stream("import").await?;
        let import = ImageImportStream { stream: id, media_type: String::new(), force_compress };
        let (import, store) = (typeurl::encode(&import), typeurl::encode(store));
        let sending = bytes::send(sender, receiver, source);
        let transfer = self.transfer(import, store, progress);
        let (mut sending, mut transfer) = (std::pin::pin!(sending), std::pin::pin!(transfer));
        tokio::select! {
            // An archive that ends early or cannot be read: the daemon's error says less.
            sent = &mut sending => {
                sent?;
                transfer.await
            }
            // The daemon may be done before it has read all that is in the stream.
            done = &mut transfer => done,
        }
    }

    /// Exports the image `store.name` to `sink`.
    ///
    /// # Errors
    /// NotFound, and those of the sink.
    pub async fn export(
        &self,
        store: &ImageStore,
        mut export: ImageExportStream,
        sink: impl AsyncWrite + Unpin,
        progress: Option<OnProgress<'_>>,
    ) -> Result<()> {
        let Stream { id, sender, receiver } = self.open_stream("export").await?;
        export.stream = id;
        let (store, export) = (typeurl::encode(store), typeurl::encode(&export));
        let (done, sent) = oneshot::channel();
        let receiving = bytes::receive(sender, receiver, sink, sent);
        let transfer = self.transfer(store, export, progress);
        let (mut receiving, mut transfer) = (std::pin::pin!(receiving), std::pin::pin!(transfer));
        tokio::select! {
            received = &mut receiving => {
                received?;
                transfer.await
            }
            transferred = &mut transfer => {
                transferred?;
                // A receiver that is gone has told why.
                let _ = done.send(());
                receiving.await
            }
        }
    }
}
