//! The calling side.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::context::{NAMESPACE_KEY, until};
use crate::frame::{
    self, DATA, FrameReader, Incoming, NO_DATA, REMOTE_CLOSED, REMOTE_OPEN, REQUEST, RESPONSE,
};
use crate::stream::{ClientStream, STREAM_QUEUE, StreamEvent, decode_response};
use crate::wire::{KeyValue, Request, Response};
use crate::{MethodKind, Status, code};

/// Calls that one client has open at once; more than a server takes anyway.
pub const MAX_PENDING: usize = 4096;

/// Frames that wait for the socket. Callers wait when it is full.
const OUTGOING_QUEUE: usize = 64;

/// What a call carries besides its request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallOptions {
    /// How long the caller waits; also told to the server. `None` waits as long as the connection
    /// lives.
    pub timeout: Option<Duration>,
    /// Keys and values for the server's context.
    pub metadata: Vec<(String, String)>,
}

impl CallOptions {
    /// No timeout, no metadata.
    #[must_use]
    pub fn new() -> Self {
        CallOptions::default()
    }

    /// With a timeout.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// With one more line of metadata.
    #[must_use]
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.push((key.into(), value.into()));
        self
    }

    /// With the namespace, where containerd looks for it.
    #[must_use]
    pub fn namespace(self, namespace: impl Into<String>) -> Self {
        self.metadata(NAMESPACE_KEY, namespace)
    }
}

/// A connection to a ttrpc server. Cheap to clone; when the last clone is dropped, the connection
/// closes. All calls may run at once.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    outgoing: mpsc::Sender<Vec<u8>>,
    /// Reads and writes the connection; owned by the clients.
    driver: JoinHandle<()>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.driver.abort();
        self.shared.close();
    }
}

/// What callers and the driver share.
#[derive(Debug)]
struct Shared {
    calls: Mutex<Calls>,
    closed: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Calls {
    last_stream_id: u32,
    pending: HashMap<u32, Pending>,
    closed: bool,
}

/// Who waits for the frames of a stream id.
#[derive(Debug)]
enum Pending {
    Call(oneshot::Sender<Result<Bytes, Status>>),
    Stream(mpsc::Sender<StreamEvent>),
}

/// Takes its stream id out of the table when dropped: a caller that gave up leaves nothing behind.
#[derive(Debug)]
pub(crate) struct Entry {
    shared: Arc<Shared>,
    stream_id: u32,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.shared.calls().pending.remove(&self.stream_id);
    }
}

impl Shared {
    fn calls(&self) -> MutexGuard<'_, Calls> {
        // The table is whole at every point where a panic could happen.
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends all pending calls: their senders are dropped, which they see as closed.
    fn close(&self) {
        let pending = {
            let mut calls = self.calls();
            calls.closed = true;
            std::mem::take(&mut calls.pending)
        };
        drop(pending);
        self.closed.send_replace(true);
    }
}

impl Client {
    /// Connects to the unix socket at `path`.
    ///
    /// # Errors
    /// The system's.
    pub async fn connect(path: impl AsRef<Path>) -> io::Result<Self> {
        Ok(Client::from_stream(UnixStream::connect(path).await?))
    }

    /// Speaks ttrpc over an open connection. Must be called inside a tokio runtime.
    pub fn from_stream<S>(stream: S) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let shared = Arc::new(Shared {
            calls: Mutex::new(Calls::default()),
            closed: watch::Sender::new(false),
        });
        let (outgoing, frames) = mpsc::channel(OUTGOING_QUEUE);
        let driver = tokio::spawn(drive(Arc::clone(&shared), stream, frames));
        Client { inner: Arc::new(Inner { shared, outgoing, driver }) }
    }

    /// Calls a unary method and waits for its answer.
    ///
    /// # Errors
    /// The server's status; `ttrpc: closed` (unavailable) if the connection has ended or ends
    /// meanwhile; deadline exceeded after the timeout; resource exhausted for a message beyond the
    /// limit. Dropping the future forgets the call; the server may still carry it out.
    pub async fn call<Q: Message, P: Message + Default>(
        &self,
        service: &str,
        method: &str,
        request: &Q,
        options: &CallOptions,
    ) -> Result<P, Status> {
        let payload = self.call_bytes(service, method, encode(request), options).await?;
        decode_response(payload)
    }

    /// As [`call`](Self::call), with encoded messages.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn call_bytes(
        &self,
        service: &str,
        method: &str,
        payload: Bytes,
        options: &CallOptions,
    ) -> Result<Bytes, Status> {
        let frame = open(service, method, payload, 0, options)?;
        let work = async {
            let (answer, answered) = oneshot::channel();
            let _entry = self.start(frame, Pending::Call(answer)).await?;
            answered.await.unwrap_or_else(|_| Err(Status::closed()))
        };
        match options.timeout {
            Some(timeout) => tokio::time::timeout(timeout, work)
                .await
                .unwrap_or_else(|_| Err(Status::deadline_exceeded())),
            None => work.await,
        }
    }

    /// Opens a stream. `request` is the one request of a [`MethodKind::ServerStream`], and `None`
    /// otherwise. The timeout is told to the server alone.
    ///
    /// # Errors
    /// As [`call`](Self::call), without those of the server.
    pub async fn stream<Q: Message>(
        &self,
        service: &str,
        method: &str,
        kind: MethodKind,
        request: Option<&Q>,
        options: &CallOptions,
    ) -> Result<ClientStream, Status> {
        let one_request = matches!(kind, MethodKind::Unary | MethodKind::ServerStream);
        let flags = if one_request { REMOTE_CLOSED } else { REMOTE_OPEN };
        let frame = open(service, method, request.map(encode).unwrap_or_default(), flags, options)?;
        let (events, incoming) = mpsc::channel(STREAM_QUEUE);
        let entry = self.start(frame, Pending::Stream(events)).await?;
        Ok(ClientStream {
            stream_id: entry.stream_id,
            incoming,
            outgoing: self.inner.outgoing.clone(),
            local_closed: one_request,
            remote_closed: false,
            _entry: entry,
        })
    }

    /// Gives the call a stream id and sends its request.
    async fn start(&self, mut frame: Vec<u8>, pending: Pending) -> Result<Entry, Status> {
        let place = self.inner.outgoing.reserve().await.map_err(|_| Status::closed())?;
        let mut calls = self.inner.shared.calls();
        if calls.closed {
            return Err(Status::closed());
        }
        if calls.pending.len() >= MAX_PENDING {
            let text = format!("more than {MAX_PENDING} calls on one connection");
            return Err(Status::new(code::RESOURCE_EXHAUSTED, text));
        }
        // Clients use odd ids. After two thousand million calls the connection is worn out.
        let stream_id = match calls.last_stream_id {
            0 => 1,
            last => last.checked_add(2).ok_or_else(Status::closed)?,
        };
        calls.last_stream_id = stream_id;
        calls.pending.insert(stream_id, pending);
        frame::set_stream_id(&mut frame, stream_id);
        // INVARIANT: sent under the lock, because servers demand growing ids. It does not wait:
        // the place is reserved.
        place.send(frame);
        drop(calls);
        Ok(Entry { shared: Arc::clone(&self.inner.shared), stream_id })
    }

    /// Returns once the connection has ended, from whichever side.
    pub async fn closed(&self) {
        let mut closed = self.inner.shared.closed.subscribe();
        until(&mut closed, |closed| *closed).await;
    }

    /// True once the connection has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        *self.inner.shared.closed.borrow()
    }

    /// Ends the connection; all pending calls fail with `ttrpc: closed`.
    pub fn close(&self) {
        self.inner.driver.abort();
        self.inner.shared.close();
    }
}

