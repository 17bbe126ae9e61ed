//! `containerd.services.streaming.v1`: byte streams that other services refer to by id.
//!
//! A client opens a stream, names it in its first message, and then calls a service that finds the
//! stream by that name. Bytes travel as `Data` messages; the receiver grants a window with
//! `WindowUpdate` before the sender may send.

mod bytes_stream;

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use api_grpc::streaming::StreamInit;
use api_grpc::streaming::streaming_server::Streaming as StreamingApi;
use api_shim::typeurl;
use base_errors::{Error, Result};
use base_ident::Namespace;
use futures_util::Stream;
use prost_types::Any;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::convert::status;
use crate::request::scope;

pub(crate) use bytes_stream::{receive, send};

/// Streams that are open and not yet taken, at most: each costs a few hundred bytes.
const MAX_WAITING: usize = 1024;

/// Messages that wait in one direction. Windows bound the bytes; this bounds the messages.
const MESSAGES: usize = 16;

/// One open stream, as the service that takes it sees it.
pub(crate) struct Taken {
    /// Messages from the client; ends when it closes its side.
    pub(crate) incoming: mpsc::Receiver<Any>,
    /// Messages to the client; dropping it closes our side.
    pub(crate) outgoing: mpsc::Sender<Result<Any, Status>>,
}

/// The streams that wait to be taken, by namespace and id.
#[derive(Clone, Default)]
pub struct Streams(Arc<Mutex<HashMap<(Namespace, String), Taken>>>);

impl Streams {
    fn insert(&self, key: (Namespace, String), stream: Taken) -> Result<()> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A client that went away before its stream was taken leaves nothing behind for long.
        waiting.retain(|_, stream| !stream.outgoing.is_closed());
        if waiting.contains_key(&key) {
            return Err(Error::already_exists(format!("stream {:?}", key.1)));
        }
        if waiting.len() >= MAX_WAITING {
            return Err(Error::resource_exhausted(format!("{MAX_WAITING} streams wait already")));
        }
        waiting.insert(key, stream);
        Ok(())
    }

    /// Takes the stream `id`: NotFound if there is none.
    pub(crate) fn take(&self, namespace: &Namespace, id: &str) -> Result<Taken> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&(namespace.clone(), id.to_owned()))
            .ok_or_else(|| Error::not_found(format!("stream {id:?}")))
    }
}

/// Opens streams.
pub struct StreamingService(pub Streams);

#[tonic::async_trait]
impl StreamingApi for StreamingService {
    type StreamStream = Pin<Box<dyn Stream<Item = Result<Any, Status>> + Send + 'static>>;

    async fn stream(
        &self,
        request: Request<Streaming<Any>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let namespace = scope(&request)?.namespace;
        let mut messages = request.into_inner();
        let first = messages
            .message()
            .await?
            .ok_or_else(|| Status::invalid_argument("the stream ended before it was named"))?;
        let init = typeurl::decode::<StreamInit>(&first)
            .map_err(|error| Status::invalid_argument(format!("first message: {error}")))?;
        let (to_service, incoming) = mpsc::channel(MESSAGES);
        let (outgoing, to_client) = mpsc::channel(MESSAGES);
        // The acknowledgement goes first: the client waits for it before it uses the stream.
        let acknowledgement =
            Any { type_url: "google.protobuf.Empty".to_owned(), value: Vec::new() };
        let _ = outgoing.try_send(Ok(acknowledgement));
        let alive = outgoing.clone();
        self.0.insert((namespace, init.id), Taken { incoming, outgoing }).map_err(status)?;
        // Carries the client's messages until either end closes.
        tokio::spawn(async move {
            // `alive` keeps the answer open while the client sends: its side closes first.
            let _alive = alive;
            while let Ok(Some(message)) = messages.message().await {
                if to_service.send(message).await.is_err() {
                    break;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(to_client))))
    }
}
