//! Leases: what must not be collected for now.
//!
//! ```text
//! leases/<id>/
//!   createdat                            time
//!   labels/
//!   content/<digest> = ""
//!   snapshots/<snapshotter>/<key> = ""
//!   ingests/<ref> = ""
//!   images/<name> = ""
//! ```

use std::time::SystemTime;

use base_ident::filter::{Adaptor, Filter, map_field};
use base_ident::{Digest, Labels, Namespace};
use store_bolt::{Bucket, Entry};

use crate::container::present;
use crate::encode::{put_map, zero_time};
use crate::metadata::{Update, View};
use crate::record::{Record, find, list};
use crate::schema::{CONTENT, CREATED_AT, IMAGES, INGESTS, LABELS, LEASES, SNAPSHOTS};
use crate::{MetadataError, Object, Result, Scope};
use store_bolt::value::time;

/// A lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its id: any text that is not empty.
    pub id: String,
    /// When it was created.
    pub created_at: SystemTime,
    /// Its labels, among them when it expires.
    pub labels: Labels,
}

/// Something that a lease holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseResource {
    /// Its digest, key, reference or name.
    pub id: String,
    /// `content`, `ingests`, `images` or `snapshots/<snapshotter>`.
    pub kind: String,
}

impl Adaptor for Lease {
    fn field(&self, path: &[&str]) -> Option<String> {
        match path {
            ["id", ..] => present(&self.id),
            ["labels", key @ ..] => map_field(&self.labels, key),
            _ => None,
        }
    }
}

impl Lease {
    fn decode(record: Record<'_>) -> Result<Self> {
        Ok(Lease {
            id: record.name()?,
            created_at: record.time(CREATED_AT)?.unwrap_or_else(zero_time),
            labels: record.map(LABELS)?,
        })
    }
}

impl LeaseResource {
    /// The path of the resource's bucket in a lease.
    fn path(&self) -> Result<Vec<&[u8]>> {
        let form =
            |snapshot| MetadataError::ResourceTypeForm { resource: self.kind.clone(), snapshot };
        let parts: Vec<&str> = self.kind.split('/').collect();
        match parts.as_slice() {
            ["content"] => match Digest::parse(&self.id) {
                Ok(_) => Ok(vec![CONTENT]),
                Err(source) => Err(MetadataError::ResourceId { id: self.id.clone(), source }),
            },
            ["ingests"] => Ok(vec![INGESTS]),
            ["images"] => Ok(vec![IMAGES]),
            ["content" | "ingests" | "images", ..] => Err(form(false)),
            ["snapshots", snapshotter] => Ok(vec![SNAPSHOTS, snapshotter.as_bytes()]),
            ["snapshots", ..] => Err(form(true)),
            _ => Err(MetadataError::ResourceType(self.kind.clone())),
        }
    }
}

impl View<'_> {
    /// A lease.
    ///
    /// # Errors
    /// NotFound, DataLoss.
    pub fn lease(&self, namespace: &Namespace, id: &str) -> Result<Lease> {
        match find(self.bucket(namespace, &[LEASES])?, "leases", id.as_bytes())? {
            Some(record) => Lease::decode(record),
            None => Err(MetadataError::NotFound(Object::Lease(id.to_owned()))),
        }
    }

    /// The leases that match `filter`, in the order of their ids.
    ///
    /// # Errors
    /// DataLoss of the whole list; a damaged record is left out.
    pub fn leases(&self, namespace: &Namespace, filter: &Filter) -> Result<Vec<Lease>> {
        let bucket = self.bucket(namespace, &[LEASES])?;
        list(bucket, "leases", Lease::decode, |lease| filter.matches(lease))
    }

    /// What a lease holds: content, images, ingests, snapshots.
    ///
    /// # Errors
    /// NotFound, DataLoss.
    pub fn lease_resources(&self, namespace: &Namespace, id: &str) -> Result<Vec<LeaseResource>> {
        let Some(lease) = self.bucket(namespace, &[LEASES, id.as_bytes()])? else {
            return Err(MetadataError::NotFound(Object::Lease(id.to_owned())));
        };
        let mut resources = Vec::new();
        for (kind, name) in [(CONTENT, "content"), (IMAGES, "images"), (INGESTS, "ingests")] {
            add_keys(&mut resources, lease.bucket(kind)?, name)?;
        }
        if let Some(snapshotters) = lease.bucket(SNAPSHOTS)? {
            for entry in snapshotters.iter() {
                if let (snapshotter, Entry::Bucket(keys)) = entry? {
                    let kind = format!("snapshots/{}", String::from_utf8_lossy(snapshotter));
                    add_keys(&mut resources, Some(keys), &kind)?;
                }
            }
        }
        Ok(resources)
    }
}

