//! The writer of a namespace.

use std::time::SystemTime;

use async_trait::async_trait;
use base_errors::{Error, Result, ResultExt as _};
use base_ident::{Digest, Labels, validate_labels};
use bytes::Bytes;
use store_metadata::{Committed, Held, Hold};

use super::NamespacedStore;
use crate::error::ContentError;
use crate::local::lock::RefLock;
use crate::store::{IngestStatus, Writer};

/// An open ingest of a namespace.
pub(super) struct NamespacedWriter {
    store: NamespacedStore,
    reference: String,
    backend: String,
    body: Body,
    /// Held while the content is taken from another namespace.
    held: Option<Hold>,
    lock: Option<RefLock>,
    opened_at: SystemTime,
    committed: Option<Digest>,
}

/// Where the bytes go.
pub(super) enum Body {
    /// To the backend.
    Backend {
        writer: Box<dyn Writer>,
        expected: Option<Digest>,
    },
    /// The backend has them; what is written is not looked at.
    Virtual {
        digest: Digest,
        size: u64,
    },
    Closed,
}

impl NamespacedWriter {
    pub(super) fn new(
        store: NamespacedStore,
        reference: String,
        backend: String,
        body: Body,
        held: Option<Hold>,
        lock: RefLock,
    ) -> Self {
        NamespacedWriter {
            store,
            reference,
            backend,
            body,
            held,
            lock: Some(lock),
            opened_at: SystemTime::now(),
            committed: None,
        }
    }

    /// Checks size and digest and sees to it that the backend has the bytes, durable and held.
    async fn commit_backend(
        &mut self,
        body: Body,
        size: u64,
        expected: Option<&Digest>,
    ) -> Result<(Digest, u64)> {
        match body {
            Body::Closed => Err(ContentError::Closed("commit").into()),
            Body::Virtual { digest, size: actual } => {
                if size != 0 && size != actual {
                    let reference = self.reference.clone();
                    return Err(
                        ContentError::SizeValidation { reference, actual, expected: size }.into()
                    );
                }
                if expected.is_some_and(|expected| *expected != digest) {
                    return Err(ContentError::UnexpectedDigest(self.reference.clone()).into());
                }
                Ok((digest, actual))
            }
            Body::Backend { mut writer, .. } => {
                let actual = writer.status().await?.offset;
                if size != 0 && size != actual {
                    let reference = self.reference.clone();
                    return Err(
                        ContentError::SizeValidation { reference, actual, expected: size }.into()
                    );
                }
                let so_far = writer.digest()?;
                let digest = match expected {
                    Some(expected) if expected.algorithm() != so_far.algorithm() => {
                        expected.clone()
                    }
                    _ => so_far,
                };
                let what = Held::Blob(digest.to_string());
                self.held = Some(self.store.shared.claims.hold(what).await);
                match writer.commit(actual, expected, Labels::new()).await {
                    Ok(digest) => Ok((digest, actual)),
                    // Another namespace has it; this one has sent all bytes and may have it too.
                    Err(error) if error.is_already_exists() => Ok((digest, actual)),
                    Err(error) => Err(error),
                }
            }
        }
    }
}

#[async_trait]
impl Writer for NamespacedWriter {
    async fn write(&mut self, data: Bytes) -> Result<()> {
        match &mut self.body {
            Body::Backend { writer, .. } => writer.write(data).await,
            Body::Virtual { .. } => Ok(()),
            Body::Closed => Err(ContentError::Closed("write").into()),
        }
    }

    async fn status(&self) -> Result<IngestStatus> {
        match &self.body {
            Body::Backend { writer, expected } => {
                let status = writer.status().await?;
                let reference = self.reference.clone();
                Ok(IngestStatus { reference, expected: expected.clone(), ..status })
            }
            Body::Virtual { digest, size } => Ok(IngestStatus {
                reference: self.reference.clone(),
                offset: *size,
                total: *size,
                expected: Some(digest.clone()),
                started_at: self.opened_at,
                updated_at: self.opened_at,
            }),
            Body::Closed => Err(ContentError::Closed("stat").into()),
        }
    }

    fn digest(&self) -> Result<Digest> {
        match (&self.committed, &self.body) {
            (Some(digest), _) | (None, Body::Virtual { digest, .. }) => Ok(digest.clone()),
            (None, Body::Backend { writer, .. }) => writer.digest(),
            (None, Body::Closed) => Err(ContentError::Closed("digest").into()),
        }
    }

    async fn truncate(&mut self, size: u64) -> Result<()> {
        if size != 0 {
            return Err(ContentError::Truncate(size).into());
        }
        match &mut self.body {
            Body::Backend { writer, .. } => writer.truncate(0).await,
            // The client wants to send the bytes itself.
            Body::Virtual { digest, size } => {
                let (digest, size) = (digest.clone(), *size);
                let mut writer =
                    self.store.open_backend(&self.reference, &self.backend, size).await?;
                writer.truncate(0).await?;
                self.body = Body::Backend { writer, expected: Some(digest) };
                self.held = None;
                Ok(())
            }
            Body::Closed => Err(ContentError::Closed("truncate").into()),
        }
    }

    /// CANCEL: the backend may have the content without a record; the next sweep removes it, and a
    /// client that tries again finds it.
    async fn commit(
        &mut self,
        size: u64,
        expected: Option<&Digest>,
        labels: Labels,
    ) -> Result<Digest> {
        let body = std::mem::replace(&mut self.body, Body::Closed);
        let lock = self.lock.take();
        validate_labels(&labels).map_err(Error::from).context("info.Labels")?;
        let (digest, size) = self.commit_backend(body, size, expected).await?;
        // DURABILITY: the bytes are durable and held; this record makes them the namespace's.
        base_fs::failpoint::hit("content.record")
            .map_err(|errno| base_fs::Error::new("record", digest.as_str(), errno))?;
        let committed = {
            let (scope, reference) = (self.store.scope.clone(), self.reference.clone());
            let digest = digest.clone();
            self.store
                .shared
                .metadata
                .update(move |tx| Ok(tx.commit_ingest(&scope, &reference, &digest, size, labels)?))
                .await?
        };
        self.held = None;
        drop(lock);
        self.committed = Some(digest.clone());
        match committed {
            Committed::Blob(_) => Ok(digest),
            Committed::Exists(digest) => Err(ContentError::Exists(digest).into()),
        }
    }
}
