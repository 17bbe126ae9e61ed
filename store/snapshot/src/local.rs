//! What snapshotters with tree records have in common: names and kinds are records, trees are a
//! backend's.
//!
//! A tree is made first, under a name that nobody looks for; the transaction that makes its record
//! gives it its own. It is removed after its record. What a crash leaves in between has no record,
//! and goes with the cleanup.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use base_errors::{Error, Result};
use base_ident::Labels;
use kernel_mount::Mount;

use crate::error::{SnapshotError, blocking};
use crate::labels;
use crate::snapshotter::{Info, Kind, Snapshotter, UpdateField, Usage};
use crate::storage::{Storage, Tree};

/// A tree that is about to be made.
pub(crate) struct New<'a> {
    /// Active or view.
    pub(crate) kind: Kind,
    /// Its id, for backends that need it before there is a record.
    pub(crate) id: Option<u64>,
    /// Its parent's id and labels.
    pub(crate) parent: Option<(u64, &'a Labels)>,
}

/// A tree on its way: dropping it removes it.
pub(crate) trait Draft: Send + 'static {
    /// Gives the tree its place. Called in a transaction: it only renames.
    fn place(&mut self, id: u64) -> Result<()>;
    /// The record is durable: the tree stays.
    fn settle(self);
}

/// None: a view that shows its parent's tree.
impl<D: Draft> Draft for Option<D> {
    fn place(&mut self, id: u64) -> Result<()> {
        self.as_mut().map_or(Ok(()), |draft| draft.place(id))
    }

    fn settle(self) {
        if let Some(draft) = self {
            draft.settle();
        }
    }
}

/// Makes, shows and removes trees. All methods block.
pub(crate) trait Backend: Send + Sync + 'static {
    /// What [`Backend::make`] gives.
    type Draft: Draft;
    /// Trees need their id when they are made.
    const NEEDS_ID: bool = false;
    /// Parentless snapshots can be committed onto a parent.
    const REBASE: bool = false;
    /// Recorded usage is that of the whole tree; a snapshot's own is the difference to its parent.
    const TOTALS: bool = false;
    /// A label that the backend writes or shows, which clients do not change.
    const OWN_LABEL: Option<&'static str> = None;

    /// Makes a tree; may add labels.
    fn make(&self, new: &New<'_>, labels: &mut Labels) -> Result<Self::Draft>;
    /// Work on the tree that is in its place now; an error removes it again.
    fn placed(&self, _tree: &Tree, _labels: &Labels) -> Result<()> {
        Ok(())
    }
    /// A record as clients see it.
    fn shown(&self, _id: u64, info: Info) -> Info {
        info
    }
    /// The mounts of an active snapshot or view.
    fn mounts(&self, tree: &Tree, labels: &Labels) -> Result<Vec<Mount>>;
    /// What an active snapshot takes.
    fn measure(&self, id: u64, parent: Option<u64>) -> Result<Usage>;
    /// Makes an active tree one that never changes, and durable; may carry over labels. Gives what
    /// it takes, and what has to live until the record is made.
    fn seal(
        &self,
        id: u64,
        parent: Option<u64>,
        _before: &Info,
        _labels: &mut Labels,
    ) -> Result<(Usage, Box<dyn Send>)> {
        self.flush(id)?;
        Ok((self.measure(id, parent)?, Box::new(())))
    }
    /// Makes durable what was written into an active tree. INVARIANT: whoever leaves it out has a
    /// [`Backend::seal`] of its own that does it.
    fn flush(&self, _id: u64) -> Result<()> {
        Ok(())
    }
    /// The record of the commit is durable.
    fn sealed(&self, _id: u64) {}
    /// The commit failed: the snapshot stays active.
    fn unseal(&self, _id: u64) {}
    /// The record is gone; so must the tree be. A failure leaves it to the cleanup.
    fn removed(&self, id: u64, kind: Kind, labels: &Labels) -> Result<()>;
    /// Removes trees that have no record.
    fn cleanup(&self, storage: &Storage) -> Result<()>;
}

