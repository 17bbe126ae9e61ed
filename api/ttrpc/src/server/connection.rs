//! One connection of a server: reads requests, runs handlers, writes answers.

use std::collections::HashMap;
use std::io;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::{Phase, Server};
use crate::context::until;
use crate::frame::{
    self, DATA, FrameReader, Header, Incoming, NO_DATA, REMOTE_CLOSED, REQUEST, encode_response,
};
use crate::stream::STREAM_QUEUE;
use crate::wire::Request;
use crate::{Context, MethodKind, Peer, ServerStream, Status, code};

/// Calls of one connection that run at once, waiting ones (`Wait`) included. The daemon has one
/// per process of a pod; more than this is a broken client. Further calls are refused.
pub const MAX_CALLS: usize = 4096;

/// Answers that wait for the socket. Handlers wait when it is full.
const OUTGOING_QUEUE: usize = 64;

pub(super) async fn serve<S>(server: &Server, stream: S, peer: Option<Peer>) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (reading, writing) = tokio::io::split(stream);
    let (outgoing, mut frames) = mpsc::channel(OUTGOING_QUEUE);
    let (gone, _) = watch::channel(false);
    let connection = Connection {
        server,
        peer,
        outgoing,
        gone: &gone,
        calls: JoinSet::new(),
        streams: HashMap::new(),
        last_stream_id: 0,
    };
    let write = async {
        let result = frame::write_frames(writing, &mut frames).await;
        if result.is_err() {
            gone.send_replace(true);
            // Handlers must not wait for a socket that is gone.
            frames.close();
        }
        result
    };
    let mut phase = server.phase.subscribe();
    tokio::select! {
        (read, written) = async { tokio::join!(connection.run(FrameReader::new(reading)), write) }
            => read.and(written),
        () = until(&mut phase, |phase| *phase == Phase::Closed) => {
            gone.send_replace(true);
            Ok(())
        }
    }
}

struct Connection<'a> {
    server: &'a Server,
    peer: Option<Peer>,
    outgoing: mpsc::Sender<Vec<u8>>,
    /// Becomes true when nobody reads answers any more; the contexts of all calls watch it.
    gone: &'a watch::Sender<bool>,
    /// Running handlers; each returns its stream id.
    calls: JoinSet<u32>,
    /// Where the data of streaming calls goes.
    streams: HashMap<u32, mpsc::Sender<Bytes>>,
    last_stream_id: u32,
}

