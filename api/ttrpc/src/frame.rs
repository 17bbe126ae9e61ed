//! Frames: a header of ten bytes, then a body.
//!
//! ```text
//! 0        4          8      9       10
//! +--------+----------+------+-------+------
//! | length | stream id| type | flags | body …      integers big-endian, length = bytes of the body
//! +--------+----------+------+-------+------
//! ```

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::wire::Response;
use crate::{Status, code};

/// Most bytes of a body, as in Go. A longer one is skipped and answered with an error.
pub const MAX_MESSAGE_SIZE: usize = 4 << 20;

/// Bytes of a header.
pub(crate) const HEADER: usize = 10;

/// Room for a usual message; what an idle connection holds.
const READ_CHUNK: usize = 4 << 10;

/// A body is read in steps of at most this, so that a header alone cannot claim 4 MiB.
const READ_STEP: usize = 256 << 10;

/// Frames that wait are written together up to this many bytes.
const WRITE_BATCH: usize = 64 << 10;

/// A request that opens a stream id.
pub(crate) const REQUEST: u8 = 1;
/// The answer that ends a stream id.
pub(crate) const RESPONSE: u8 = 2;
/// A message of a stream.
pub(crate) const DATA: u8 = 3;

/// The sender will send nothing more on this stream id.
pub(crate) const REMOTE_CLOSED: u8 = 1;
/// The sender will send data on this stream id.
pub(crate) const REMOTE_OPEN: u8 = 2;
/// The frame has no message, not even an empty one.
pub(crate) const NO_DATA: u8 = 4;

/// A parsed header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) length: usize,
    pub(crate) stream_id: u32,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
}

impl Header {
    fn parse(bytes: &[u8; HEADER]) -> Self {
        let [a, b, c, d, e, f, g, h, kind, flags] = *bytes;
        let length = u32::from_be_bytes([a, b, c, d]);
        Header {
            // Lossless on every target that has 32-bit pointers or wider.
            length: usize::try_from(length).unwrap_or(usize::MAX),
            stream_id: u32::from_be_bytes([e, f, g, h]),
            kind,
            flags,
        }
    }
}

/// What came in.
#[derive(Debug)]
pub(crate) enum Incoming {
    Frame(Header, Bytes),
    /// The body was longer than [`MAX_MESSAGE_SIZE`] and is gone.
    Oversize(Header),
}

/// The status that answers a message of `length` bytes; the text is Go's.
pub(crate) fn oversize(length: usize) -> Status {
    Status::new(
        code::RESOURCE_EXHAUSTED,
        format!("message length {length} exceed maximum message size of {MAX_MESSAGE_SIZE}"),
    )
}

/// Reads frames. `next` may be dropped and called again at any time.
pub(crate) struct FrameReader<R> {
    io: R,
    buffer: BytesMut,
    /// The header of the body that is being skipped, and how much of it is left.
    skipping: Option<(Header, usize)>,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(crate) fn new(io: R) -> Self {
        FrameReader { io, buffer: BytesMut::new(), skipping: None }
    }

    /// The next frame; `None` at a clean end.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Incoming>> {
        loop {
            if let Some((header, left)) = self.skipping {
                let here = left.min(self.buffer.len());
                self.buffer.advance(here);
                if here == left {
                    self.skipping = None;
                    return Ok(Some(Incoming::Oversize(header)));
                }
                self.skipping = Some((header, left - here));
            } else if let Some(bytes) = self.buffer.first_chunk::<HEADER>() {
                let header = Header::parse(bytes);
                if header.length > MAX_MESSAGE_SIZE {
                    self.buffer.advance(HEADER);
                    self.skipping = Some((header, header.length));
                    continue;
                }
                if self.buffer.len() - HEADER >= header.length {
                    self.buffer.advance(HEADER);
                    let body = self.buffer.split_to(header.length).freeze();
                    return Ok(Some(Incoming::Frame(header, body)));
                }
                let missing = HEADER + header.length - self.buffer.len();
                self.buffer.reserve(missing.min(READ_STEP));
            }
            if self.buffer.is_empty() && self.buffer.capacity() != READ_CHUNK {
                // Give the memory of a large message back.
                self.buffer = BytesMut::with_capacity(READ_CHUNK);
            }
            if self.io.read_buf(&mut self.buffer).await? == 0 {
                return if self.buffer.is_empty() && self.skipping.is_none() {
                    Ok(None)
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                };
            }
        }
    }
}

/// Writes frames as they come until every sender is gone, then closes the connection's sending
/// half.
pub(crate) async fn write_frames<W: AsyncWrite + Unpin>(
    mut io: W,
    frames: &mut mpsc::Receiver<Vec<u8>>,
) -> io::Result<()> {
    while let Some(mut batch) = frames.recv().await {
        while batch.len() < WRITE_BATCH
            && let Ok(more) = frames.try_recv()
        {
            batch.extend_from_slice(&more);
        }
        io.write_all(&batch).await?;
        io.flush().await?;
    }
    io.shutdown().await
}

