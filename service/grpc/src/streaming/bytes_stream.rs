//! Bytes over a stream of messages, in windows.

use std::time::Duration;

use api_grpc::transfer_types::{Data, WindowUpdate};
use api_shim::typeurl;
use base_errors::{Error, Result};
use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;

use super::Taken;

/// The most bytes in one message; what containerd's own ends use.
const FRAME: usize = 32 << 10;

/// Bytes that a client may send before we say that we have taken some. containerd grants 64 KiB;
/// more keeps the sender busy while a layer is written.
const WINDOW: i32 = 1 << 20;

/// Blocks of received bytes that wait for their reader.
const BLOCKS: usize = 8;

/// The largest first grant of a client whose last grant is waited for: so much is kept back. Our own
/// client grants more, and knows the end of an archive.
const MAX_STEP: usize = 256 << 10;

/// How long the last grant is waited for: the client may have a slow disk, or another rule.
const PATIENCE: Duration = Duration::from_secs(5);

/// The bytes that the client sends over `stream`, in order.
///
/// Runs until the client closes its side or the receiver is dropped; a message that is no data
/// ends it with an error.
pub(crate) fn receive(stream: Taken) -> mpsc::Receiver<std::io::Result<Bytes>> {
    let (sender, receiver) = mpsc::channel(BLOCKS);
    tokio::spawn(async move {
        let Taken { mut incoming, outgoing } = stream;
        let mut window = 0;
        loop {
            if window < WINDOW / 2 {
                let update = typeurl::encode(&WindowUpdate { update: WINDOW });
                if outgoing.send(Ok(update)).await.is_err() {
                    return;
                }
                window += WINDOW;
            }
            let Some(message) = incoming.recv().await else { return };
            let block = match typeurl::decode::<Data>(&message) {
                Ok(data) => data.data,
                Err(error) => {
                    let error = std::io::Error::new(std::io::ErrorKind::InvalidData, error);
                    let _ = sender.send(Err(error)).await;
                    return;
                }
            };
            window = window.saturating_sub(i32::try_from(block.len()).unwrap_or(i32::MAX));
            if sender.send(Ok(block)).await.is_err() {
                return;
            }
        }
    });
    receiver
}

/// Sends all blocks of `source` over `stream`, as far as the client grants windows, and waits until
/// the client has taken them, as far as its grants tell.
///
/// A client of containerd's library grants a step (64 KiB) at first, and another one whenever less than
/// that is left after a message that it took. So a message that begins at a multiple of the step is
/// always answered by a grant. The last message is one of these.
///
/// COMPAT: containerd does not wait; its `ctr images export` may end before it has written what is on
/// its way, and the archive is cut off.
///
/// # Errors
/// Cancelled if the client goes away.
pub(crate) async fn send(stream: Taken, mut source: mpsc::Receiver<Bytes>) -> Result<()> {
    let Some(first) = source.recv().await else { return Ok(()) };
    let mut sender = Sender::begin(stream).await?;
    let step = sender.granted;
    if step > MAX_STEP {
        sender.send(first).await?;
        while let Some(block) = source.recv().await {
            sender.send(block).await?;
        }
        return Ok(());
    }
    let mut held = BytesMut::with_capacity(step);
    let mut next = Some(first);
    while let Some(mut block) = next {
        while held.len() + block.len() > step {
            held.extend_from_slice(&block.split_to(step - held.len()));
            sender.send(held.split().freeze()).await?;
        }
        held.extend_from_slice(&block);
        next = source.recv().await;
    }
    sender.send_last(held.freeze(), step).await
}

/// The sending end of a stream.
struct Sender {
    stream: Taken,
    /// The sum of the client's grants, in bytes.
    granted: usize,
    /// Bytes that were sent.
    sent: usize,
}

fn gone() -> Error {
    Error::new(base_errors::Class::Cancelled, "the client closed the stream")
}

impl Sender {
    /// Waits for the first grant.
    async fn begin(stream: Taken) -> Result<Self> {
        let mut sender = Sender { stream, granted: 0, sent: 0 };
        sender.wait(1).await?;
        Ok(sender)
    }

    /// Waits until the sum of the grants is `wanted`.
    async fn wait(&mut self, wanted: usize) -> Result<()> {
        while self.granted < wanted {
            let message = self.stream.incoming.recv().await.ok_or_else(gone)?;
            self.granted = self.granted.saturating_add(grant(&message)?);
        }
        Ok(())
    }

