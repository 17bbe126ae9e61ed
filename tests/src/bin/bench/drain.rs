//! Reads a blob without putting its messages together.
//!
//! Both sides are read by the same client, whose own work makes them look alike. So it does no more
//! than a client must: it takes each byte from the socket once, and counts what is data.

use std::pin::Pin;

use anyhow::{Context, Result, bail, ensure};
use api_grpc::codec::Codec;
use api_grpc::content::{ReadContentRequest, ReadContentResponse};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, TE};
use http_body::Body as _;
use prost::encoding::decode_varint;
use tonic::Status;
use tonic::body::Body;
use tonic::codec::{Codec as _, EncodeBody};
use tower::{Service as _, ServiceExt as _};

use crate::api::Lane;

/// Where reads are asked for.
const PATH: &str = "/containerd.services.content.v1.Content/Read";

/// Bytes of the head of a gRPC message: a flag, and the length.
const PREFIX: usize = 5;

/// More than what stands before the data of a message: the prefix, the offset, the data's length.
const MAX_HEAD: usize = 32;

/// Reads the whole blob; gives its size.
///
/// # Errors
///
/// The daemon's, or what it sends are no messages of a read.
pub async fn read(lane: &Lane, digest: &str) -> Result<usize> {
    let message = ReadContentRequest { digest: digest.to_owned(), offset: 0, size: 0 };
    let (metadata, _, message) = lane.request(message).into_parts();
    let encoder = Codec::<ReadContentRequest, ReadContentResponse>::default().encoder();
    let body = EncodeBody::new_client(encoder, tokio_stream::iter([Ok(message)]), None, None);
    let mut request = http::Request::post(PATH).body(Body::new(body))?;
    *request.headers_mut() = metadata.into_headers();
    request.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    let mut channel = lane.channel();
    let (head, mut body) = channel.ready().await?.call(request).await?.into_parts();
    let mut counter = Counter::default();
    let mut trailers = head.headers;
    while let Some(frame) =
        std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await
    {
        match frame?.into_data() {
            Ok(data) => counter.take(&data)?,
            Err(frame) => trailers = frame.into_trailers().unwrap_or_default(),
        }
    }
    finish(&trailers)?;
    ensure!(counter.left == 0 && counter.head.is_empty(), "the last message is cut off");
    Ok(counter.bytes)
}

fn finish(trailers: &HeaderMap) -> Result<()> {
    let status = Status::from_header_map(trailers).context("no status at the end")?;
    ensure!(status.code() == tonic::Code::Ok, "Content.Read: {status}");
    Ok(())
}

/// Counts the bytes of data in messages that come in pieces.
#[derive(Debug, Default)]
struct Counter {
    /// What came of a message before its data.
    head: Vec<u8>,
    /// Bytes that are still to come of its data.
    left: usize,
    bytes: usize,
}

impl Counter {
    fn take(&mut self, mut piece: &[u8]) -> Result<()> {
        loop {
            let data = self.left.min(piece.len());
            self.left -= data;
            self.bytes += data;
            piece = &piece[data..];
            let Some((first, rest)) = piece.split_first() else { return Ok(()) };
            self.head.push(*first);
            piece = rest;
            if let Some(left) = data_length(&self.head)? {
                self.left = left;
                self.head.clear();
            }
        }
    }
}

/// How much data comes after `head`; none if the head is not whole yet.
fn data_length(head: &[u8]) -> Result<Option<usize>> {
    ensure!(head.len() < MAX_HEAD, "no message of a read begins with {head:?}");
    let Some((prefix, mut fields)) = head.split_first_chunk::<PREFIX>() else { return Ok(None) };
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]);
    let length = usize::try_from(length)?;
    while !fields.is_empty() {
        let Ok(key) = decode_varint(&mut fields) else { return Ok(None) };
        let Ok(value) = decode_varint(&mut fields) else { return Ok(None) };
        match key {
            // The offset.
            0x08 => {}
            // The data, which is the last field.
            0x12 => {
                let value = usize::try_from(value)?;
                let whole = head.len() - PREFIX - fields.len() + value;
                ensure!(whole == length, "a message of {length} bytes has {whole}");
                return Ok(Some(value));
            }
            key => bail!("unknown field {key:#x} in a message of a read"),
        }
    }
    Ok((head.len() - PREFIX == length).then_some(0))
}

#[cfg(test)]
mod tests {
    use super::Counter;

    #[test]
    fn data_is_counted_however_it_is_cut() {
        // Two messages: three bytes at 0, and two at 3; then an empty one.
        let wire = [
            &[0, 0, 0, 0, 5, 0x12, 3, 7, 7, 7][..],
            &[0, 0, 0, 0, 6, 0x08, 3, 0x12, 2, 9, 9],
            &[0, 0, 0, 0, 0],
        ]
        .concat();
        for size in 1..=wire.len() {
            let mut counter = Counter::default();
            for piece in wire.chunks(size) {
                counter.take(piece).unwrap();
            }
            assert_eq!((counter.bytes, counter.left, counter.head.len()), (5, 0, 0), "by {size}");
        }
    }
}
