//! Reading over the wire.

use std::io;

use api_grpc::content::ReadContentRequest;
use api_grpc::content::content_client::ContentClient;
use tokio::runtime::Handle;
use tonic::transport::Channel;

use super::Headers;
use crate::store::{ContentReader, Info};

/// A blob of a proxied store. Each read is a call of its own.
pub(super) struct ProxyReader {
    client: ContentClient<Channel>,
    headers: Headers,
    info: Info,
    runtime: Handle,
}

impl ProxyReader {
    /// Must be called inside of the runtime that drives the channel.
    pub(super) fn new(client: ContentClient<Channel>, headers: Headers, info: Info) -> Self {
        ProxyReader { client, headers, info, runtime: Handle::current() }
    }
}

impl ContentReader for ProxyReader {
    fn size(&self) -> u64 {
        self.info.size
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = self.info.size.saturating_sub(offset);
        let want = usize::try_from(rest).unwrap_or(usize::MAX).min(buffer.len());
        if want == 0 {
            return Ok(0);
        }
        let invalid = |_| io::Error::from(io::ErrorKind::InvalidInput);
        let request = self.headers.request(ReadContentRequest {
            digest: self.info.digest.to_string(),
            offset: i64::try_from(offset).map_err(invalid)?,
            size: i64::try_from(want).map_err(invalid)?,
        });
        let mut client = self.client.clone();
        let (answer, done) = std::sync::mpsc::sync_channel(1);
        // The caller's thread waits here for it: it is not one of the reactor's (see the trait).
        let call = self.runtime.spawn(async move {
            let result = async {
                let mut stream = client.read(request).await?.into_inner();
                let mut bytes = Vec::with_capacity(want);
                while let Some(part) = stream.message().await? {
                    bytes.extend_from_slice(&part.data);
                    if bytes.len() >= want {
                        bytes.truncate(want);
                        break;
                    }
                }
                Ok::<_, tonic::Status>(bytes)
            };
            // The receiver waits until this is sent.
            drop(answer.send(result.await));
        });
        let bytes = done.recv().map_err(io::Error::other)?.map_err(io::Error::other)?;
        drop(call);
        buffer[..bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }
}