/// A whole frame around a protobuf message.
///
/// # Errors
/// The status of an oversize message.
pub(crate) fn encode<M: Message>(
    stream_id: u32,
    kind: u8,
    flags: u8,
    message: &M,
) -> Result<Vec<u8>, Status> {
    let length = message.encoded_len();
    let mut frame = start(stream_id, kind, flags, length)?;
    // A Vec grows: encoding into it cannot fail.
    let _ = message.encode(&mut frame);
    Ok(frame)
}

/// A whole frame around bytes.
///
/// # Errors
/// The status of an oversize message.
pub(crate) fn encode_bytes(
    stream_id: u32,
    kind: u8,
    flags: u8,
    body: &[u8],
) -> Result<Vec<u8>, Status> {
    let mut frame = start(stream_id, kind, flags, body.len())?;
    frame.extend_from_slice(body);
    Ok(frame)
}

fn start(stream_id: u32, kind: u8, flags: u8, length: usize) -> Result<Vec<u8>, Status> {
    let wire_length = u32::try_from(length)
        .ok()
        .filter(|_| length <= MAX_MESSAGE_SIZE)
        .ok_or_else(|| oversize(length))?;
    let mut frame = Vec::with_capacity(HEADER + length);
    frame.extend_from_slice(&wire_length.to_be_bytes());
    frame.extend_from_slice(&stream_id.to_be_bytes());
    frame.push(kind);
    frame.push(flags);
    Ok(frame)
}

/// Puts the stream id into a finished frame.
pub(crate) fn set_stream_id(frame: &mut [u8], stream_id: u32) {
    if let Some(place) = frame.get_mut(4..8) {
        place.copy_from_slice(&stream_id.to_be_bytes());
    }
}

/// The frame that answers a call; an oversize payload becomes its error.
pub(crate) fn encode_response(stream_id: u32, result: Result<Vec<u8>, Status>) -> Vec<u8> {
    let response = match result {
        // COMPAT: as Go's server, no status means success.
        Ok(payload) => Response { status: None, payload: payload.into() },
        Err(status) => Response { status: Some(status), payload: Bytes::new() },
    };
    encode(stream_id, RESPONSE, 0, &response).unwrap_or_else(|status| {
        let response = Response { status: Some(status), payload: Bytes::new() };
        encode(stream_id, RESPONSE, 0, &response).unwrap_or_default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(bytes: &[u8]) -> io::Result<Vec<Incoming>> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut reader = FrameReader::new(bytes);
            let mut frames = Vec::new();
            while let Some(frame) = reader.next().await? {
                frames.push(frame);
            }
            Ok(frames)
        })
    }

    #[test]
    fn a_frame_is_laid_out_as_drawn() {
        let frame = encode_bytes(0x0102_0304, DATA, REMOTE_CLOSED, b"ab").unwrap();
        assert_eq!(frame, b"\x00\x00\x00\x02\x01\x02\x03\x04\x03\x01ab");
        let frames = read_all(&frame).unwrap();
        let [Incoming::Frame(header, body)] = frames.as_slice() else { panic!("{frames:?}") };
        assert_eq!(
            *header,
            Header { length: 2, stream_id: 0x0102_0304, kind: DATA, flags: REMOTE_CLOSED }
        );
        assert_eq!(body.as_ref(), b"ab");
    }

    #[test]
    fn an_oversize_body_is_skipped_and_the_next_frame_read() {
        let length = MAX_MESSAGE_SIZE + 1;
        let mut bytes = u32::try_from(length).unwrap().to_be_bytes().to_vec();
        bytes.extend_from_slice(&[0, 0, 0, 9, REQUEST, 0]);
        bytes.resize(HEADER + length, 7);
        bytes.extend(encode_bytes(11, DATA, 0, b"next").unwrap());
        let frames = read_all(&bytes).unwrap();
        let [Incoming::Oversize(first), Incoming::Frame(second, body)] = frames.as_slice() else {
            panic!("{} frames", frames.len())
        };
        assert_eq!((first.stream_id, first.length), (9, length));
        assert_eq!((second.stream_id, body.as_ref()), (11, b"next".as_slice()));
        assert!(encode_bytes(1, DATA, 0, &vec![0; length]).is_err());
        assert!(encode_bytes(1, DATA, 0, &vec![0; MAX_MESSAGE_SIZE]).is_ok());
    }

    #[test]
    fn a_torn_frame_is_an_error() {
        let frame = encode_bytes(1, DATA, 0, b"abc").unwrap();
        for cut in 1..frame.len() {
            let error = read_all(&frame[..cut]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "cut at {cut}");
        }
    }

    #[test]
    fn an_oversize_answer_becomes_its_error() {
        let frame = encode_response(3, Ok(vec![0; MAX_MESSAGE_SIZE]));
        let response = Response::decode(&frame[HEADER..]).unwrap();
        assert_eq!(response.status.unwrap().code, code::RESOURCE_EXHAUSTED);
    }
}
