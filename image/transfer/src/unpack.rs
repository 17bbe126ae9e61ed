//! From layers to snapshots.
//!
//! Where the snapshotter can put a committed tree onto a parent later (`rebase`), layers are
//! applied at the same time, each on a snapshot of its own without a parent, and committed in their
//! order. A layer that needs its parent's files is applied again, on its parent. Elsewhere layers
//! come one after another.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use base_errors::{Class, Error, Result, ResultExt as _};
use base_ident::{Algorithm, Descriptor, Digest, Labels};
use futures_util::StreamExt as _;
use store_content::{Hasher, Info, Store, UpdateField};
use store_diff::media::LABEL_UNCOMPRESSED;
use store_diff::{ApplyError, ApplyOptions, Differ};
use store_metadata::Scope;
use store_snapshot::{LABEL_SNAPSHOT_REF, Snapshotter, inherited};

use crate::TransferError;
use crate::document::Config;
use crate::progress::{Progress, ProgressSender};
use crate::walk::{Found, reference_key};

/// Tries for an extraction key that nobody has; the keys are random.
const MAX_KEYS: usize = 3;

/// How an image was unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnpackOutcome {
    /// Name of the topmost snapshot; None for an image without layers.
    pub chain_id: Option<Digest>,
    /// Layers that were applied; the others were there.
    pub applied: usize,
}

/// Where and how one image is unpacked.
pub(crate) struct Unpacking<'a> {
    pub(crate) content: &'a dyn Store,
    pub(crate) snapshotter: &'a dyn Snapshotter,
    /// The snapshotter's name.
    pub(crate) name: &'a str,
    pub(crate) differ: &'a dyn Differ,
    /// Whose transfer it is, for differs that are other programs.
    pub(crate) scope: &'a Scope,
    /// Layers applied at the same time; 1 without the capability.
    pub(crate) parallel: usize,
    pub(crate) sync_fs: bool,
    pub(crate) progress: &'a ProgressSender,
}

/// A layer with what is known of it.
struct Layer {
    descriptor: Descriptor,
    diff_id: Digest,
    chain_id: Digest,
    /// Chain id of the layer below.
    parent: Option<Digest>,
    /// Its key in progress events.
    key: String,
}

/// What became of a layer that was applied ahead of its parent.
enum Ahead {
    /// The snapshot of that key holds it.
    Applied(String),
    /// It must be applied on its parent.
    NeedsParent,
    /// Somebody else has committed it meanwhile.
    Exists,
}

/// The names of snapshots: each is the digest of its parent's name and its own diff id.
#[must_use]
pub fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        chain.push(match chain.last() {
            None => diff_id.clone(),
            Some(parent) => {
                Hasher::hash(Algorithm::Sha256, format!("{parent} {diff_id}").as_bytes())
            }
        });
    }
    chain
}

/// Nanoseconds and three random bytes in URL-safe base 64, as in containerd's extraction keys.
pub(crate) fn unique_part() -> String {
    use std::hash::{BuildHasher as _, Hasher as _};
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.subsec_nanos());
    let random = std::hash::RandomState::new().build_hasher().finish();
    let text: String = (0..4)
        .map(|place| {
            let index = usize::try_from(random >> (6 * place) & 63).unwrap_or(0);
            char::from(ALPHABET[index])
        })
        .collect();
    format!("{nanos}-{text}")
}

/// True if a layer cannot be applied ahead of its parent, or the differ cannot do that at all.
fn needs_parent(error: &Error) -> bool {
    error.class() == Class::NotImplemented
        || matches!(error.downcast_ref(), Some(ApplyError::NeedsParent { .. }))
}

