//! Bytes over a stream of messages. The receiver says how many it takes; no more are sent.

use std::time::Duration;

use api_grpc::transfer_types::{Data, WindowUpdate};
use api_shim::{Any, typeurl};
use base_errors::{Error, Result};
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{mpsc, oneshot};

/// Bytes of one message, as containerd's ends send them.
const FRAME: usize = 32 << 10;

/// What we take at once: enough that the sender need not wait for us.
const WINDOW: i32 = 1 << 20;

fn gone() -> Error {
    Error::unavailable("the daemon closed the stream")
}

fn bad(error: typeurl::TypeUrlError) -> Error {
    Error::from(error).context("unexpected message")
}

/// Sends all of `source`, as far as the other end allows, and closes our side. An end that does
/// not take any more is no error here: it tells why in its answer.
pub(super) async fn send(
    sender: mpsc::Sender<Any>,
    mut receiver: tonic::Streaming<Any>,
    mut source: impl AsyncRead + Unpin,
) -> Result<()> {
    let mut window: usize = 0;
    let mut buffer = vec![0; FRAME];
    loop {
        while window == 0 {
            let Ok(Some(message)) = receiver.message().await else { return Ok(()) };
            let update = typeurl::decode::<WindowUpdate>(&message).map_err(bad)?.update;
            window = window.saturating_add(usize::try_from(update).unwrap_or(0));
        }
        let count = source.read(&mut buffer[..FRAME.min(window)]).await?;
        if count == 0 {
            // Our side is closed; leaving before the other end is done would take data back.
            drop(sender);
            while let Ok(Some(_)) = receiver.message().await {}
            return Ok(());
        }
        window -= count;
        let data = Data { data: Bytes::copy_from_slice(&buffer[..count]) };
        if sender.send(typeurl::encode(&data)).await.is_err() {
            return Ok(());
        }
    }
}

/// How long bytes may still be on their way after the daemon has said that it sent all.
const LATE: Duration = Duration::from_secs(10);

/// How long to listen for more after an archive's end.
const QUIET: Duration = Duration::from_millis(50);

/// Writes the archive that comes to `sink`, until the other end closes its side.
///
/// COMPAT: containerd never closes it. So when `sent` says that all is sent, an archive with its end
/// is whole if nothing more comes.
pub(super) async fn receive(
    sender: mpsc::Sender<Any>,
    mut receiver: tonic::Streaming<Any>,
    mut sink: impl AsyncWrite + Unpin,
    mut sent: oneshot::Receiver<()>,
) -> Result<()> {
    let mut sender = Some(sender);
    let mut window: i32 = 0;
    let mut tail = Tail::default();
    loop {
        if let Some(sender) = &sender
            && window < WINDOW / 2
        {
            let update = typeurl::encode(&WindowUpdate { update: WINDOW });
            sender.send(update).await.map_err(|_| gone())?;
            window = window.saturating_add(WINDOW);
        }
        let message = if sender.is_some() {
            tokio::select! {
                biased;
                message = receiver.message() => message,
                _ = &mut sent => {
                    // Our side closes first: a daemon that waits for it closes its own then.
                    sender = None;
                    continue;
                }
            }
        } else {
            let patience = if tail.is_end() { QUIET } else { LATE };
            match tokio::time::timeout(patience, receiver.message()).await {
                Ok(message) => message,
                Err(_) if tail.is_end() => Ok(None),
                Err(_) => return Err(Error::unavailable("the archive ends too early")),
            }
        };
        let Some(message) = message.map_err(api_grpc::status::from_status)? else {
            sink.flush().await?;
            return Ok(());
        };
        let data = typeurl::decode::<Data>(&message).map_err(bad)?.data;
        window = window.saturating_sub(i32::try_from(data.len()).unwrap_or(i32::MAX));
        tail.take(&data);
        sink.write_all(&data).await?;
    }
}

/// Knows the end of a tar archive: two blocks of zeros.
#[derive(Default)]
struct Tail {
    length: usize,
    zeros: usize,
}

impl Tail {
    const BLOCK: usize = 512;

    fn take(&mut self, data: &[u8]) {
        let zeros = data.iter().rev().take_while(|byte| **byte == 0).count();
        self.zeros = if zeros == data.len() { self.zeros + zeros } else { zeros };
        self.length += data.len();
    }

    fn is_end(&self) -> bool {
        self.length.is_multiple_of(Self::BLOCK) && self.zeros >= 2 * Self::BLOCK
    }
}

#[cfg(test)]
mod tests {
    use super::Tail;

    #[test]
    fn an_archive_ends_with_two_blocks_of_zeros() {
        let mut tail = Tail::default();
        assert!(!tail.is_end());
        tail.take(&[1; 512]);
        tail.take(&[0; 600]);
        assert!(!tail.is_end());
        tail.take(&[0; 424]);
        assert!(tail.is_end());
        tail.take(b"x");
        assert!(!tail.is_end());
    }
}
