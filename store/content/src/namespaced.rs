//! Content as namespaces see it: records in `meta.db` over one backend that has the bytes.
//!
//! [`NamespacedContent`] is made once; [`NamespacedContent::scope`] gives the store of one call.
//! The order of every change: bytes durable in the backend, then the record, in one transaction
//! that never waits for the backend. What has no record yet is *held* ([`claims`]), so that a sweep
//! between the two steps does not take it for garbage.

mod claims;
mod sweep;
mod writer;

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use base_errors::Result;
use base_ident::filter::Filter;
use base_ident::{Digest, Labels};
use store_metadata::{Blob, Held, Ingest, Metadata, Opened, Scope};

use self::claims::Claims;
pub use self::sweep::Swept;
use self::writer::{Body, NamespacedWriter};
use crate::error::ContentError;
use crate::local::lock::RefLocks;
use crate::select;
use crate::store::{ContentReader, Info, IngestStatus, Store, UpdateField, WriteOptions, Writer};

/// Who may have content of other namespaces without sending its bytes: the config key
/// `content_sharing_policy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SharingPolicy {
    /// Every namespace that knows the digest.
    #[default]
    Shared,
    /// Only if a namespace with the label `containerd.io/namespace.shareable=true` has it.
    Isolated,
}

/// The content of all namespaces. Cloning gives another handle of the same.
#[derive(Clone)]
pub struct NamespacedContent {
    shared: Arc<Shared>,
}

struct Shared {
    metadata: Metadata,
    backend: Arc<dyn Store>,
    policy: SharingPolicy,
    /// One writer per reference of a namespace, until its record is written.
    locks: RefLocks,
    claims: Claims,
}

impl NamespacedContent {
    /// Content records of `metadata` over `backend`. There must be one of these per database.
    #[must_use]
    pub fn new(metadata: Metadata, backend: Arc<dyn Store>, policy: SharingPolicy) -> Self {
        let claims = Claims::new(metadata.clone());
        let locks = RefLocks::default();
        NamespacedContent { shared: Arc::new(Shared { metadata, backend, policy, locks, claims }) }
    }

    /// The store as the namespace of `scope` sees it, under its lease.
    #[must_use]
    pub fn scope(&self, scope: impl Into<Scope>) -> NamespacedStore {
        NamespacedStore { shared: Arc::clone(&self.shared), scope: scope.into() }
    }

    /// The store that has the bytes.
    #[must_use]
    pub fn backend(&self) -> &Arc<dyn Store> {
        &self.shared.backend
    }
}

/// The content of one namespace; a [`Store`].
#[derive(Clone)]
pub struct NamespacedStore {
    shared: Arc<Shared>,
    scope: Scope,
}

impl NamespacedStore {
    fn blob(&self, digest: &Digest) -> Result<Blob> {
        self.shared.metadata.view(|tx| match tx.blob(&self.scope.namespace, digest) {
            Ok(blob) => Ok(blob),
            Err(error) => {
                let error = base_errors::Error::from(error);
                Err(if error.is_not_found() {
                    ContentError::NotInNamespace(digest.clone()).into()
                } else {
                    error
                })
            }
        })
    }

    fn ingest(&self, reference: &str) -> Result<Ingest> {
        self.shared.metadata.view(|tx| Ok(tx.ingest(&self.scope.namespace, reference)?))
    }