impl Unpacking<'_> {
    /// Unpacks the layers of a manifest and labels its config with the result.
    ///
    /// CANCEL: a dropped call leaves extraction snapshots; the lease of the transfer holds them, and
    /// they go with it.
    ///
    /// # Errors
    /// Those of the stores; [`TransferError::DiffId`] and [`TransferError::LayerCount`] for an
    /// image that contradicts itself. No extraction snapshot is left then.
    pub(crate) async fn run(&self, found: &Found, config: &Config) -> Result<UnpackOutcome> {
        let layers = plan(found, config)?;
        let mut missing = 0;
        // From the top down: one look is enough for an image that is there.
        for (index, layer) in layers.iter().enumerate().rev() {
            if self.exists(&layer.chain_id).await? && self.hold(layer).await? {
                missing = index + 1;
                break;
            }
        }
        let parallel = self.parallel.min(layers.len() - missing);
        if parallel > 1 {
            self.run_parallel(&layers[missing..], parallel).await?;
        } else {
            for layer in &layers[missing..] {
                self.run_serial(layer).await?;
            }
        }
        let chain_id = layers.last().map(|layer| layer.chain_id.clone());
        if let Some(chain_id) = &chain_id {
            let label = format!("containerd.io/gc.ref.snapshot.{}", self.name);
            let config = Digest::parse(&found.manifest.config.digest)?;
            self.label(&config, label, chain_id.to_string()).await?;
        }
        Ok(UnpackOutcome { chain_id, applied: layers.len() - missing })
    }

    async fn run_parallel(&self, layers: &[Layer], parallel: usize) -> Result<()> {
        let failed = AtomicBool::new(false);
        let prepared = Mutex::new(Vec::new());
        // One concrete future per layer: a closure inside of the stream would make the whole only
        // `Send` for one lifetime, which callers cannot use.
        let applying: Vec<_> = layers
            .iter()
            .map(|layer| async {
                if failed.load(Ordering::Relaxed) {
                    return Err(Error::new(Class::Cancelled, "another layer failed"));
                }
                self.apply_ahead(layer, &prepared).await
            })
            .collect();
        let mut ahead = futures_util::stream::iter(applying).buffered(parallel);
        let mut outcome = Ok(());
        let mut layers = layers.iter();
        // After a failure the running ones are waited for: no snapshot is removed under a thread
        // that writes to it.
        while let (Some(applied), Some(layer)) = (ahead.next().await, layers.next()) {
            if outcome.is_err() {
                continue;
            }
            let committed = match applied {
                Ok(Ahead::Applied(key)) => self.commit(layer, &key, &layer.parent).await,
                Ok(Ahead::NeedsParent) => self.run_serial(layer).await,
                Ok(Ahead::Exists) => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = committed {
                failed.store(true, Ordering::Relaxed);
                outcome = Err(error);
            }
        }
        drop(ahead);
        if outcome.is_err() {
            let keys = prepared.into_inner().unwrap_or_default();
            for key in keys {
                self.remove(&key).await;
            }
        }
        outcome
    }

    /// Applies a layer to a snapshot that has no parent yet.
    async fn apply_ahead(&self, layer: &Layer, prepared: &Mutex<Vec<String>>) -> Result<Ahead> {
        let Some((key, mounts)) = self.prepare(layer, "").await? else { return Ok(Ahead::Exists) };
        if let Ok(mut keys) = prepared.lock() {
            keys.push(key.clone());
        }
        let parent_comes_later = layer.parent.is_some();
        let options = ApplyOptions { parent_comes_later, ..self.options() };
        match self.apply(layer, &mounts, options).await {
            Ok(()) => Ok(Ahead::Applied(key)),
            Err(error) if parent_comes_later && needs_parent(&error) => {
                tracing::debug!(layer = %layer.descriptor.digest, %error, "applied on its parent");
                self.remove(&key).await;
                if let Ok(mut keys) = prepared.lock() {
                    keys.retain(|known| *known != key);
                }
                Ok(Ahead::NeedsParent)
            }
            Err(error) => Err(error),
        }
    }

    /// Applies a layer on its parent and commits it.
    async fn run_serial(&self, layer: &Layer) -> Result<()> {
        let parent = layer.parent.as_ref().map_or("", Digest::as_str);
        let Some((key, mounts)) = self.prepare(layer, parent).await? else { return Ok(()) };
        let done = match self.apply(layer, &mounts, self.options()).await {
            Ok(()) => self.commit(layer, &key, &None).await,
            Err(error) => Err(error),
        };
        if done.is_err() {
            self.remove(&key).await;
        }
        done
    }

    /// Prepares an extraction snapshot. None: the layer is there already.
    async fn prepare(
        &self,
        layer: &Layer,
        parent: &str,
    ) -> Result<Option<(String, Vec<kernel_mount::Mount>)>> {
        let mut failure = None;
        for _ in 0..MAX_KEYS {
            let key = format!("extract-{} {}", unique_part(), layer.chain_id);
            match self.snapshotter.prepare(&key, parent, layer.labels()).await {
                Ok(mounts) => return Ok(Some((key, mounts))),
                Err(error) if error.is_already_exists() => {
                    if self.exists(&layer.chain_id).await? {
                        return Ok(None);
                    }
                    failure = Some(error);
                }
                Err(error) => {
                    let what = format!("failed to prepare extraction snapshot {key:?}");
                    return Err(error.context(what));
                }
            }
        }
        let error = failure.unwrap_or_else(|| Error::already_exists("extraction snapshot"));
        Err(error.context("unable to prepare extraction snapshot"))
    }

    /// Puts a committed layer, and with it those below, into the lease of this transfer: what an
    /// earlier one has left may be collected at any moment. False if it is gone by now.
    async fn hold(&self, layer: &Layer) -> Result<bool> {
        let parent = layer.parent.as_ref().map_or("", Digest::as_str);
        match self.prepare(layer, parent).await {
            Ok(None) => Ok(true),
            Ok(Some((key, _))) => {
                self.remove(&key).await;
                Ok(false)
            }
            // Its parent went first.
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// How layers of this image are applied.
    fn options(&self) -> ApplyOptions {
        ApplyOptions {
            sync_fs: self.sync_fs,
            scope: Some(self.scope.clone()),
            ..ApplyOptions::default()
        }
    }

    /// Applies a layer and checks what it was.
    async fn apply(
        &self,
        layer: &Layer,
        mounts: &[kernel_mount::Mount],
        options: ApplyOptions,
    ) -> Result<()> {
        self.tell("extracting", layer, 0).await;
        let applied = self
            .differ
            .apply(self.content, &layer.descriptor, mounts, options)
            .await
            .with_context(|| format!("failed to extract layer {}", layer.diff_id))?;
        if applied.digest != layer.diff_id {
            return Err(TransferError::DiffId { expected: layer.diff_id.to_string() }.into());
        }
        self.tell("extracted", layer, layer.descriptor.size).await;
        Ok(())
    }

    /// Commits an extraction snapshot, and labels the layer with its diff id.
    async fn commit(&self, layer: &Layer, key: &str, parent: &Option<Digest>) -> Result<()> {
        let name = layer.chain_id.as_str();
        let parent = parent.as_ref().map_or("", Digest::as_str);
        match self.snapshotter.commit(name, key, layer.labels(), parent).await {
            Ok(()) => {}
            // Somebody else was faster with the same layer.
            Err(error) if error.is_already_exists() => self.remove(key).await,
            Err(error) => return Err(error.context(format!("failed to commit snapshot {key}"))),
        }
        let label = LABEL_UNCOMPRESSED.to_owned();
        self.label(&layer.descriptor.digest, label, layer.diff_id.to_string()).await
    }

    async fn exists(&self, chain_id: &Digest) -> Result<bool> {
        match self.snapshotter.stat(chain_id.as_str()).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error.context(format!("failed to stat snapshot {chain_id}"))),
        }
    }

    /// Removes an extraction snapshot of a failed or needless unpacking; best effort, as the lease
    /// of the transfer is what holds it.
    async fn remove(&self, key: &str) {
        match self.snapshotter.remove(key).await {
            Ok(()) => {}
            Err(error) if error.is_not_found() => {}
            Err(error) => tracing::error!(%error, key, "failed to cleanup an extraction snapshot"),
        }
    }

    async fn label(&self, digest: &Digest, key: String, value: String) -> Result<()> {
        let info = Info {
            digest: digest.clone(),
            size: 0,
            created_at: UNIX_EPOCH,
            updated_at: UNIX_EPOCH,
            labels: Labels::from([(key.clone(), value)]),
        };
        self.content.update(&info, &[UpdateField::Label(key)]).await?;
        Ok(())
    }

    async fn tell(&self, event: &str, layer: &Layer, done: u64) {
        self.progress
            .send(Progress {
                event: event.to_owned(),
                name: layer.key.clone(),
                progress: done,
                total: layer.descriptor.size,
                descriptor: Some(layer.descriptor.clone()),
                ..Progress::default()
            })
            .await;
    }
}

