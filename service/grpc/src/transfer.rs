//! `containerd.services.transfer.v1`.

use std::sync::Arc;

use crate::Backends;
use crate::streaming::Streams;

/// Moves images between archives, registries and the store.
pub struct TransferService {
    /// The stores.
    pub backends: Backends,
    /// Where the client's byte streams are.
    pub streams: Streams,
    _private: Arc<()>,
}