    /// Sends `block` in frames, each as soon as the window has room for some of it.
    async fn send(&mut self, mut block: Bytes) -> Result<()> {
        while !block.is_empty() {
            self.wait(self.sent + 1).await?;
            while let Ok(message) = self.stream.incoming.try_recv() {
                self.granted = self.granted.saturating_add(grant(&message)?);
            }
            let window = self.granted - self.sent;
            self.send_frame(block.split_to(FRAME.min(window).min(block.len()))).await?;
        }
        Ok(())
    }

    async fn send_frame(&mut self, data: Bytes) -> Result<()> {
        self.sent += data.len();
        let message = typeurl::encode(&Data { data });
        self.stream.outgoing.send(Ok(message)).await.map_err(|_| gone())
    }

    /// Sends the last bytes, at most a step that begins at a multiple of it, in one message, and
    /// waits for its grant.
    async fn send_last(&mut self, block: Bytes, step: usize) -> Result<()> {
        if block.is_empty() {
            return Ok(());
        }
        // One step for those before, one for the first grant, and one for this.
        let taken = self.sent + 2 * step;
        self.wait(self.sent + block.len()).await?;
        self.send_frame(block).await?;
        match tokio::time::timeout(PATIENCE, self.wait(taken)).await {
            // A client that has all may go.
            Ok(_) => {}
            Err(_) => tracing::debug!("a client does not tell that it took the last bytes"),
        }
        Ok(())
    }
}

fn grant(message: &prost_types::Any) -> Result<usize> {
    let update = typeurl::decode::<WindowUpdate>(message)
        .map_err(|error| Error::invalid_argument(error.to_string()))?;
    Ok(usize::try_from(update.update).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client of containerd's library: what it took when `send` had ended, and in the end.
    async fn sent(blocks: &[usize], step: i32) -> (usize, usize) {
        let (grants, incoming) = mpsc::channel(16);
        let (outgoing, mut messages) = mpsc::channel::<Result<prost_types::Any, _>>(16);
        let taken = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counter = taken.clone();
        let client = tokio::spawn(async move {
            let mut window = 0;
            loop {
                if window < step {
                    let update = typeurl::encode(&WindowUpdate { update: step });
                    if grants.send(update).await.is_ok() {
                        window += step;
                    }
                }
                let Some(message) = messages.recv().await else { return };
                let message = message.unwrap();
                let length = typeurl::decode::<Data>(&message).unwrap().data.len();
                window -= i32::try_from(length).unwrap();
                assert!(window >= 0, "more than was granted");
                // Slower than who sends.
                tokio::time::sleep(Duration::from_millis(1)).await;
                counter.fetch_add(length, std::sync::atomic::Ordering::SeqCst);
            }
        });
        let (sender, source) = mpsc::channel(2);
        let blocks: Vec<_> = blocks.iter().map(|length| Bytes::from(vec![7; *length])).collect();
        let (outcome, ()) =
            futures_util::join!(send(Taken { incoming, outgoing }, source), async {
                for block in blocks {
                    sender.send(block).await.unwrap();
                }
                drop(sender);
            });
        outcome.unwrap();
        let at_the_end_of_send = taken.load(std::sync::atomic::Ordering::SeqCst);
        client.await.unwrap();
        (at_the_end_of_send, taken.load(std::sync::atomic::Ordering::SeqCst))
    }

    #[tokio::test(start_paused = true)]
    async fn the_client_has_taken_all_when_sending_ends() {
        const STEP: usize = 64 << 10;
        for total in
            [0, 1, 511, FRAME, STEP - 1, STEP, STEP + 1, 2 * STEP, 5 * STEP + FRAME, 1_000_000]
        {
            for block in [1000, FRAME, STEP, 100_000, 2_000_000] {
                let mut blocks = vec![block; total / block];
                blocks.push(total % block);
                let start = tokio::time::Instant::now();
                assert_eq!(sent(&blocks, 64 << 10).await, (total, total), "in blocks of {block}");
                assert!(start.elapsed() < PATIENCE, "{total} in blocks of {block}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_grants_much_is_not_waited_for() {
        let (_, taken) = sent(&[3_000_000], WINDOW).await;
        assert_eq!(taken, 3_000_000);
    }
}
