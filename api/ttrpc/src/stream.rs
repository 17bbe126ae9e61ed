//! Both ends of a stream of messages.

use bytes::Bytes;
use prost::Message;
use tokio::sync::mpsc;

use crate::frame::{self, DATA, NO_DATA, REMOTE_CLOSED};
use crate::{Status, code};

/// Messages of one stream that may wait for their reader. A full queue stops the reading of the
/// whole connection, as in Go: the protocol has no flow control per stream.
pub(crate) const STREAM_QUEUE: usize = 16;

/// The server's end of a stream.
#[derive(Debug)]
pub struct ServerStream {
    pub(crate) stream_id: u32,
    pub(crate) incoming: mpsc::Receiver<Bytes>,
    pub(crate) outgoing: mpsc::Sender<Vec<u8>>,
}

impl ServerStream {
    /// The next message of the caller; `None` when it has sent all.
    ///
    /// # Errors
    /// An invalid-argument status if the bytes are not such a message.
    pub async fn receive<M: Message + Default>(&mut self) -> Result<Option<M>, Status> {
        match self.incoming.recv().await {
            Some(bytes) => M::decode(bytes)
                .map(Some)
                .map_err(|error| Status::invalid_argument(format!("unmarshal data: {error}"))),
            None => Ok(None),
        }
    }

    /// Sends a message to the caller. Waits while the connection is behind.
    ///
    /// # Errors
    /// `ttrpc: closed` if the connection has ended; an error if the message is too large.
    pub async fn send<M: Message>(&self, message: &M) -> Result<(), Status> {
        let frame = frame::encode(self.stream_id, DATA, 0, message)?;
        self.outgoing.send(frame).await.map_err(|_| Status::closed())
    }
}

/// What comes in on a client's stream.
#[derive(Debug)]
pub(crate) enum StreamEvent {
    /// A message.
    Message(Bytes),
    /// The server ends the stream, perhaps with a last message or an error.
    End(Result<Option<Bytes>, Status>),
}

/// The client's end of a stream. Dropping it forgets the stream.
#[derive(Debug)]
pub struct ClientStream {
    pub(crate) stream_id: u32,
    pub(crate) incoming: mpsc::Receiver<StreamEvent>,
    pub(crate) outgoing: mpsc::Sender<Vec<u8>>,
    pub(crate) local_closed: bool,
    pub(crate) remote_closed: bool,
    /// Takes the stream out of the client's table.
    pub(crate) _entry: crate::client::Entry,
}

impl ClientStream {
    /// Sends a message to the server.
    ///
    /// # Errors
    /// After [`close_send`](Self::close_send) a failed precondition; `ttrpc: closed` if the
    /// connection has ended; an error if the message is too large.
    pub async fn send<M: Message>(&self, message: &M) -> Result<(), Status> {
        if self.local_closed {
            return Err(Status::new(code::FAILED_PRECONDITION, "ttrpc: stream closed"));
        }
        let frame = frame::encode(self.stream_id, DATA, 0, message)?;
        self.outgoing.send(frame).await.map_err(|_| Status::closed())
    }

    /// Tells the server that all is sent.
    ///
    /// # Errors
    /// `ttrpc: closed` if the connection has ended.
    pub async fn close_send(&mut self) -> Result<(), Status> {
        if std::mem::replace(&mut self.local_closed, true) {
            return Ok(());
        }
        let frame = frame::encode_bytes(self.stream_id, DATA, REMOTE_CLOSED | NO_DATA, &[])?;
        self.outgoing.send(frame).await.map_err(|_| Status::closed())
    }

    /// The next message of the server; `None` after its last one. For a method with one response
    /// this is the response.
    ///
    /// # Errors
    /// The server's status, `ttrpc: closed` if the connection has ended, or a data-loss status if
    /// the bytes are not such a message.
    pub async fn receive<M: Message + Default>(&mut self) -> Result<Option<M>, Status> {
        if self.remote_closed {
            return Ok(None);
        }
        let bytes = match self.incoming.recv().await {
            Some(StreamEvent::Message(bytes)) => Some(bytes),
            Some(StreamEvent::End(result)) => {
                self.remote_closed = true;
                result?
            }
            None => return Err(Status::closed()),
        };
        bytes.map(|bytes| decode_response(bytes)).transpose()
    }
}

/// Decodes what a server sent.
pub(crate) fn decode_response<M: Message + Default>(bytes: Bytes) -> Result<M, Status> {
    M::decode(bytes)
        .map_err(|error| Status::new(code::DATA_LOSS, format!("unmarshal response: {error}")))
}
