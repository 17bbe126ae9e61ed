//! A lease for the time of one transfer.

use std::time::{Duration, SystemTime};

use base_errors::Result;
use base_ident::Labels;
use base_ident::timestamp;
use store_metadata::{Metadata, Scope};

/// After this time a lease that a crash has left is collected. As containerd's clients.
const EXPIRES: Duration = Duration::from_secs(24 * 60 * 60);

const LABEL_EXPIRE: &str = "containerd.io/gc.expire";

/// Holds what a transfer brings until its records do. The caller's own lease serves if it came with
/// one; otherwise one is made, and goes with the transfer.
pub(crate) struct Lease {
    metadata: Metadata,
    scope: Scope,
    own: Option<String>,
}

impl Lease {
    pub(crate) async fn take(metadata: &Metadata, scope: &Scope) -> Result<Self> {
        if scope.lease.is_some() {
            return Ok(Lease { metadata: metadata.clone(), scope: scope.clone(), own: None });
        }
        let id = format!("transfer-{}", crate::unpack::unique_part());
        let expires = timestamp::format(SystemTime::now() + EXPIRES);
        let labels = Labels::from([(LABEL_EXPIRE.to_owned(), expires)]);
        let (namespace_scope, lease_id) = (scope.clone(), id.clone());
        metadata
            .update(move |tx| Ok(tx.create_lease(&namespace_scope, &lease_id, &labels)?))
            .await?;
        Ok(Lease {
            metadata: metadata.clone(),
            scope: scope.clone().with_lease(id.clone()),
            own: Some(id),
        })
    }

    /// The caller's scope under the lease.
    pub(crate) fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Ends the lease, if it was made here. What no record holds by now may be collected.
    ///
    /// CANCEL: a lease that is dropped instead expires after a day.
    pub(crate) async fn release(self) {
        let Some(id) = self.own else { return };
        let scope = Scope::new(self.scope.namespace);
        let name = id.clone();
        let deleted = self.metadata.update(move |tx| Ok(tx.delete_lease(&scope, &name)?)).await;
        if let Err(error) = deleted {
            tracing::warn!(%error, lease = id, "cannot delete the lease of a transfer");
        }
    }
}