fn encode<M: Message>(message: &M) -> Bytes {
    message.encode_to_vec().into()
}

/// The request frame of a call, still without a stream id.
fn open(
    service: &str,
    method: &str,
    payload: Bytes,
    flags: u8,
    options: &CallOptions,
) -> Result<Vec<u8>, Status> {
    let request = Request {
        service: service.to_owned(),
        method: method.to_owned(),
        payload,
        timeout_nano: options
            .timeout
            .map_or(0, |timeout| i64::try_from(timeout.as_nanos()).unwrap_or(i64::MAX)),
        metadata: options
            .metadata
            .iter()
            .map(|(key, value)| KeyValue { key: key.clone(), value: value.clone() })
            .collect(),
    };
    frame::encode(0, REQUEST, flags, &request)
}

/// Moves frames until the connection ends.
async fn drive<S>(shared: Arc<Shared>, stream: S, mut frames: mpsc::Receiver<Vec<u8>>)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (reading, writing) = tokio::io::split(stream);
    let mut reader = FrameReader::new(reading);
    let read = async {
        loop {
            match reader.next().await {
                Ok(Some(incoming)) => dispatch(&shared, incoming).await,
                Ok(None) => return,
                Err(error) => {
                    tracing::debug!(%error, "ttrpc connection ended");
                    return;
                }
            }
        }
    };
    let write = async {
        if let Err(error) = frame::write_frames(writing, &mut frames).await {
            tracing::debug!(%error, "ttrpc connection ended");
        }
    };
    tokio::select! {
        () = read => {}
        () = write => {}
    }
    shared.close();
}

/// Gives a frame to the one who waits for it. Frames that nobody waits for are dropped: their
/// callers gave up.
async fn dispatch(shared: &Shared, incoming: Incoming) {
    let (header, body) = match incoming {
        Incoming::Frame(header, body) => (header, Ok(body)),
        Incoming::Oversize(header) => (header, Err(frame::oversize(header.length))),
    };
    let ends = header.kind == RESPONSE
        || body.is_err()
        || (header.kind == DATA && header.flags & REMOTE_CLOSED != 0);
    let stream = {
        let mut calls = shared.calls();
        if ends {
            match calls.pending.remove(&header.stream_id) {
                Some(Pending::Call(answer)) => {
                    // An error means that the caller gave up just now.
                    let _ = answer.send(body.and_then(payload));
                    return;
                }
                Some(Pending::Stream(events)) => events,
                None => return,
            }
        } else {
            match calls.pending.get(&header.stream_id) {
                Some(Pending::Stream(events)) => events.clone(),
                // Data for a unary call: against the protocol, and harmless.
                Some(Pending::Call(_)) | None => return,
            }
        }
    };
    let no_data = header.flags & NO_DATA != 0;
    let event = match body {
        Err(status) => StreamEvent::End(Err(status)),
        Ok(body) if header.kind == RESPONSE => StreamEvent::End(payload(body).map(Some)),
        Ok(_) if ends && no_data => StreamEvent::End(Ok(None)),
        Ok(body) if ends => StreamEvent::End(Ok(Some(body))),
        Ok(_) if no_data => return,
        Ok(body) => StreamEvent::Message(body),
    };
    // An error means that the stream was dropped.
    let _ = stream.send(event).await;
}

/// The payload of a response, or its error.
fn payload(body: Bytes) -> Result<Bytes, Status> {
    let response: Response = decode_response(body)?;
    match response.status {
        Some(status) if status.code != code::OK => Err(status),
        _ => Ok(response.payload),
    }
}
