//! What a handler knows about its caller.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::wire::KeyValue;

/// Key under which the namespace travels in the metadata.
pub const NAMESPACE_KEY: &str = "containerd-namespace-ttrpc";

/// The process at the other end of a socket, as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Process id; unknown for some kinds of sockets.
    pub pid: Option<i32>,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// Metadata, deadline and peer of one call. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Context {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    metadata: Vec<KeyValue>,
    deadline: Option<Instant>,
    peer: Option<Peer>,
    /// Becomes true when the connection ends.
    gone: Option<watch::Receiver<bool>>,
}

impl Context {
    /// A context without metadata, deadline or connection.
    #[must_use]
    pub fn background() -> Self {
        Context::with_metadata([])
    }

    /// A context with metadata, without deadline or connection.
    #[must_use]
    pub fn with_metadata<const N: usize>(metadata: [(&str, &str); N]) -> Self {
        let metadata = metadata
            .into_iter()
            .map(|(key, value)| KeyValue { key: key.to_owned(), value: value.to_owned() })
            .collect();
        Context::new(metadata, None, None, None)
    }

    pub(crate) fn new(
        metadata: Vec<KeyValue>,
        timeout: Option<Duration>,
        peer: Option<Peer>,
        gone: Option<watch::Receiver<bool>>,
    ) -> Self {
        // A timeout beyond the clock's range is none.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        Context { inner: Arc::new(Inner { metadata, deadline, peer, gone }) }
    }

    /// The first value of `key`, whose case does not matter.
    #[must_use]
    pub fn metadata(&self, key: &str) -> Option<&str> {
        let mut lines = self.inner.metadata.iter();
        lines.find(|line| line.key.eq_ignore_ascii_case(key)).map(|line| line.value.as_str())
    }

    /// All values of `key`.
    pub fn metadata_values<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.inner
            .metadata
            .iter()
            .filter(move |line| line.key.eq_ignore_ascii_case(key))
            .map(|line| line.value.as_str())
    }

    /// The namespace of the call, unchecked.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        self.metadata(NAMESPACE_KEY)
    }

    /// When the caller stops to wait.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.inner.deadline
    }

    /// How long the caller still waits; zero after the deadline.
    #[must_use]
    pub fn remaining(&self) -> Option<Duration> {
        self.inner.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// The process that calls, if the listener knows it.
    #[must_use]
    pub fn peer(&self) -> Option<Peer> {
        self.inner.peer
    }

    /// True once nobody waits for the answer: the connection has ended or the deadline passed.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        let gone = self.inner.gone.as_ref().is_some_and(|gone| *gone.borrow());
        gone || self.remaining().is_some_and(|left| left.is_zero())
    }

    /// Returns once nobody waits for the answer. A handler that may wait for long (`Wait`) selects
    /// on this; a handler that changes things ignores it and finishes.
    pub async fn cancelled(&self) {
        let connection = async {
            match &self.inner.gone {
                Some(gone) => until(&mut gone.clone(), |gone| *gone).await,
                None => pending().await,
            }
        };
        let deadline = async {
            match self.inner.deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = connection => {}
            () = deadline => {}
        }
    }
}

/// Waits until the value is as wanted, or its sender is gone, which means the same.
pub(crate) async fn until<T>(value: &mut watch::Receiver<T>, wanted: impl FnMut(&T) -> bool) {
    // The guard inside the result must not live across an await.
    let _ = value.wait_for(wanted).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_keys_ignore_case() {
        let context = Context::with_metadata([("Containerd-Namespace-Ttrpc", "moby"), ("a", "1")]);
        assert_eq!(context.namespace(), Some("moby"));
        assert_eq!(context.metadata("A"), Some("1"));
        assert_eq!(context.metadata("b"), None);
        assert!(!context.is_cancelled());
    }
}
