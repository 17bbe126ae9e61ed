//! Ingests: content on its way.
//!
//! ```text
//! content/ingests/<ref>/    sequence: number in the backend reference
//!   ref                     the backend's reference, "<namespace>/<number>/<ref>"
//!   expireat                time; only of an ingest without lease
//!   expected                digest; only of an ingest without bytes of its own, because the
//!                           backend has the content already, for another namespace
//! ```

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use base_ident::{Digest, Labels, Namespace, validate_labels};
use store_bolt::Entry;

use crate::blob::Blob;
use crate::metadata::{Update, View};
use crate::record::{Record, find, list};
use crate::schema::{BLOB, CONTENT, EXPECTED, EXPIRE_AT, INGESTS, REF, ROOT};
use crate::{MetadataError, Object, Result, Scope};

/// How long an ingest without a lease lives after it was last opened.
pub const INGEST_LIFE: Duration = Duration::from_secs(24 * 60 * 60);

/// An ingest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ingest {
    /// The client's reference.
    pub reference: String,
    /// The backend's reference.
    pub backend: String,
    /// When it may be given up, if it has no lease.
    pub expire_at: Option<SystemTime>,
    /// The content that the backend has already, if the ingest has no bytes of its own.
    pub expected: Option<Digest>,
}

/// The outcome of opening an ingest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    /// The namespace has the content already; it is in the lease of the call now. The call's answer
    /// is AlreadyExists, which must not undo the transaction.
    Exists(Digest),
    /// The ingest is open.
    Ingest(Ingest),
}

/// The outcome of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Committed {
    /// The blob is the namespace's now.
    Blob(Blob),
    /// The namespace had it already; the ingest is gone, the blob is in the lease of the call. The
    /// call's answer is AlreadyExists, which must not undo the transaction.
    Exists(Digest),
}

impl Opened {
    /// The ingest, or the error that the client gets.
    ///
    /// # Errors
    /// AlreadyExists.
    pub fn into_result(self) -> Result<Ingest> {
        match self {
            Opened::Ingest(ingest) => Ok(ingest),
            Opened::Exists(digest) => Err(MetadataError::AlreadyExists(Object::Content(digest))),
        }
    }
}

impl Committed {
    /// The blob, or the error that the client gets.
    ///
    /// # Errors
    /// AlreadyExists.
    pub fn into_result(self) -> Result<Blob> {
        match self {
            Committed::Blob(blob) => Ok(blob),
            Committed::Exists(digest) => Err(MetadataError::AlreadyExists(Object::Content(digest))),
        }
    }
}

impl Ingest {
    fn decode(record: Record<'_>) -> Result<Self> {
        let expected = record.string(EXPECTED)?;
        let expected = if expected.is_empty() {
            None
        } else {
            let digest = Digest::parse(&expected);
            Some(digest.map_err(|error| record.damaged(error.to_string()))?)
        };
        Ok(Ingest {
            reference: record.name()?,
            backend: record.string(REF)?,
            expire_at: record.time(EXPIRE_AT)?,
            expected,
        })
    }
}

/// The key of a thing in its backend.
pub(crate) fn backend_key(namespace: &Namespace, sequence: u64, key: &str) -> String {
    format!("{namespace}/{sequence}/{key}")
}

impl View<'_> {
    /// An ingest of a namespace.
    ///
    /// # Errors
    /// NotFound, DataLoss.
    pub fn ingest(&self, namespace: &Namespace, reference: &str) -> Result<Ingest> {
        let bucket = self.bucket(namespace, &[CONTENT, INGESTS])?;
        let missing = || MetadataError::NotFound(Object::Ingest(reference.to_owned()));
        let record = find(bucket, "ingests", reference.as_bytes())?.ok_or_else(missing)?;
        let ingest = Ingest::decode(record)?;
        if ingest.backend.is_empty() { Err(missing()) } else { Ok(ingest) }
    }

    /// All ingests of a namespace, in the order of their references.
    ///
    /// # Errors
    /// DataLoss of the whole list; a damaged record is left out.
    pub fn ingests(&self, namespace: &Namespace) -> Result<Vec<Ingest>> {
        list(self.bucket(namespace, &[CONTENT, INGESTS])?, "ingests", Ingest::decode, |_| true)
    }

    /// The backend references of all ingests of all namespaces.
    pub(crate) fn backend_ingest_refs(&self) -> Result<BTreeSet<String>> {
        let mut references = BTreeSet::new();
        let Some(namespaces) = self.root.bucket(ROOT)? else { return Ok(references) };
        for entry in namespaces.iter() {
            let (_, Entry::Bucket(namespace)) = entry? else { continue };
            let Some(ingests) = namespace.path(&[CONTENT, INGESTS])? else { continue };
            for ingest in ingests.iter() {
                let (_, Entry::Bucket(ingest)) = ingest? else { continue };
                if let Some(reference) = ingest.get(REF)? {
                    references.insert(String::from_utf8_lossy(reference).into_owned());
                }
            }
        }
        Ok(references)
    }
}

