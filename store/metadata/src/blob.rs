//! Blobs: which content a namespace has. The bytes are in the content store, shared by all.
//!
//! ```text
//! content/blob/<digest>/
//!   createdat updatedat    time
//!   size                   varint
//!   labels/
//! ```

use std::collections::BTreeSet;
use std::time::SystemTime;

use base_ident::filter::{Adaptor, Filter, map_field};
use base_ident::{Digest, FieldPath, Labels, Namespace, apply_label, validate_labels};
use store_bolt::{BucketMut, Entry};

use crate::encode::{put_map, put_times};
use crate::metadata::{Update, View};
use crate::record::{Record, find, list};
use crate::schema::{BLOB, CONTENT, EXPECTED, INGESTS, LABELS, ROOT, SIZE};
use crate::{MetadataError, Object, Result, Scope};
use store_bolt::value::varint;

/// The label by which a namespace shares its content under the policy `isolated`.
const SHAREABLE: &[u8] = b"containerd.io/namespace.shareable";

/// A blob as a namespace has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// The digest of its bytes.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Its labels.
    pub labels: Labels,
    /// When the namespace got it.
    pub created_at: SystemTime,
    /// When its labels last changed.
    pub updated_at: SystemTime,
}

impl Adaptor for Blob {
    fn field(&self, path: &[&str]) -> Option<String> {
        match path {
            ["digest", ..] => Some(self.digest.as_str().to_owned()),
            ["size", ..] => Some(self.size.to_string()),
            ["labels", key @ ..] => map_field(&self.labels, key),
            _ => None,
        }
    }
}

impl Blob {
    pub(crate) fn decode(record: Record<'_>) -> Result<Self> {
        let digest =
            Digest::parse(&record.name()?).map_err(|error| record.damaged(error.to_string()))?;
        let (created_at, updated_at) = record.times()?;
        Ok(Blob {
            digest,
            size: record.size(SIZE)?,
            labels: record.map(LABELS)?,
            created_at,
            updated_at,
        })
    }

    pub(crate) fn encode(&self, bucket: &mut BucketMut<'_>) -> Result<()> {
        put_times(bucket, self.created_at, self.updated_at)?;
        put_map(bucket, LABELS, &self.labels)?;
        let size = i64::try_from(self.size)
            .map_err(|_| MetadataError::Rule("content is larger than any file"))?;
        bucket.put(SIZE, &varint(size))?;
        Ok(())
    }
}

