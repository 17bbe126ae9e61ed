//! The event exchange: what happened, told to everybody who listens, without waiting for anybody.
//!
//! [`Exchange`] takes events by `publish` and `forward` and gives them to each [`Subscription`]
//! whose filters match. An [`Envelope`] is one event; all subscribers share it and its encoding.
//! [`Topic`]s are validated once.
//!
//! Errors: [`EventError`], with containerd's texts.
//!
//! Laws: a publisher never waits. Each subscriber has a bounded queue of its own; one that does not
//! keep up loses its own oldest events, with a warning, and nobody else's. Events are hints, records
//! are the truth: there is no replay, but for what is told to those who come back after a restart.

mod envelope;
mod error;
mod exchange;
mod fields;
mod subscription;
mod topic;

pub use envelope::Envelope;
pub use error::EventError;
pub use exchange::{Exchange, KEPT_FOR};
pub use subscription::{MAX_QUEUED, Subscription};
pub use topic::Topic;