impl Update<'_, '_> {
    /// Opens an ingest, or finds the one that is open.
    ///
    /// `wanted` is the digest that the client expects: if the namespace has it, that is the outcome.
    /// `in_backend` says that the backend has it and that the policy lets this namespace share it:
    /// then the ingest needs no bytes.
    ///
    /// # Errors
    /// InvalidArgument for an empty reference; NotFound for an unknown lease.
    pub fn open_ingest(
        &mut self,
        scope: &Scope,
        reference: &str,
        wanted: Option<&Digest>,
        in_backend: bool,
    ) -> Result<Opened> {
        if reference.is_empty() {
            return Err(MetadataError::Rule("ref must not be empty"));
        }
        if let Some(digest) = wanted
            && self.view().has_blob(&scope.namespace, digest)?
        {
            self.lease(scope, &[CONTENT], digest.as_str().as_bytes())?;
            return Ok(Opened::Exists(digest.clone()));
        }
        let leased = self.lease(scope, &[INGESTS], reference.as_bytes())?;
        let path: [&[u8]; 3] = [CONTENT, INGESTS, reference.as_bytes()];
        let expiry = SystemTime::now() + INGEST_LIFE;
        if !leased {
            self.dirty.expires(expiry);
        }
        let mut bucket = self.create(scope, &path)?;
        if bucket.as_read().get(REF)?.is_none() {
            let sequence = bucket.next_sequence()?;
            bucket.put(REF, backend_key(&scope.namespace, sequence, reference).as_bytes())?;
        }
        if !leased {
            bucket.put(EXPIRE_AT, &store_bolt::value::time(expiry))?;
        }
        if let Some(digest) = wanted.filter(|_| in_backend) {
            bucket.put(EXPECTED, digest.as_str().as_bytes())?;
        }
        self.view().ingest(&scope.namespace, reference).map(Opened::Ingest)
    }

    /// Turns an ingest into a blob of the namespace. The backend has its bytes, durable, already.
    ///
    /// The ingest and its place in the lease go; the blob takes that place.
    ///
    /// # Errors
    /// InvalidArgument for labels that are too large; NotFound for an unknown lease.
    pub fn commit_ingest(
        &mut self,
        scope: &Scope,
        reference: &str,
        digest: &Digest,
        size: u64,
        mut labels: Labels,
    ) -> Result<Committed> {
        validate_labels(&labels).map_err(MetadataError::field("info.Labels"))?;
        let key = digest.as_str().as_bytes();
        self.remove(scope, &[CONTENT, INGESTS], reference.as_bytes())?;
        self.unlease(scope, &[INGESTS], reference.as_bytes())?;
        self.lease(scope, &[CONTENT], key)?;
        if self.view().has_blob(&scope.namespace, digest)? {
            return Ok(Committed::Exists(digest.clone()));
        }
        labels.retain(|_, value| !value.is_empty());
        let now = SystemTime::now();
        let blob = Blob { digest: digest.clone(), size, labels, created_at: now, updated_at: now };
        // DURABILITY: the content's file was synced before; this makes it the namespace's
        // (content.record).
        blob.encode(&mut self.create(scope, &[CONTENT, BLOB, key])?)?;
        Ok(Committed::Blob(blob))
    }

    /// Gives an ingest up; the caller removes what the backend has of it, unless `expected` is set.
    ///
    /// # Errors
    /// NotFound.
    pub fn abort_ingest(&mut self, scope: &Scope, reference: &str) -> Result<Ingest> {
        let ingest = self.view().ingest(&scope.namespace, reference)?;
        self.remove(scope, &[CONTENT, INGESTS], reference.as_bytes())?;
        self.unlease(scope, &[INGESTS], reference.as_bytes())?;
        Ok(ingest)
    }
}