    /// The size of `digest` in the backend, if this namespace may have it without sending it.
    async fn shareable(&self, digest: &Digest, total: u64) -> Result<Option<u64>> {
        let allowed = match self.shared.policy {
            SharingPolicy::Shared => true,
            SharingPolicy::Isolated => {
                self.shared.metadata.view(|tx| Ok(tx.is_shareable(digest)?))?
            }
        };
        if !allowed {
            return Ok(None);
        }
        match self.shared.backend.info(digest).await {
            // Another size is the client's mistake; it shows at the commit of what it sends.
            Ok(info) => Ok(Some(info.size).filter(|size| total == 0 || total == *size)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The state of an ingest without bytes of its own.
    async fn virtual_status(&self, ingest: Ingest) -> Result<Option<IngestStatus>> {
        let Some(digest) = ingest.expected else { return Ok(None) };
        match self.shared.backend.info(&digest).await {
            Ok(info) => Ok(Some(IngestStatus {
                reference: ingest.reference,
                offset: info.size,
                total: info.size,
                expected: Some(digest),
                started_at: info.created_at,
                updated_at: info.updated_at,
            })),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn info(blob: Blob) -> Info {
    Info {
        digest: blob.digest,
        size: blob.size,
        created_at: blob.created_at,
        updated_at: blob.updated_at,
        labels: blob.labels,
    }
}

#[async_trait]
impl Store for NamespacedStore {
    async fn info(&self, digest: &Digest) -> Result<Info> {
        self.blob(digest).map(info)
    }

    async fn update(&self, new: &Info, fields: &[UpdateField]) -> Result<Info> {
        let mask: Vec<String> = fields
            .iter()
            .map(|field| match field {
                UpdateField::Labels => "labels".to_owned(),
                UpdateField::Label(key) => format!("labels.{key}"),
            })
            .collect();
        self.blob(&new.digest)?;
        let (scope, digest) = (self.scope.clone(), new.digest.clone());
        let labels: Labels = new.labels.clone();
        self.shared
            .metadata
            .update(move |tx| Ok(tx.update_blob(&scope, &digest, &labels, &mask)?))
            .await
            .map(info)
    }

    async fn list(&self, filters: &[String]) -> Result<Vec<Info>> {
        let filter = Filter::parse_all(filters)?;
        let blobs =
            self.shared.metadata.view(|tx| Ok(tx.blobs(&self.scope.namespace, &filter)?))?;
        Ok(blobs.into_iter().map(info).collect())
    }

    async fn delete(&self, digest: &Digest) -> Result<()> {
        self.blob(digest)?;
        let (scope, digest) = (self.scope.clone(), digest.clone());
        self.shared.metadata.update(move |tx| Ok(tx.delete_blob(&scope, &digest)?)).await
    }

    async fn reader(&self, digest: &Digest) -> Result<Arc<dyn ContentReader>> {
        self.blob(digest)?;
        self.shared.backend.reader(digest).await
    }

    async fn status(&self, reference: &str) -> Result<IngestStatus> {
        let ingest = self.ingest(reference)?;
        match self.shared.backend.status(&ingest.backend).await {
            Ok(status) => Ok(IngestStatus { reference: reference.to_owned(), ..status }),
            Err(error) if error.is_not_found() => self
                .virtual_status(ingest)
                .await?
                .ok_or_else(|| ContentError::ReferenceNotFound(reference.to_owned()).into()),
            Err(error) => Err(error),
        }
    }

    async fn list_statuses(&self, filters: &[String]) -> Result<Vec<IngestStatus>> {
        let filter = select::parse(filters)?;
        let ingests = self.shared.metadata.view(|tx| Ok(tx.ingests(&self.scope.namespace)?))?;
        if ingests.is_empty() {
            return Ok(Vec::new());
        }
        let mut backend: HashMap<String, IngestStatus> = self
            .shared
            .backend
            .list_statuses(&[])
            .await?
            .into_iter()
            .map(|status| (status.reference.clone(), status))
            .collect();
        let mut statuses = Vec::new();
        for ingest in ingests {
            let status = match backend.remove(&ingest.backend) {
                Some(status) => Some(IngestStatus { reference: ingest.reference, ..status }),
                None => self.virtual_status(ingest).await?,
            };
            statuses.extend(status.filter(|status| select::status(&filter, status)));
        }
        Ok(statuses)
    }

    async fn abort(&self, reference: &str) -> Result<()> {
        let (scope, name) = (self.scope.clone(), reference.to_owned());
        let ingest =
            self.shared.metadata.update(move |tx| Ok(tx.abort_ingest(&scope, &name)?)).await?;
        match self.shared.backend.abort(&ingest.backend).await {
            Err(error) if error.is_not_found() => Ok(()),
            result => result,
        }
    }

    async fn writer(&self, options: WriteOptions) -> Result<Box<dyn Writer>> {
        let WriteOptions { reference, total, expected } = options;
        if reference.is_empty() {
            return Err(ContentError::ReferenceEmpty.into());
        }
        // The text of the backend's reference: containerd's message shows it.
        let key = format!("{}/1/{reference}", self.scope.namespace);
        let lock = self.shared.locks.acquire(&key).await?;

        // From before the backend is asked for it, the content must not be swept.
        let mut held = None;
        let mut size = None;
        if let Some(digest) = &expected {
            held = Some(self.shared.claims.hold(Held::Blob(digest.to_string())).await);
            let known =
                self.shared.metadata.view(|tx| Ok(tx.has_blob(&self.scope.namespace, digest)?))?;
            if !known {
                size = self.shareable(digest, total).await?;
            }
        }
        let opened = {
            let (scope, reference) = (self.scope.clone(), reference.clone());
            let (expected, in_backend) = (expected.clone(), size.is_some());
            self.shared
                .metadata
                .update(move |tx| {
                    Ok(tx.open_ingest(&scope, &reference, expected.as_ref(), in_backend)?)
                })
                .await?
        };
        let backend = match opened {
            Opened::Exists(digest) => return Err(ContentError::Exists(digest).into()),
            Opened::Ingest(ingest) => ingest.backend,
        };
        let body = match (expected, size) {
            (Some(digest), Some(size)) => Body::Virtual { digest, size },
            (expected, _) => {
                held = None;
                Body::Backend {
                    writer: self.open_backend(&reference, &backend, total).await?,
                    expected,
                }
            }
        };
        Ok(Box::new(NamespacedWriter::new(self.clone(), reference, backend, body, held, lock)))
    }
}

impl NamespacedStore {
    async fn open_backend(
        &self,
        reference: &str,
        backend: &str,
        total: u64,
    ) -> Result<Box<dyn Writer>> {
        // A sweep that is removing leftovers of this reference ends first; the record protects
        // what is written from here on.
        drop(self.shared.claims.hold(Held::Ingest(backend.to_owned())).await);
        let options = WriteOptions { reference: backend.to_owned(), total, expected: None };
        match self.shared.backend.writer(options).await {
            Ok(writer) => Ok(writer),
            Err(error) => {
                // Nothing stays behind of an ingest that never began.
                let begun = self.shared.backend.status(backend).await;
                if begun.is_err_and(|error| error.is_not_found()) {
                    let (scope, name) = (self.scope.clone(), reference.to_owned());
                    let undone = self
                        .shared
                        .metadata
                        .update(move |tx| Ok(tx.abort_ingest(&scope, &name)?))
                        .await;
                    if let Err(error) = undone {
                        tracing::warn!(%reference, %error, "failed to remove an ingest's record");
                    }
                }
                Err(error)
            }
        }
    }
}
