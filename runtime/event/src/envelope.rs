//! One event on its way.

use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use base_ident::Namespace;
use base_ident::filter::Adaptor;
use prost::Message as _;
use prost_types::{Any, Timestamp};

use crate::{Topic, fields};

/// One event: when, where, what about, and what.
///
/// Shared between all subscribers by `Arc`; its wire form is made at most once.
#[derive(Debug)]
pub struct Envelope {
    /// When it happened.
    pub timestamp: Timestamp,
    /// The namespace in which it happened.
    pub namespace: Namespace,
    /// What it is about.
    pub topic: Topic,
    /// The event itself, with a bare type name as its URL.
    pub event: Any,
    encoded: OnceLock<Vec<u8>>,
}

/// `containerd.types.Envelope`, for encoding from references.
#[derive(Clone, PartialEq, prost::Message)]
struct Wire {
    #[prost(message, optional, tag = "1")]
    timestamp: Option<Timestamp>,
    #[prost(string, tag = "2")]
    namespace: String,
    #[prost(string, tag = "3")]
    topic: String,
    #[prost(message, optional, tag = "4")]
    event: Option<Any>,
}

impl Envelope {
    /// An event that happened at `timestamp`.
    #[must_use]
    pub fn new(timestamp: Timestamp, namespace: Namespace, topic: Topic, event: Any) -> Self {
        Envelope { timestamp, namespace, topic, event, encoded: OnceLock::new() }
    }

    /// The bytes of this event as a `containerd.types.Envelope` message; made once, then shared.
    #[must_use]
    pub fn encoded(&self) -> &[u8] {
        self.encoded.get_or_init(|| {
            Wire {
                timestamp: Some(self.timestamp),
                namespace: self.namespace.as_str().to_owned(),
                topic: self.topic.as_str().to_owned(),
                event: Some(self.event.clone()),
            }
            .encode_to_vec()
        })
    }
}

/// The fields of an event that filters see: `namespace`, `topic`, `event.<path>`.
impl Adaptor for Envelope {
    fn field(&self, path: &[&str]) -> Option<String> {
        match path {
            ["namespace"] => Some(self.namespace.as_str().to_owned()),
            ["topic"] => Some(self.topic.as_str().to_owned()),
            ["event", inner @ ..] => fields::lookup(&self.event, inner),
            _ => None,
        }
    }
}

/// The current time as a protobuf timestamp.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_form_is_an_envelope_message() {
        let event =
            Any { type_url: "containerd.events.TaskOOM".to_owned(), value: vec![10, 1, 97] };
        let envelope = Envelope::new(
            Timestamp { seconds: 1, nanos: 2 },
            Namespace::new("ns").unwrap(),
            Topic::new("/tasks/oom").unwrap(),
            event.clone(),
        );
        let wire = Wire::decode(envelope.encoded()).unwrap();
        assert_eq!(wire.timestamp, Some(Timestamp { seconds: 1, nanos: 2 }));
        assert_eq!((wire.namespace.as_str(), wire.topic.as_str()), ("ns", "/tasks/oom"));
        assert_eq!(wire.event, Some(event));
        assert!(std::ptr::eq(envelope.encoded(), envelope.encoded()));
    }
}
