//! What a server dispatches to.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use prost::Message;

use crate::{Context, ServerStream, Status};

/// How many messages go each way in a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MethodKind {
    /// One message each way.
    Unary,
    /// Many requests, one response.
    ClientStream,
    /// One request, many responses.
    ServerStream,
    /// Many both ways.
    BidiStream,
}

/// A named set of methods. Generated servers implement it.
///
/// The futures run to their end even if the caller leaves: a change that was begun is finished.
/// [`Context::cancelled`] tells that nobody waits any more.
pub trait Service: Send + Sync + 'static {
    /// The kind of `method`, `None` if there is no such method.
    fn kind(&self, method: &str) -> Option<MethodKind>;

    /// Answers a unary call. `payload` is the encoded request, the result the encoded response.
    fn call(
        &self,
        context: Context,
        method: &str,
        payload: Bytes,
    ) -> BoxFuture<'static, Result<Vec<u8>, Status>>;

    /// Serves a streaming call. The result is the encoded response of a
    /// [`MethodKind::ClientStream`], and ignored for other kinds.
    fn stream(
        &self,
        context: Context,
        method: &str,
        stream: ServerStream,
    ) -> BoxFuture<'static, Result<Vec<u8>, Status>> {
        let _ = (context, stream);
        let status = Status::unimplemented(format!("method {method}"));
        Box::pin(std::future::ready(Err(status)))
    }
}

/// Decodes a request.
///
/// # Errors
/// An invalid-argument status if the bytes are not such a message.
pub fn decode_request<M: Message + Default>(payload: Bytes) -> Result<M, Status> {
    M::decode(payload)
        .map_err(|error| Status::invalid_argument(format!("unmarshal request error: {error}")))
}
