//! The bytes of a blob on their way to a client.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use api_grpc::content::ReadContentResponse;
use base_errors::Error;
use bytes::Bytes;
use futures_util::Stream;
use store_content::ContentReader;
use tokio::task::JoinHandle;
use tonic::Status;

use crate::convert::{size, status};

/// Bytes in one message of a read; as containerd. With the one that is read ahead and the two that
/// HTTP/2 may hold, a read needs four times this.
const FRAME: usize = 1 << 20;

/// Buffers whose bytes were sent, to be filled again: memory that is new to the process costs as
/// much as the copy into it.
type Spare = Arc<Mutex<Vec<Vec<u8>>>>;

/// A buffer that goes back to the spare ones when its bytes were sent.
struct Lent {
    buffer: Vec<u8>,
    filled: usize,
    spare: Spare,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer[..self.filled]
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
    }
}

/// Part of a blob in messages. One message is read ahead, outside of the reactor, while the client
/// gets the one before; who does not take them holds up no thread.
pub struct Reading {
    blob: Arc<dyn ContentReader>,
    /// Where the next read begins.
    offset: u64,
    end: u64,
    spare: Spare,
    ahead: Option<JoinHandle<Result<ReadContentResponse, Status>>>,
}

impl Reading {
    /// Reads `blob` from `offset` to `end`.
    pub(super) fn new(blob: Arc<dyn ContentReader>, offset: u64, end: u64) -> Self {
        Reading { blob, offset, end, spare: Spare::default(), ahead: None }
    }

    /// Begins the next read, if there is one.
    fn begin(&mut self) {
        if self.offset >= self.end {
            return;
        }
        let want = usize::try_from(self.end - self.offset).unwrap_or(FRAME).min(FRAME);
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
        // Only the last message is shorter than the first one.
        let buffer = spare.unwrap_or_else(|| vec![0; want]);
        let lent = Lent { buffer, filled: 0, spare: Arc::clone(&self.spare) };
        let (blob, offset) = (Arc::clone(&self.blob), self.offset);
        self.ahead = Some(tokio::task::spawn_blocking(move || fill(&*blob, offset, want, lent)));
        self.offset += want as u64;
    }
}

impl Stream for Reading {
    type Item = Result<ReadContentResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ahead.is_none() {
            self.begin();
        }
        let Some(ahead) = &mut self.ahead else { return Poll::Ready(None) };
        let read = ready!(Pin::new(ahead).poll(context));
        self.ahead = None;
        let message = read.unwrap_or_else(|error| Err(Status::internal(error.to_string())));
        match &message {
            Ok(_) => self.begin(),
            Err(_) => self.offset = self.end,
        }
        Poll::Ready(Some(message))
    }
}

/// Reads `want` bytes at `offset`; blocks.
fn fill(
    blob: &dyn ContentReader,
    offset: u64,
    want: usize,
    mut lent: Lent,
) -> Result<ReadContentResponse, Status> {
    while lent.filled < want {
        let at = offset + lent.filled as u64;
        match blob.read_at(&mut lent.buffer[lent.filled..want], at) {
            Ok(0) => {
                let end = offset + want as u64;
                return Err(status(Error::data_loss(format!("content ends at {at}, not {end}"))));
            }
            Ok(count) => lent.filled += count,
            Err(error) => {
                return Err(status(Error::from(error).context(format!("read content at {at}"))));
            }
        }
    }
    Ok(ReadContentResponse { offset: size(offset), data: Bytes::from_owner(lent) })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use futures_util::StreamExt as _;

    use super::*;

    /// A blob that ends at `stored` bytes, and gives no more than `step` at once.
    struct Blob {
        stored: u64,
        step: usize,
    }

    fn byte(at: u64) -> u8 {
        at.wrapping_mul(0x9e37_79b9).to_be_bytes()[4]
    }

    impl ContentReader for Blob {
        fn size(&self) -> u64 {
            self.stored
        }

        fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
            let rest = usize::try_from(self.stored - offset).unwrap();
            let count = buffer.len().min(self.step).min(rest);
            for (at, place) in (offset..).zip(&mut buffer[..count]) {
                *place = byte(at);
            }
            Ok(count)
        }
    }

    fn reading(stored: u64, offset: u64, end: u64) -> Reading {
        Reading::new(Arc::new(Blob { stored, step: 70_000 }), offset, end)
    }

    #[tokio::test]
    async fn messages_have_every_byte_in_order() {
        let frame = FRAME as u64;
        for (offset, end) in [(0, 0), (0, 1), (5, frame), (1, frame + 1), (7, 3 * frame + 9)] {
            let mut reading = reading(end + 10, offset, end);
            let mut at = offset;
            while let Some(message) = reading.next().await {
                let message = message.unwrap();
                assert_eq!(message.offset, size(at));
                assert!(message.data.len() <= FRAME);
                for (at, found) in (at..).zip(&message.data) {
                    assert_eq!(*found, byte(at), "byte {at} of {offset} to {end}");
                }
                at += message.data.len() as u64;
            }
            assert_eq!(at, end);
        }
    }

    #[tokio::test]
    async fn buffers_are_used_again() {
        let mut reading = reading(8 * FRAME as u64, 0, 8 * FRAME as u64);
        let mut places = BTreeSet::new();
        while let Some(message) = reading.next().await {
            places.insert(message.unwrap().data.as_ptr() as usize);
        }
        // The one that the client has, and the one that is read ahead.
        assert_eq!(places.len(), 2);
    }

    #[tokio::test]
    async fn a_blob_that_is_too_short_ends_with_data_loss() {
        let mut reading = reading(FRAME as u64 + 3, 0, 2 * FRAME as u64);
        assert_eq!(reading.next().await.unwrap().unwrap().data.len(), FRAME);
        let error = reading.next().await.unwrap().unwrap_err();
        assert_eq!(error.code(), tonic::Code::DataLoss);
        assert!(reading.next().await.is_none());
    }
}
