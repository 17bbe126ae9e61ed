//! Bytes over a stream of messages. The receiver says how many it takes; no more are sent.

use api_grpc::transfer_types::{Data, WindowUpdate};
use api_shim::{Any, typeurl};
use base_errors::{Error, Result};
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;

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

/// Writes all that comes to `sink`, until the other end closes its side.
pub(super) async fn receive(
    sender: mpsc::Sender<Any>,
    mut receiver: tonic::Streaming<Any>,
    mut sink: impl AsyncWrite + Unpin,
) -> Result<()> {
    let mut window: i32 = 0;
    loop {
        if window < WINDOW / 2 {
            let update = typeurl::encode(&WindowUpdate { update: WINDOW });
            sender.send(update).await.map_err(|_| gone())?;
            window = window.saturating_add(WINDOW);
        }
        let message = receiver.message().await.map_err(api_grpc::status::from_status)?;
        let Some(message) = message else {
            sink.flush().await?;
            return Ok(());
        };
        let data = typeurl::decode::<Data>(&message).map_err(bad)?.data;
        window = window.saturating_sub(i32::try_from(data.len()).unwrap_or(i32::MAX));
        sink.write_all(&data).await?;
    }
}
