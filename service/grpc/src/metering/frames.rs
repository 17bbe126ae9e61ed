//! A body that counts the gRPC messages that pass through it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use base_telemetry::metrics::Series;
use bytes::{Buf, Bytes};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;

use super::Call;

/// Bytes of the header of a gRPC message: a flag, and the length.
const HEADER: usize = 5;

/// Finds message boundaries in a stream of chunks.
#[derive(Default)]
struct Boundaries {
    header: [u8; HEADER],
    filled: usize,
    body_left: usize,
}

impl Boundaries {
    /// Takes the next chunk; gives how many messages began in it.
    fn count(&mut self, mut chunk: &[u8]) -> u64 {
        let mut begun = 0;
        while !chunk.is_empty() {
            if self.body_left > 0 {
                let skip = self.body_left.min(chunk.len());
                self.body_left -= skip;
                chunk = &chunk[skip..];
                continue;
            }
            let take = (HEADER - self.filled).min(chunk.len());
            self.header[self.filled..self.filled + take].copy_from_slice(&chunk[..take]);
            self.filled += take;
            chunk = &chunk[take..];
            if self.filled == HEADER {
                let mut length = &self.header[1..];
                self.body_left = usize::try_from(length.get_u32()).unwrap_or(usize::MAX);
                self.filled = 0;
                begun += 1;
            }
        }
        begun
    }
}

/// Who is told of messages.
enum Watch {
    Incoming(Arc<Series>),
    Outgoing(Call),
}

/// A body whose messages are counted.
pub(super) struct Metered {
    inner: Body,
    boundaries: Boundaries,
    watch: Watch,
}

impl Metered {
    pub(super) fn incoming(inner: Body, received: Arc<Series>) -> Self {
        Metered { inner, boundaries: Boundaries::default(), watch: Watch::Incoming(received) }
    }

    pub(super) fn outgoing(inner: Body, call: Call) -> Self {
        Metered { inner, boundaries: Boundaries::default(), watch: Watch::Outgoing(call) }
    }
}

impl HttpBody for Metered {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let frame = ready!(Pin::new(&mut this.inner).poll_frame(context));
        if let Some(Ok(frame)) = &frame {
            if let Some(data) = frame.data_ref() {
                let messages = this.boundaries.count(data);
                match &this.watch {
                    Watch::Incoming(series) => series.add(messages),
                    Watch::Outgoing(call) => call.sent(messages),
                }
            } else if let (Some(trailers), Watch::Outgoing(call)) =
                (frame.trailers_ref(), &mut this.watch)
            {
                call.note_status(trailers);
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::Boundaries;

    #[test]
    fn messages_are_counted_however_they_are_cut() {
        // Three messages: of 3, 0 and 2 bytes.
        let bytes = [0, 0, 0, 0, 3, 7, 7, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 9, 9];
        for size in 1..=bytes.len() {
            let mut boundaries = Boundaries::default();
            let begun: u64 = bytes.chunks(size).map(|chunk| boundaries.count(chunk)).sum();
            assert_eq!(begun, 3, "chunks of {size}");
        }
    }
}
