//! What the services call.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use base_errors::{Class, Error, Result};
use base_ident::Descriptor;
use kernel_mount::Mount;
use store_content::{NamespacedContent, NamespacedStore};
use store_diff::{ApplyOptions, CompareOptions, Differ};
use store_metadata::{Metadata, Scope};
use store_snapshot::{NamespacedSnapshots, NamespacedSnapshotter};

use crate::Notifier;

/// Runs garbage collections.
#[async_trait]
pub trait Collector: Send + Sync {
    /// Runs one collection that begins now, and waits for its end.
    async fn collect(&self) -> Result<()>;
}

/// The records, and the stores that they are about; cheap to clone.
#[derive(Clone)]
pub struct Stores {
    /// The records.
    pub metadata: Metadata,
    /// The content of all namespaces.
    pub content: NamespacedContent,
    /// The snapshots of all namespaces, by snapshotter.
    pub snapshots: Arc<BTreeMap<String, NamespacedSnapshots>>,
    /// What each snapshotter can do.
    pub capabilities: Arc<BTreeMap<String, Vec<String>>>,
    /// Tells clients what changed.
    pub notifier: Notifier,
}

impl Stores {
    /// The content store as `scope` sees it.
    #[must_use]
    pub fn content(&self, scope: &Scope) -> NamespacedStore {
        self.content.scope(scope.clone())
    }

    /// The snapshotter `name` as `scope` sees it.
    ///
    /// # Errors
    /// InvalidArgument without a name or for one that is not loaded.
    pub fn snapshotter(&self, scope: &Scope, name: &str) -> Result<NamespacedSnapshotter> {
        if name.is_empty() {
            return Err(Error::invalid_argument("snapshotter argument missing"));
        }
        let snapshots = self
            .snapshots
            .get(name)
            .ok_or_else(|| Error::invalid_argument(format!("snapshotter not loaded: {name}")))?;
        Ok(snapshots.scope(scope.clone()))
    }
}

/// Everything that the services of stores call; cheap to clone.
#[derive(Clone)]
pub struct Backends {
    /// The stores.
    pub stores: Stores,
    /// The differs, in the order in which they are tried.
    pub differs: Vec<Arc<dyn Differ>>,
    /// Collects garbage on demand.
    pub collector: Arc<dyn Collector>,
}

impl Backends {
    /// Applies `layer` to the tree of `mounts`. Differs are tried in order until one does not answer
    /// NotImplemented.
    ///
    /// # Errors
    /// Those of the differ.
    pub async fn apply(
        &self,
        scope: &Scope,
        layer: &Descriptor,
        mounts: &[Mount],
        options: ApplyOptions,
    ) -> Result<Descriptor> {
        let content = self.content(scope);
        let mut last = Error::not_implemented("no differ is loaded");
        for differ in &self.differs {
            match differ.apply(&content, layer, mounts, options.clone()).await {
                Err(error) if error.class() == Class::NotImplemented => last = error,
                outcome => return outcome,
            }
        }
        Err(last)
    }

    /// Writes what the tree of `upper` has changed against `lower` into the content store. Differs
    /// are tried as by [`Backends::apply`].
    ///
    /// # Errors
    /// Those of the differ.
    pub async fn compare(
        &self,
        scope: &Scope,
        lower: &[Mount],
        upper: &[Mount],
        options: CompareOptions,
    ) -> Result<Descriptor> {
        let content = self.content(scope);
        let mut last = Error::not_implemented("no differ is loaded");
        for differ in &self.differs {
            match differ.compare(&content, lower, upper, options.clone()).await {
                Err(error) if error.class() == Class::NotImplemented => last = error,
                outcome => return outcome,
            }
        }
        Err(last)
    }
}

impl std::ops::Deref for Backends {
    type Target = Stores;

    fn deref(&self) -> &Stores {
        &self.stores
    }
}
