//! The event exchange.
