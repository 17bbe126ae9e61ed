//! `containerd publish`: how shims of old sent their events.

use std::io::Read as _;

use anyhow::{Context, Result};
use api_grpc::events::PublishRequest;
use api_grpc::events::events_client::EventsClient;
use prost_types::Any;

/// The largest event on standard input, in bytes; events are a few hundred.
const MAX_EVENT: u64 = 4 << 20;

/// Publishes the encoded `Any` on standard input under `topic`.
pub fn run(address: &str, namespace: &str, topic: &str) -> Result<()> {
    let mut encoded = Vec::new();
    std::io::stdin().take(MAX_EVENT).read_to_end(&mut encoded).context("read the event")?;
    let event =
        <Any as api_shim::Message>::decode(encoded.as_slice()).context("decode the event")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let channel = tonic::transport::Endpoint::try_from(format!("unix://{address}"))?
            .connect()
            .await
            .with_context(|| format!("connect to {address}"))?;
        let mut request =
            tonic::Request::new(PublishRequest { topic: topic.to_owned(), event: Some(event) });
        request.metadata_mut().insert(api_grpc::NAMESPACE_HEADER, namespace.parse()?);
        EventsClient::new(channel).publish(request).await.context("publish")?;
        Ok(())
    })
}
