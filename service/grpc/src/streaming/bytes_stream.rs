//! Bytes over a stream of messages, in windows.

use api_grpc::transfer_types::{Data, WindowUpdate};
use api_shim::typeurl;
use base_errors::{Error, Result};
use bytes::Bytes;
use tokio::sync::mpsc;

use super::Taken;

/// The most bytes in one message; what containerd's own ends use.
const FRAME: usize = 32 << 10;

/// Bytes that a client may send before we say that we have taken some. containerd grants 64 KiB;
/// more keeps the sender busy while a layer is written.
const WINDOW: i32 = 1 << 20;

/// Blocks of received bytes that wait for their reader.
const BLOCKS: usize = 8;

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

/// Sends all blocks of `source` over `stream`, as far as the client grants windows.
///
/// # Errors
/// Cancelled if the client goes away.
pub(crate) async fn send(stream: Taken, mut source: mpsc::Receiver<Bytes>) -> Result<()> {
    let Taken { mut incoming, outgoing } = stream;
    let gone = || Error::new(base_errors::Class::Cancelled, "the client closed the stream");
    let mut window: usize = 0;
    while let Some(mut block) = source.recv().await {
        while !block.is_empty() {
            while window == 0 {
                let message = incoming.recv().await.ok_or_else(gone)?;
                window += grant(&message)?;
            }
            while let Ok(message) = incoming.try_recv() {
                window = window.saturating_add(grant(&message)?);
            }
            let data = Data { data: block.split_to(FRAME.min(window).min(block.len())) };
            window -= data.data.len();
            outgoing.send(Ok(typeurl::encode(&data))).await.map_err(|_| gone())?;
        }
    }
    Ok(())
}

fn grant(message: &prost_types::Any) -> Result<usize> {
    let update = typeurl::decode::<WindowUpdate>(message)
        .map_err(|error| Error::invalid_argument(error.to_string()))?;
    Ok(usize::try_from(update.update).unwrap_or(0))
}
