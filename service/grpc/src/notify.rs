//! The events of records: what was created, changed and removed.

use api_shim::typeurl;
use base_ident::Namespace;
use prost::{Message, Name};
use runtime_event::Exchange;

/// Publishes events; a failure to do so never fails the call that it tells of.
#[derive(Clone)]
pub struct Notifier(Exchange);

impl Notifier {
    /// Events go to `exchange`.
    #[must_use]
    pub fn new(exchange: Exchange) -> Self {
        Notifier(exchange)
    }

    /// Publishes `event` under `topic`.
    pub fn publish<M: Message + Name>(&self, namespace: &Namespace, topic: &str, event: &M) {
        if let Err(error) = self.0.publish(namespace, topic, typeurl::encode(event)) {
            tracing::error!(topic, %error, "failed to publish event");
        }
    }
}