fn add_keys(
    resources: &mut Vec<LeaseResource>,
    bucket: Option<Bucket<'_>>,
    kind: &str,
) -> Result<()> {
    if let Some(bucket) = bucket {
        for entry in bucket.iter() {
            let (key, _) = entry?;
            let id = String::from_utf8_lossy(key).into_owned();
            resources.push(LeaseResource { id, kind: kind.to_owned() });
        }
    }
    Ok(())
}

impl Update<'_, '_> {
    /// Creates a lease. The lease of the call does not matter.
    ///
    /// # Errors
    /// AlreadyExists; an error without class for an empty id.
    pub fn create_lease(&mut self, scope: &Scope, id: &str, labels: &Labels) -> Result<Lease> {
        if id.is_empty() {
            return Err(MetadataError::LeaseId);
        }
        if self.view().bucket(&scope.namespace, &[LEASES, id.as_bytes()])?.is_some() {
            return Err(MetadataError::AlreadyExists(Object::Lease(id.to_owned())));
        }
        let mut labels = labels.clone();
        labels.retain(|_, value| !value.is_empty());
        let lease = Lease { id: id.to_owned(), created_at: SystemTime::now(), labels };
        self.note_expiry(&lease.labels);
        let mut bucket = self.create(scope, &[LEASES, id.as_bytes()])?;
        bucket.put(CREATED_AT, &time(lease.created_at))?;
        put_map(&mut bucket, LABELS, &lease.labels)?;
        Ok(lease)
    }

    /// Removes a lease. What it held lives on until the next collection.
    ///
    /// # Errors
    /// NotFound.
    pub fn delete_lease(&mut self, scope: &Scope, id: &str) -> Result<()> {
        if !self.remove(scope, &[LEASES], id.as_bytes())? {
            return Err(MetadataError::NotFound(Object::Lease(id.to_owned())));
        }
        self.dirty.deletions += 1;
        Ok(())
    }

    fn require_lease(&self, scope: &Scope, id: &str) -> Result<()> {
        match self.view().bucket(&scope.namespace, &[LEASES, id.as_bytes()])? {
            Some(_) => Ok(()),
            None => Err(MetadataError::NotFound(Object::Lease(id.to_owned()))),
        }
    }

    /// Has the lease `id` hold a resource, which need not exist.
    ///
    /// # Errors
    /// NotFound for the lease; NotImplemented for an unknown kind; InvalidArgument for a kind of the
    /// wrong form and for content that is not named by a digest.
    pub fn add_lease_resource(
        &mut self,
        scope: &Scope,
        id: &str,
        resource: &LeaseResource,
    ) -> Result<()> {
        self.require_lease(scope, id)?;
        let mut path = vec![LEASES, id.as_bytes()];
        let kind = resource.path()?;
        self.touch_leased(scope, &kind, resource.id.as_bytes());
        path.extend(kind);
        self.create(scope, &path)?.put(resource.id.as_bytes(), b"")?;
        Ok(())
    }

    /// Has the lease `id` no longer hold a resource; no error if it does not.
    ///
    /// # Errors
    /// As [`Update::add_lease_resource`].
    pub fn delete_lease_resource(
        &mut self,
        scope: &Scope,
        id: &str,
        resource: &LeaseResource,
    ) -> Result<()> {
        self.require_lease(scope, id)?;
        let mut path = vec![LEASES, id.as_bytes()];
        path.extend(resource.path()?);
        if let Some(mut bucket) = self.open(scope, &path)? {
            bucket.delete(resource.id.as_bytes())?;
        }
        self.dirty.deletions += 1;
        Ok(())
    }
}
