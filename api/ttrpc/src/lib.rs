//! ttrpc: framing, client, server, streams, deadlines.
//!
//! gRPC's calls without HTTP/2: ten bytes of header, one protobuf message, over a unix socket. It
//! is what containerd and its shims speak.
//!
//! * [`Server`] dispatches to [`Service`]s by name, which generated code implements; handlers get a
//!   [`Context`] with metadata, deadline and peer.
//! * [`Client`] calls; all calls of one connection run at once. [`CallOptions`] carry timeout and
//!   metadata.
//! * [`ServerStream`] and [`ClientStream`] are the ends of streaming calls.
//! * [`Status`] is the only error; [`code`] holds the one table between codes and error classes.
//!
//! Laws: an answer is sent for every request that could be read; an oversize message costs its
//! call, not the connection; a handler is never dropped half way because its caller left; every
//! queue is bounded ([`MAX_CALLS`], [`MAX_PENDING`], [`MAX_CONNECTIONS`], [`MAX_MESSAGE_SIZE`]).
//! Works on a single-threaded runtime; an idle connection holds about 4 KiB.

mod client;
pub mod code;
mod context;
mod frame;
mod server;
mod service;
mod status;
mod stream;
mod wire;

pub use bytes::Bytes;
pub use client::{CallOptions, Client, MAX_PENDING};
pub use context::{Context, NAMESPACE_KEY, Peer};
pub use frame::MAX_MESSAGE_SIZE;
pub use futures_util::future::BoxFuture;
pub use server::{ListenOptions, MAX_CALLS, MAX_CONNECTIONS, Server, bind};
pub use service::{MethodKind, Service, decode_request};
pub use status::Status;
pub use stream::{ClientStream, ServerStream};
