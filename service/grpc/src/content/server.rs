//! The content service as a server: tonic's, except that the bytes of a read are not copied.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use api_grpc::codec::Codec;
use api_grpc::content::content_server::{Content as _, ContentServer};
use api_grpc::content::{ReadContentRequest, ReadContentResponse};
use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::Stream;
use futures_util::future::BoxFuture;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http_body::{Body as HttpBody, Frame};
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint};
use tonic::body::Body;
use tonic::codec::{Codec as _, Streaming};
use tonic::metadata::MetadataMap;
use tonic::server::NamedService;
use tonic::{Request, Status};
use tower::Service;

use super::ContentService;

/// The path of the call that is answered here.
const READ: &str = "/containerd.services.content.v1.Content/Read";

/// The number of the field `data` of a read's answer.
const DATA: u32 = 2;

/// More than the head of a message has: gRPC's five bytes, the offset, and the length of the data.
const HEAD: usize = 32;

/// The server of the content service.
///
/// tonic encodes each message into a buffer of its own. That is another copy of every byte of a
/// blob, into memory that is new each time: so reads are encoded here, where the bytes stay where
/// they were read, behind a head of their own.
#[derive(Clone)]
pub struct ContentRoutes {
    service: Arc<ContentService>,
    others: ContentServer<ContentService>,
    max_received: usize,
    max_sent: usize,
}

impl ContentRoutes {
    /// Serves `service`, with the sizes of messages that containerd has.
    pub fn new(service: ContentService) -> Self {
        let service = Arc::new(service);
        let others = ContentServer::from_arc(Arc::clone(&service));
        let limit = api_grpc::MAX_MESSAGE_SIZE;
        ContentRoutes { service, others, max_received: limit, max_sent: limit }
            .max_decoding_message_size(limit)
            .max_encoding_message_size(limit)
    }

    /// Most bytes of a message from a client.
    #[must_use]
    pub fn max_decoding_message_size(mut self, limit: usize) -> Self {
        self.others = self.others.max_decoding_message_size(limit);
        self.max_received = limit;
        self
    }

    /// Most bytes of a message to a client.
    #[must_use]
    pub fn max_encoding_message_size(mut self, limit: usize) -> Self {
        self.others = self.others.max_encoding_message_size(limit);
        self.max_sent = limit;
        self
    }

    async fn read(&self, request: http::Request<Body>) -> Result<http::Response<Body>, Status> {
        let (parts, body) = request.into_parts();
        let decoder = Codec::<ReadContentResponse, ReadContentRequest>::default().decoder();
        let mut messages = Streaming::new_request(decoder, body, None, Some(self.max_received));
        let message = messages.message().await?;
        let message = message.ok_or_else(|| Status::internal("Missing request message."))?;
        let headers = MetadataMap::from_headers(parts.headers);
        let request = Request::from_parts(headers, parts.extensions, message);
        let (headers, messages, extensions) = self.service.read(request).await?.into_parts();
        let body = Parts { messages, data: Bytes::new(), max_sent: self.max_sent, ended: false };
        let mut response = http::Response::new(Body::new(body));
        *response.headers_mut() = headers.into_headers();
        *response.extensions_mut() = extensions;
        let grpc = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert(CONTENT_TYPE, grpc);
        Ok(response)
    }
}

impl NamedService for ContentRoutes {
    const NAME: &'static str = ContentServer::<ContentService>::NAME;
}

impl Service<http::Request<Body>> for ContentRoutes {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.uri().path() != READ {
            return self.others.call(request);
        }
        let routes = self.clone();
        Box::pin(async move {
            Ok(routes.read(request).await.unwrap_or_else(|status| status.into_http()))
        })
    }
}

/// The answers of a read as they go over the wire: for each message its head, and then its data.
struct Parts<S> {
    messages: S,
    /// Of the message whose head was the last frame.
    data: Bytes,
    max_sent: usize,
    ended: bool,
}

