//! Why an event or a subscription is refused.

use base_errors::{Class, Coded};
use base_ident::IdentError;

/// An event or a subscription that is not valid. The texts are containerd's.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// No topic at all.
    #[error("envelope topic \"\": must not be empty")]
    TopicEmpty,
    /// The topic is not a path.
    #[error("envelope topic {0:?}: must start with '/'")]
    TopicRelative(String),
    /// Only a slash.
    #[error("envelope topic {0:?}: must have at least one component")]
    TopicRoot(String),
    /// A part of the topic breaks the identifier rule.
    #[error("envelope topic {topic:?}: failed validation on component {component:?}: {source}")]
    TopicComponent {
        /// The whole topic.
        topic: String,
        /// The part.
        component: String,
        /// What is wrong with it.
        source: IdentError,
    },
    /// A forwarded event has no usable namespace.
    #[error("event envelope has invalid namespace: {0}")]
    Namespace(IdentError),
    /// A forwarded event has no time.
    #[error("timestamp must be set on forwarded event")]
    TimestampMissing,
    /// A filter does not parse.
    #[error("failed parsing subscription filters: {0}")]
    Filters(IdentError),
    /// Too many subscribers at once.
    #[error("too many subscribers ({0})")]
    Subscribers(usize),
}

impl Coded for EventError {
    fn class(&self) -> Class {
        match self {
            EventError::Subscribers(_) => Class::ResourceExhausted,
            EventError::TopicEmpty
            | EventError::TopicRelative(_)
            | EventError::TopicRoot(_)
            | EventError::TopicComponent { .. }
            | EventError::Namespace(_)
            | EventError::TimestampMissing
            | EventError::Filters(_) => Class::InvalidArgument,
        }
    }
}