/// A snapshotter over a backend.
pub(crate) struct Local<B> {
    shared: Arc<Shared<B>>,
}

struct Shared<B> {
    storage: Storage,
    backend: B,
    /// Ids of snapshots that are being committed.
    sealing: Mutex<BTreeSet<u64>>,
}

impl<B> Clone for Local<B> {
    fn clone(&self) -> Self {
        Local { shared: Arc::clone(&self.shared) }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Holders change one value in one step, so a panic cannot have torn it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<B> Shared<B> {
    fn sealing(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        lock(&self.sealing)
    }
}

/// The right to commit one snapshot.
struct Sealing<B>(Arc<Shared<B>>, u64);

impl<B> Drop for Sealing<B> {
    fn drop(&mut self) {
        self.0.sealing().remove(&self.1);
    }
}

impl<B: Backend> Local<B> {
    /// The backend.
    pub(crate) fn backend(&self) -> &B {
        &self.shared.backend
    }

    pub(crate) fn new(storage: Storage, backend: B) -> Self {
        Local { shared: Arc::new(Shared { storage, backend, sealing: Mutex::default() }) }
    }

    /// CANCEL: a tree that is given up is made to its end and removed.
    async fn create(
        &self,
        kind: Kind,
        key: &str,
        parent: &str,
        mut labels: Labels,
    ) -> Result<Vec<Mount>> {
        let (key, parent) = (key.to_owned(), parent.to_owned());
        // What is wrong already costs no tree; the transaction checks it again.
        let below = self.shared.storage.view(|tx| {
            if tx.has(&key)? {
                return Err(SnapshotError::Exists(key.clone()).into());
            }
            if parent.is_empty() {
                return Ok(None);
            }
            if !tx.has(&parent)? {
                return Err(SnapshotError::ParentNotFound(parent.clone()).into());
            }
            match tx.info(&parent)? {
                (id, info, _) if info.kind == Kind::Committed => Ok(Some((id, info.labels))),
                _ => Err(SnapshotError::ParentNotCommitted(parent.clone()).into()),
            }
        })?;
        if key.is_empty() {
            return Err(SnapshotError::KeyEmpty.into());
        }
        let id = match B::NEEDS_ID {
            true => Some(self.shared.storage.update(|tx| tx.reserve_id()).await?),
            false => None,
        };
        let shared = Arc::clone(&self.shared);
        let nearest = below.as_ref().map(|(id, _)| *id);
        let (draft, labels) = blocking(move || {
            let parent = below.as_ref().map(|(id, labels)| (*id, labels));
            let draft = shared.backend.make(&New { kind, id, parent }, &mut labels)?;
            Ok((draft, labels))
        })
        .await?;
        // Taken by who makes the record durable. Otherwise it is removed here: that can take long,
        // and must not happen in the transaction.
        let slot = Arc::new(Mutex::new(Some(draft)));
        let placing = Arc::clone(&slot);
        let (stored, own) = (labels.clone(), key.clone());
        let recorded = self
            .shared
            .storage
            .update(move |tx| {
                let tree = tx.create_as(id, kind, &own, &parent, &stored)?;
                if tree.parents.first().copied() != nearest {
                    return Err(SnapshotError::Replaced(parent).into());
                }
                if let Some(draft) = lock(&placing).as_mut() {
                    draft.place(tree.id)?;
                }
                tx.on_commit(move || {
                    if let Some(draft) = lock(&placing).take() {
                        draft.settle();
                    }
                });
                Ok(tree)
            })
            .await;
        let tree = match recorded {
            Ok(tree) => tree,
            Err(error) => {
                blocking(move || {
                    drop(slot);
                    Ok(())
                })
                .await?;
                return Err(error);
            }
        };
        let shared = Arc::clone(&self.shared);
        let made = blocking(move || {
            shared.backend.placed(&tree, &labels)?;
            shared.backend.mounts(&tree, &labels)
        })
        .await;
        if made.is_err()
            && let Err(error) = self.remove(&key).await
        {
            tracing::warn!(key, %error, "cannot remove a snapshot that could not be made");
        }
        made
    }
}

#[async_trait]
impl<B: Backend> Snapshotter for Local<B> {
    async fn stat(&self, key: &str) -> Result<Info> {
        let (id, info, _) = self.shared.storage.view(|tx| tx.info(key))?;
        Ok(self.shared.backend.shown(id, info))
    }

    async fn update(&self, info: &Info, fields: &[UpdateField]) -> Result<Info> {
        let (mut new, fields) = (info.clone(), fields.to_vec());
        let (id, info) = self
            .shared
            .storage
            .update(move |tx| {
                let (id, old, _) = tx.view()?.info(&new.name)?;
                if let Some(own) = B::OWN_LABEL {
                    // As it was, also for clients that replace all labels by those they know.
                    match old.labels.get(own) {
                        Some(value) => new.labels.insert(own.to_owned(), value.clone()),
                        None => new.labels.remove(own),
                    };
                }
                Ok((id, tx.update(&new, &fields)?))
            })
            .await?;
        Ok(self.shared.backend.shown(id, info))
    }

    async fn usage(&self, key: &str) -> Result<Usage> {
        let (id, info, recorded, parent) = self.shared.storage.view(|tx| {
            let (id, info, usage) = tx.info(key)?;
            let parent = match info.parent.as_str() {
                "" => None,
                parent => Some(tx.info(parent).map(|(id, _, usage)| (id, usage))?),
            };
            Ok((id, info, usage, parent))
        })?;
        let mut usage = recorded;
        if info.kind == Kind::Active {
            let shared = Arc::clone(&self.shared);
            let below = parent.map(|(id, _)| id);
            usage = blocking(move || shared.backend.measure(id, below)).await?;
        }
        if let (true, Some((_, below))) = (B::TOTALS, parent) {
            usage.size = usage.size.saturating_sub(below.size);
        }
        Ok(usage)
    }

    async fn mounts(&self, key: &str) -> Result<Vec<Mount>> {
        let (tree, labels) =
            self.shared.storage.view(|tx| Ok((tx.tree(key)?, tx.info(key)?.1.labels)))?;
        let shared = Arc::clone(&self.shared);
        blocking(move || shared.backend.mounts(&tree, &labels)).await
    }

    async fn prepare(&self, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>> {
        self.create(Kind::Active, key, parent, labels).await
    }

    async fn view(&self, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>> {
        self.create(Kind::View, key, parent, labels).await
    }

    /// CANCEL: a commit that is given up is made, or undone, to its end.
    async fn commit(&self, name: &str, key: &str, labels: Labels, parent: &str) -> Result<()> {
        let context = |error: Error| error.context(format!("failed to commit snapshot {key}"));
        let (id, info, below, taken) = self.shared.storage.view(|tx| {
            let (id, info, _) = tx.info(key)?;
            let below = match info.parent.as_str() {
                "" => None,
                parent => Some(tx.info(parent)?.0),
            };
            Ok((id, info, below, tx.has(name)?))
        })?;
        if info.kind != Kind::Active {
            return Err(context(SnapshotError::NotActive(key.to_owned()).into()));
        }
        // A tree that holds what its parent holds cannot be put onto another one.
        if !B::REBASE && !parent.is_empty() && parent != info.parent {
            return Err(context(SnapshotError::RebaseUnsupported(key.to_owned()).into()));
        }
        // Sealing is work that a name which is taken already is not worth; the transaction checks
        // it again.
        if taken {
            return Err(context(SnapshotError::NameExists(name.to_owned()).into()));
        }
        if !self.shared.sealing().insert(id) {
            return Err(context(SnapshotError::Busy(key.to_owned()).into()));
        }
        let sealing = Sealing(Arc::clone(&self.shared), id);
        let (name, owned, parent) = (name.to_owned(), key.to_owned(), parent.to_owned());
        let mut labels = labels;
        // Of its own, so that a caller who goes away does not leave it half done.
        let whole = tokio::spawn(async move {
            let shared = Arc::clone(&sealing.0);
            let (usage, keep, labels) = blocking(move || {
                let (usage, keep) = shared.backend.seal(id, below, &info, &mut labels)?;
                Ok((usage, keep, labels))
            })
            .await?;
            let recorded = sealing
                .0
                .storage
                .update(move |tx| tx.commit(id, &owned, &name, usage, &labels, &parent))
                .await;
            let shared = Arc::clone(&sealing.0);
            let done = recorded.is_ok();
            blocking(move || {
                if done {
                    shared.backend.sealed(id)
                } else {
                    shared.backend.unseal(id)
                }
                Ok(())
            })
            .await?;
            drop((keep, sealing));
            recorded
        });
        whole.await.map_err(SnapshotError::from)?.map_err(context)
    }

    async fn remove(&self, key: &str) -> Result<()> {
        let owned = key.to_owned();
        let (id, kind, labels) = self
            .shared
            .storage
            .update(move |tx| {
                let labels = tx.view()?.info(&owned)?.1.labels;
                let (id, kind) = tx.remove(&owned)?;
                Ok((id, kind, labels))
            })
            .await
            .map_err(|error| error.context(format!("failed to remove snapshot {key}")))?;
        let shared = Arc::clone(&self.shared);
        blocking(move || {
            // The record is gone, so this is garbage whatever happens.
            if let Err(error) = shared.backend.removed(id, kind, &labels) {
                tracing::warn!(id, %error, "failed to remove the tree of a snapshot");
            }
            Ok(())
        })
        .await
    }

    async fn list(&self, filters: &[String]) -> Result<Vec<Info>> {
        let filter = labels::parse(filters)?;
        let list = self.shared.storage.view(|tx| tx.list(&filter))?;
        let backend = &self.shared.backend;
        Ok(list.into_iter().map(|(id, info)| backend.shown(id, info)).collect())
    }

    async fn cleanup(&self) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        blocking(move || shared.backend.cleanup(&shared.storage)).await
    }
}

/// Makes `$name` a snapshotter whose calls go to its `Local`.
macro_rules! delegate {
    ($name:ty) => {
        #[async_trait::async_trait]
        impl crate::Snapshotter for $name {
            async fn stat(&self, key: &str) -> base_errors::Result<crate::Info> {
                self.local.stat(key).await
            }

            async fn update(
                &self,
                info: &crate::Info,
                fields: &[crate::UpdateField],
            ) -> base_errors::Result<crate::Info> {
                self.local.update(info, fields).await
            }

            async fn usage(&self, key: &str) -> base_errors::Result<crate::Usage> {
                self.local.usage(key).await
            }

            async fn mounts(&self, key: &str) -> base_errors::Result<Vec<kernel_mount::Mount>> {
                self.local.mounts(key).await
            }

            async fn prepare(
                &self,
                key: &str,
                parent: &str,
                labels: base_ident::Labels,
            ) -> base_errors::Result<Vec<kernel_mount::Mount>> {
                self.local.prepare(key, parent, labels).await
            }

            async fn view(
                &self,
                key: &str,
                parent: &str,
                labels: base_ident::Labels,
            ) -> base_errors::Result<Vec<kernel_mount::Mount>> {
                self.local.view(key, parent, labels).await
            }

            async fn commit(
                &self,
                name: &str,
                key: &str,
                labels: base_ident::Labels,
                parent: &str,
            ) -> base_errors::Result<()> {
                self.local.commit(name, key, labels, parent).await
            }

            async fn remove(&self, key: &str) -> base_errors::Result<()> {
                self.local.remove(key).await
            }

            async fn list(&self, filters: &[String]) -> base_errors::Result<Vec<crate::Info>> {
                self.local.list(filters).await
            }

            async fn cleanup(&self) -> base_errors::Result<()> {
                self.local.cleanup().await
            }
        }
    };
}
pub(crate) use delegate;
