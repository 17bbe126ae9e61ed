//! ttrpc: framing, client, server, streams, deadlines.

pub mod code;
mod status;

pub use status::Status;