impl Layer {
    /// Labels of its snapshot: what it is, and what its annotations say to snapshotters.
    fn labels(&self) -> Labels {
        let mut labels = inherited(&self.descriptor.annotations);
        labels.insert(LABEL_SNAPSHOT_REF.to_owned(), self.chain_id.to_string());
        labels
    }
}

/// Pairs layers and diff ids.
fn plan(found: &Found, config: &Config) -> Result<Vec<Layer>> {
    let layers: Vec<_> = found
        .manifest
        .layers
        .iter()
        .flatten()
        .filter(|layer| store_diff::media::is_layer(&layer.media_type))
        .collect();
    let diff_ids = config.rootfs.diff_ids.as_deref().unwrap_or_default();
    if layers.len() != diff_ids.len() {
        let (layers, diff_ids) = (layers.len(), diff_ids.len());
        return Err(TransferError::LayerCount { layers, diff_ids }.into());
    }
    let diff_ids = diff_ids
        .iter()
        .map(|text| Digest::parse(text))
        .collect::<std::result::Result<Vec<_>, _>>()?;
    let chain = chain_ids(&diff_ids);
    let parents = std::iter::once(None).chain(chain.iter().cloned().map(Some));
    layers
        .into_iter()
        .zip(diff_ids)
        .zip(chain.iter().cloned().zip(parents))
        .map(|((layer, diff_id), (chain_id, parent))| {
            Ok(Layer {
                descriptor: layer.to_descriptor()?,
                diff_id,
                chain_id,
                parent,
                key: reference_key(layer),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_ids_are_those_of_the_image_specification() {
        let digest = |byte: u8| Digest::from_bytes(Algorithm::Sha256, &[byte; 32]).unwrap();
        let (a, b) = (digest(1), digest(2));
        assert!(chain_ids(&[]).is_empty());
        let chain = chain_ids(&[a.clone(), b.clone()]);
        assert_eq!(chain[0], a);
        let expected = Hasher::hash(Algorithm::Sha256, format!("{a} {b}").as_bytes());
        assert_eq!(chain[1], expected);
    }

    #[test]
    fn extraction_keys_look_like_containerds() {
        let part = unique_part();
        let (nanos, random) = part.split_once('-').unwrap();
        assert!(nanos.parse::<u32>().is_ok());
        assert_eq!(random.len(), 4);
    }
}
