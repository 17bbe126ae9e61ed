//! The API of containerd 0.2 (package `types`, service `types.API`), a second face on the supervisor.
//!
//! [`Api`] is the service: it turns the twelve calls into calls on the supervisor and the records of
//! one namespace, and answers in 0.2's words. Two things are its own, because nothing newer has
//! them: the state folder with what a client told about its containers ([`Config::state_dir`]), and
//! the log of events that can be replayed ([`EventLog`]). [`Address`] is
//! where 0.2's command line lets a daemon listen.
//!
//! Errors: [`ApiError`]. Its texts and codes are those of 0.2.9, because clients match on them; so
//! they do not go through the table of classes that the newer services use.
//!
//! Laws: all state of tasks is the supervisor's; this crate asks it. An exit is recorded in the
//! state folder before the task is deleted, the task is deleted before its exit is told, and the
//! folder is removed after it: whenever the daemon dies, the next one finishes exactly what is
//! left, so that no exit is lost or told twice. The exits of execs come before the one of their
//! container, which is its last event. A start has a deadline; the client's departure does not end
//! it. A subscriber that does not read loses its own events and delays nobody. Nothing in a state
//! folder that is not ours is removed.

mod address;
mod adopt;
mod checkpoint;
mod config;
mod container;
mod create;
mod engine;
mod error;
mod event_log;
mod exec;
mod exit;
mod legacy;
mod linger;
mod metrics;
mod process;
mod runtime;
mod service;
mod spec;
mod state;
mod stats;
mod time;

pub use address::{Address, AddressError};
pub use config::Config;
pub use engine::{Api, Parts};
pub use error::ApiError;
pub use event_log::{Event, EventLog, Kind};
pub use metrics::{Report, Sink, SinkError};
