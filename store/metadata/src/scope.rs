//! In which namespace, and under which lease, a call acts.

use base_ident::Namespace;

/// The namespace of a call and the lease that it holds, from the headers of the request.
///
/// What a call creates under a lease lives at least as long as the lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// The namespace.
    pub namespace: Namespace,
    /// The lease's id.
    pub lease: Option<String>,
}

impl Scope {
    /// A scope without a lease.
    #[must_use]
    pub fn new(namespace: Namespace) -> Self {
        Scope { namespace, lease: None }
    }

    /// The same namespace under the lease `id`.
    #[must_use]
    pub fn with_lease(mut self, id: impl Into<String>) -> Self {
        self.lease = Some(id.into());
        self
    }

    /// The namespace as a bucket's name.
    pub(crate) fn ns(&self) -> &[u8] {
        self.namespace.as_str().as_bytes()
    }
}

impl From<Namespace> for Scope {
    fn from(namespace: Namespace) -> Self {
        Scope::new(namespace)
    }
}