impl View<'_> {
    /// A blob of a namespace.
    ///
    /// # Errors
    /// NotFound, DataLoss.
    pub fn blob(&self, namespace: &Namespace, digest: &Digest) -> Result<Blob> {
        let bucket = self.bucket(namespace, &[CONTENT, BLOB])?;
        match find(bucket, "blob", digest.as_str().as_bytes())? {
            Some(record) => Blob::decode(record),
            None => Err(MetadataError::NotFound(Object::Content(digest.clone()))),
        }
    }

    /// Whether a namespace has a blob.
    ///
    /// # Errors
    /// DataLoss.
    pub fn has_blob(&self, namespace: &Namespace, digest: &Digest) -> Result<bool> {
        Ok(self.bucket(namespace, &[CONTENT, BLOB, digest.as_str().as_bytes()])?.is_some())
    }

    /// The blobs of a namespace that match `filter` (`digest`, `size`, `labels.*`), in the order of
    /// their digests.
    ///
    /// # Errors
    /// DataLoss of the whole list; a damaged record is left out.
    pub fn blobs(&self, namespace: &Namespace, filter: &Filter) -> Result<Vec<Blob>> {
        let bucket = self.bucket(namespace, &[CONTENT, BLOB])?;
        list(bucket, "blob", Blob::decode, |blob| filter.matches(blob))
    }

    /// Whether a namespace with the label `containerd.io/namespace.shareable=true` has the blob, so
    /// that others may have it without sending its bytes.
    ///
    /// # Errors
    /// DataLoss.
    pub fn is_shareable(&self, digest: &Digest) -> Result<bool> {
        let Some(namespaces) = self.root.bucket(ROOT)? else { return Ok(false) };
        for entry in namespaces.iter() {
            let (_, Entry::Bucket(namespace)) = entry? else { continue };
            let shares = match namespace.bucket(LABELS)? {
                Some(labels) => labels.get(SHAREABLE)? == Some(b"true"),
                None => false,
            };
            let digest = digest.as_str().as_bytes();
            if shares && namespace.path(&[CONTENT, BLOB, digest])?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The digests of all blobs of all namespaces, and those that open ingests wait for.
    pub(crate) fn blob_digests(&self) -> Result<BTreeSet<String>> {
        let mut digests = BTreeSet::new();
        let Some(namespaces) = self.root.bucket(ROOT)? else { return Ok(digests) };
        for entry in namespaces.iter() {
            let (_, Entry::Bucket(namespace)) = entry? else { continue };
            if let Some(blobs) = namespace.path(&[CONTENT, BLOB])? {
                for blob in blobs.iter() {
                    if let (digest, Entry::Bucket(_)) = blob? {
                        digests.insert(String::from_utf8_lossy(digest).into_owned());
                    }
                }
            }
            if let Some(ingests) = namespace.path(&[CONTENT, INGESTS])? {
                for ingest in ingests.iter() {
                    let (_, Entry::Bucket(ingest)) = ingest? else { continue };
                    if let Some(expected) = ingest.get(EXPECTED)?.filter(|text| !text.is_empty()) {
                        digests.insert(String::from_utf8_lossy(expected).into_owned());
                    }
                }
            }
        }
        Ok(digests)
    }

    /// Those of `digests` that any namespace has or an open ingest expects.
    pub(crate) fn needed_blobs(&self, digests: &[Digest]) -> Result<BTreeSet<Digest>> {
        let mut needed = BTreeSet::new();
        let Some(namespaces) = self.root.bucket(ROOT)? else { return Ok(needed) };
        for entry in namespaces.iter() {
            let (_, Entry::Bucket(namespace)) = entry? else { continue };
            if let Some(blobs) = namespace.path(&[CONTENT, BLOB])? {
                for digest in digests {
                    if blobs.bucket(digest.as_str().as_bytes())?.is_some() {
                        needed.insert(digest.clone());
                    }
                }
            }
            if let Some(ingests) = namespace.path(&[CONTENT, INGESTS])? {
                for ingest in ingests.iter() {
                    let (_, Entry::Bucket(ingest)) = ingest? else { continue };
                    let expected = ingest.get(EXPECTED)?.and_then(|text| str::from_utf8(text).ok());
                    needed.extend(expected.and_then(|text| Digest::parse(text).ok()));
                }
            }
        }
        Ok(needed)
    }
}

impl Update<'_, '_> {
    /// Changes labels of a blob: those that `mask` names (`labels`, `labels.<key>`), all of them if
    /// it is empty. Gives the new record.
    ///
    /// # Errors
    /// NotFound; InvalidArgument for other paths and labels that are too large.
    pub fn update_blob(
        &mut self,
        scope: &Scope,
        digest: &Digest,
        labels: &Labels,
        mask: &[String],
    ) -> Result<Blob> {
        let mut new = self.view().blob(&scope.namespace, digest)?;
        apply_labels(&mut new.labels, labels, mask, || {
            format!("content info {:?}", digest.as_str())
        })?;
        new.updated_at = SystemTime::now();
        new.encode(&mut self.create(scope, &[CONTENT, BLOB, digest.as_str().as_bytes()])?)?;
        Ok(new)
    }

    /// Removes a namespace's record of a blob.
    ///
    /// # Errors
    /// NotFound.
    pub fn delete_blob(&mut self, scope: &Scope, digest: &Digest) -> Result<()> {
        let key = digest.as_str().as_bytes();
        if !self.remove(scope, &[CONTENT, BLOB], key)? {
            return Err(MetadataError::NotFound(Object::Content(digest.clone())));
        }
        self.unlease(scope, &[CONTENT], key)?;
        self.dirty.deletions += 1;
        self.dirty.content = true;
        Ok(())
    }
}

/// Applies a mask of labels alone: of blobs and snapshots.
pub(crate) fn apply_labels(
    labels: &mut Labels,
    changes: &Labels,
    mask: &[String],
    object: impl Fn() -> String,
) -> Result<()> {
    if mask.is_empty() {
        labels.clone_from(changes);
    }
    for path in mask {
        match FieldPath::parse(path) {
            FieldPath::Whole("labels") => labels.clone_from(changes),
            FieldPath::Entry("labels", key) => apply_label(labels, key, changes),
            _ => {
                return Err(MetadataError::Mask { path: path.clone(), object: object() });
            }
        }
    }
    validate_labels(labels).map_err(MetadataError::field("info.Labels"))?;
    labels.retain(|_, value| !value.is_empty());
    Ok(())
}
