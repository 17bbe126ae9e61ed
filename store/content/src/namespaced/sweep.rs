//! The removal of what no namespace needs any more.

use std::collections::HashMap;
use std::sync::Arc;

use base_errors::Result;
use base_ident::Digest;
use store_metadata::Held;

use super::{NamespacedContent, Shared};
use crate::error::ContentError;
use crate::store::Info;

/// How much is claimed at once: a writer of the same content waits for one such batch.
const BATCH: usize = 256;

/// What a sweep removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Blobs.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Ingests.
    pub ingests: u64,
}

impl NamespacedContent {
    /// Removes blobs and ingests that no record and no running call needs from the backend. One
    /// that cannot be removed is logged and left for the next sweep. One sweep at a time.
    ///
    /// CANCEL: what is removed is removed; the rest waits for the next sweep.
    ///
    /// # Errors
    /// Those of the lists; then nothing more is removed.
    pub async fn sweep(&self) -> Result<Swept> {
        let mut swept = Swept::default();
        self.sweep_ingests(&mut swept).await?;
        self.sweep_blobs(&mut swept).await?;
        Ok(swept)
    }

    async fn sweep_ingests(&self, swept: &mut Swept) -> Result<()> {
        let shared = &self.shared;
        // The backend before the records: what is new in the backend has its record already.
        let listed: Vec<String> = shared
            .backend
            .list_statuses(&[])
            .await?
            .into_iter()
            .map(|status| status.reference)
            .collect();
        let needed = shared.metadata.all_backend_ingest_refs()?;
        let garbage: Vec<String> =
            listed.into_iter().filter(|reference| !needed.contains(reference)).collect();
        for batch in garbage.chunks(BATCH) {
            let claimed = shared.claims.claim(batch.iter().cloned().map(Held::Ingest).collect());
            let needed = shared.metadata.all_backend_ingest_refs()?;
            for reference in batch.iter().filter(|reference| !needed.contains(*reference)) {
                match shared.backend.abort(reference).await {
                    Ok(()) => swept.ingests += 1,
                    Err(error) if error.is_not_found() => {}
                    Err(error) => {
                        tracing::warn!(%reference, %error, "failed to remove an ingest");
                        shared.metadata.mark_content_dirty();
                    }
                }
            }
            drop(claimed);
        }
        Ok(())
    }

    async fn sweep_blobs(&self, swept: &mut Swept) -> Result<()> {
        let shared = &self.shared;
        let listed = shared.backend.list(&[]).await?;
        let needed = shared.metadata.all_blob_digests()?;
        let mut garbage: Vec<Info> =
            listed.into_iter().filter(|info| !needed.contains(info.digest.as_str())).collect();
        while !garbage.is_empty() {
            let batch = garbage.split_off(garbage.len().saturating_sub(BATCH));
            // A sweep that is given up cannot call back what its backend is removing: that stays
            // claimed until it has happened.
            let removal = tokio::spawn(remove_blobs(Arc::clone(&self.shared), batch));
            let (blobs, bytes) = removal.await.map_err(ContentError::from)??;
            swept.blobs += blobs;
            swept.bytes += bytes;
        }
        Ok(())
    }
}

/// Removes those of `batch` from the backend that nothing needs by now; gives their number and bytes.
async fn remove_blobs(shared: Arc<Shared>, batch: Vec<Info>) -> Result<(u64, u64)> {
    let what = batch.iter().map(|info| Held::Blob(info.digest.to_string())).collect();
    let _claimed = shared.claims.claim(what);
    let mut digests: Vec<Digest> = batch.iter().map(|info| info.digest.clone()).collect();
    let needed = shared.metadata.needed_blobs(&digests)?;
    digests.retain(|digest| !needed.contains(digest));
    let sizes: HashMap<&Digest, u64> = batch.iter().map(|info| (&info.digest, info.size)).collect();
    let (mut blobs, mut bytes) = (0, 0);
    for (digest, outcome) in digests.iter().zip(shared.backend.delete_all(&digests).await) {
        match outcome {
            Ok(()) => {
                blobs += 1;
                bytes += sizes.get(digest).copied().unwrap_or_default();
            }
            Err(error) if error.is_not_found() => {}
            Err(error) => {
                tracing::warn!(%digest, %error, "failed to remove a blob");
                shared.metadata.mark_content_dirty();
            }
        }
    }
    Ok((blobs, bytes))
}