impl Connection<'_> {
    /// Reads until the end of the connection or of the server, then waits for the handlers.
    async fn run<R: AsyncRead + Unpin>(mut self, mut reader: FrameReader<R>) -> io::Result<()> {
        let mut phase = self.server.phase.subscribe();
        let mut gone = self.gone.subscribe();
        let result = loop {
            tokio::select! {
                () = until(&mut phase, |phase| *phase > Phase::Running) => break Ok(()),
                () = until(&mut gone, |gone| *gone) => break Ok(()),
                Some(ended) = self.calls.join_next(), if !self.calls.is_empty() => {
                    if let Ok(stream_id) = ended {
                        self.streams.remove(&stream_id);
                    }
                }
                incoming = reader.next() => match incoming {
                    Ok(Some(incoming)) => self.take(incoming).await,
                    Ok(None) => {
                        self.gone.send_replace(true);
                        break Ok(());
                    }
                    Err(error) => {
                        self.gone.send_replace(true);
                        break Err(error);
                    }
                },
            }
        };
        // No more data will come for streams.
        self.streams.clear();
        drop(self.outgoing);
        // CANCEL: handlers finish what they began, even if nobody waits for the answer.
        while self.calls.join_next().await.is_some() {}
        result
    }

    async fn take(&mut self, incoming: Incoming) {
        match incoming {
            Incoming::Oversize(header) => {
                self.refuse(header, frame::oversize(header.length)).await;
            }
            Incoming::Frame(header, _) if header.stream_id % 2 != 1 => {
                let text = "StreamID must be odd for client initiated streams";
                self.refuse(header, Status::invalid_argument(text)).await;
            }
            Incoming::Frame(header, body) if header.kind == DATA => self.data(header, body).await,
            Incoming::Frame(header, body) if header.kind == REQUEST => {
                if let Err(status) = self.request(header, body).await {
                    self.refuse(header, status).await;
                }
            }
            // As Go: unknown types are passed over.
            Incoming::Frame(..) => {}
        }
    }

    async fn refuse(&self, header: Header, status: Status) {
        self.send(encode_response(header.stream_id, Err(status))).await;
    }

    async fn send(&self, frame: Vec<u8>) {
        // An error means that the connection is gone; the loop sees that itself.
        let _ = self.outgoing.send(frame).await;
    }

    async fn data(&mut self, header: Header, body: Bytes) {
        let Some(stream) = self.streams.get(&header.stream_id) else {
            let text = "StreamID is no longer active";
            self.refuse(header, Status::invalid_argument(text)).await;
            return;
        };
        let closed = header.flags & REMOTE_CLOSED != 0;
        if header.flags & NO_DATA == 0 {
            let mut gone = self.gone.subscribe();
            tokio::select! {
                // An error means that the handler reads no more; its answer is on the way.
                _ = stream.send(body) => {}
                () = until(&mut gone, |gone| *gone) => {}
            }
        }
        if closed {
            self.streams.remove(&header.stream_id);
        }
    }

    async fn request(&mut self, header: Header, body: Bytes) -> Result<(), Status> {
        if header.stream_id <= self.last_stream_id {
            let text = "StreamID cannot be re-used and must increment";
            return Err(Status::invalid_argument(text));
        }
        self.last_stream_id = header.stream_id;
        let request = Request::decode(body).map_err(|error| {
            Status::invalid_argument(format!("unmarshal request error: {error}"))
        })?;
        let (service, kind) =
            self.server.lookup(&request.service, &request.method).map_err(Status::unimplemented)?;
        if self.calls.len() >= MAX_CALLS {
            let text = format!("more than {MAX_CALLS} calls on one connection");
            return Err(Status::new(code::RESOURCE_EXHAUSTED, text));
        }
        let timeout = u64::try_from(request.timeout_nano)
            .ok()
            .filter(|nanos| *nanos > 0)
            .map(Duration::from_nanos);
        let context =
            Context::new(request.metadata, timeout, self.peer, Some(self.gone.subscribe()));
        let stream_id = header.stream_id;
        let outgoing = self.outgoing.clone();
        if kind == MethodKind::Unary {
            let call = service.call(context, &request.method, request.payload);
            self.calls.spawn(async move {
                let result = caught(call).await;
                let _ = outgoing.send(encode_response(stream_id, result)).await;
                stream_id
            });
            return Ok(());
        }
        let (messages, incoming) = mpsc::channel(STREAM_QUEUE);
        // The first message of a stream may travel in the request; that of a method with one
        // request always does, even if it is empty.
        let one_request = kind == MethodKind::ServerStream;
        if one_request || !request.payload.is_empty() {
            // The queue is new: there is room.
            let _ = messages.try_send(request.payload);
        }
        if !one_request && header.flags & REMOTE_CLOSED == 0 {
            self.streams.insert(stream_id, messages);
        }
        let stream = ServerStream { stream_id, incoming, outgoing: outgoing.clone() };
        let call = service.stream(context, &request.method, stream);
        self.calls.spawn(async move {
            let frame = match caught(call).await {
                Ok(_) if kind != MethodKind::ClientStream => {
                    frame::encode_bytes(stream_id, DATA, REMOTE_CLOSED | NO_DATA, &[])
                        .unwrap_or_default()
                }
                result => encode_response(stream_id, result),
            };
            let _ = outgoing.send(frame).await;
            stream_id
        });
        Ok(())
    }
}

/// The handler's result; a panic in it becomes an error of that call alone.
async fn caught(call: impl Future<Output = Result<Vec<u8>, Status>>) -> Result<Vec<u8>, Status> {
    AssertUnwindSafe(call)
        .catch_unwind()
        .await
        .unwrap_or_else(|_| Err(Status::new(code::INTERNAL, "handler failed: internal")))
}