impl<S> Parts<S> {
    /// The last frame: how it ended.
    fn end(&mut self, how: &Status) -> Result<Frame<Bytes>, Status> {
        self.ended = true;
        let mut trailers = HeaderMap::new();
        how.add_header(&mut trailers)?;
        Ok(Frame::trailers(trailers))
    }
}

impl<S> HttpBody for Parts<S>
where
    S: Stream<Item = Result<ReadContentResponse, Status>> + Unpin,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(None);
        }
        if !this.data.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut this.data)))));
        }
        let frame = match ready!(Pin::new(&mut this.messages).poll_next(context)) {
            Some(Ok(message)) => match head(&message, this.max_sent) {
                Ok(head) => {
                    this.data = message.data;
                    Ok(Frame::data(head))
                }
                Err(status) => this.end(&status),
            },
            Some(Err(status)) => this.end(&status),
            None => this.end(&Status::ok("")),
        };
        Poll::Ready(Some(frame))
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

/// What stands before the data of `message` on the wire.
fn head(message: &ReadContentResponse, limit: usize) -> Result<Bytes, Status> {
    let offset = ReadContentResponse { offset: message.offset, data: Bytes::new() };
    let mut fields = BytesMut::with_capacity(HEAD);
    fields.put_slice(&offset.encode_to_vec());
    if !message.data.is_empty() {
        encode_key(DATA, WireType::LengthDelimited, &mut fields);
        encode_varint(message.data.len() as u64, &mut fields);
    }
    let length = fields.len() + message.data.len();
    let wire = u32::try_from(length).ok().filter(|_| length <= limit).ok_or_else(|| {
        Status::out_of_range(format!(
            "encoded message length too large: found {length} bytes, the limit is: {limit} bytes"
        ))
    })?;
    let mut head = BytesMut::with_capacity(HEAD);
    // Not compressed.
    head.put_u8(0);
    head.put_u32(wire);
    head.put(fields);
    Ok(head.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn frames(messages: Vec<Result<ReadContentResponse, Status>>) -> (Vec<u8>, HeaderMap) {
        let messages = futures_util::stream::iter(messages);
        let mut body = Parts { messages, data: Bytes::new(), max_sent: 1 << 20, ended: false };
        let (mut bytes, mut trailers) = (Vec::new(), None);
        while let Some(frame) =
            std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await
        {
            assert!(trailers.is_none(), "nothing comes after the trailers");
            match frame.unwrap().into_data() {
                Ok(data) => bytes.extend_from_slice(&data),
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
        assert!(body.is_end_stream());
        (bytes, trailers.unwrap())
    }

    #[tokio::test]
    async fn parts_are_what_the_codec_makes_of_the_messages() {
        let messages: Vec<_> = [(0, 0), (0, 1), (1, 0), (1 << 20, 127), (i64::MAX, 1 << 19)]
            .map(|(offset, size)| ReadContentResponse { offset, data: vec![7; size].into() })
            .into();
        let mut wanted = BytesMut::new();
        for message in &messages {
            wanted.put_u8(0);
            wanted.put_u32(u32::try_from(message.encoded_len()).unwrap());
            message.encode(&mut wanted).unwrap();
        }
        let (bytes, trailers) = frames(messages.into_iter().map(Ok).collect()).await;
        assert_eq!(bytes, wanted);
        assert_eq!(trailers["grpc-status"], "0");
    }

    #[tokio::test]
    async fn a_failed_read_ends_with_its_status() {
        let message = ReadContentResponse { offset: 0, data: Bytes::from_static(b"abc") };
        let (bytes, trailers) = frames(vec![Ok(message), Err(Status::data_loss("torn"))]).await;
        assert_eq!(bytes, b"\0\0\0\0\x05\x12\x03abc");
        assert_eq!(trailers["grpc-status"], "15");
        assert_eq!(trailers["grpc-message"], "torn");
    }

    #[tokio::test]
    async fn a_message_beyond_the_limit_is_not_begun() {
        let data = vec![0; 1 << 20].into();
        let (bytes, trailers) = frames(vec![Ok(ReadContentResponse { offset: 0, data })]).await;
        assert_eq!(bytes, b"");
        assert_eq!(trailers["grpc-status"], "11");
    }
}
