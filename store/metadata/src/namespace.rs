//! Namespaces: buckets that hold everything else.
//!
//! ```text
//! v1/<namespace>/labels/<key> = value
//! ```
//!
//! A namespace exists if its bucket does; writing any object creates it.

use base_ident::{FieldPath, Labels, Namespace, validate_label, validate_labels};

use crate::metadata::{Update, View};
use crate::record::{Record, list};
use crate::schema::{BLOB, CONTAINERS, CONTENT, IMAGES, LABELS, ROOT, SNAPSHOTS};
use crate::{MetadataError, Object, Result, Scope};

/// A namespace and its labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceRecord {
    /// Its name. Not necessarily a valid one: older daemons had another rule.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
}

const FIELD: &str = "namespace.Labels";

impl View<'_> {
    /// A namespace that exists.
    ///
    /// # Errors
    /// NotFound, DataLoss.
    pub fn namespace(&self, name: &Namespace) -> Result<NamespaceRecord> {
        match self.bucket(name, &[])? {
            Some(_) => Ok(NamespaceRecord {
                name: name.as_str().to_owned(),
                labels: self.namespace_labels(name)?,
            }),
            None => Err(MetadataError::NotFound(Object::Namespace(name.as_str().to_owned()))),
        }
    }

    /// The labels of a namespace; none if it does not exist.
    ///
    /// COMPAT: containerd's Namespaces.Get answers so for a namespace that does not exist.
    ///
    /// # Errors
    /// DataLoss.
    pub fn namespace_labels(&self, name: &Namespace) -> Result<Labels> {
        match self.bucket(name, &[])? {
            Some(bucket) => {
                let key = name.as_str().as_bytes();
                Record { bucket, kind: "namespaces", key }.map(LABELS)
            }
            None => Ok(Labels::new()),
        }
    }

    /// All namespaces, in the order of their names.
    ///
    /// # Errors
    /// DataLoss.
    pub fn namespaces(&self) -> Result<Vec<NamespaceRecord>> {
        list(
            self.root.bucket(ROOT)?,
            "namespaces",
            |record| Ok(NamespaceRecord { name: record.name()?, labels: record.map(LABELS)? }),
            |_| true,
        )
    }

    /// What a namespace still holds, in containerd's words; empty if it can go.
    fn remains(&self, name: &Namespace) -> Result<Vec<String>> {
        let mut kinds = Vec::new();
        let filled = |path: &[&[u8]]| match self.bucket(name, path)? {
            Some(bucket) => Ok::<_, MetadataError>(!bucket.is_empty()?),
            None => Ok(false),
        };
        if filled(&[IMAGES])? {
            kinds.push("images".to_owned());
        }
        if filled(&[CONTENT, BLOB])? {
            kinds.push("blobs".to_owned());
        }
        if filled(&[CONTAINERS])? {
            kinds.push("containers".to_owned());
        }
        if let Some(snapshotters) = self.bucket(name, &[SNAPSHOTS])? {
            for entry in snapshotters.iter() {
                let (snapshotter, _) = entry?;
                if filled(&[SNAPSHOTS, snapshotter])? {
                    let snapshotter = String::from_utf8_lossy(snapshotter);
                    kinds.push(format!("snapshots on {snapshotter:?} snapshotter"));
                }
            }
        }
        Ok(kinds)
    }
}

impl Update<'_, '_> {
    /// Creates a namespace.
    ///
    /// # Errors
    /// AlreadyExists; InvalidArgument for labels that are too large.
    pub fn create_namespace(&mut self, name: &Namespace, labels: &Labels) -> Result<()> {
        validate_labels(labels).map_err(MetadataError::field(FIELD))?;
        let scope = Scope::new(name.clone());
        if self.view().bucket(name, &[])?.is_some() {
            let object = Object::Namespace(name.as_str().to_owned());
            return Err(MetadataError::AlreadyExists(object));
        }
        let mut bucket = self.create(&scope, &[LABELS])?;
        for (key, value) in labels.iter().filter(|(_, value)| !value.is_empty()) {
            bucket.put(key.as_bytes(), value.as_bytes())?;
        }
        Ok(())
    }

    /// Changes the labels of a namespace: those that `mask` names (`labels.<key>`), or all of them
    /// if it is empty. Gives the new record.
    ///
    /// COMPAT: a namespace that does not exist is created.
    ///
    /// # Errors
    /// InvalidArgument for other paths and for labels that are too large.
    pub fn update_namespace(
        &mut self,
        name: &Namespace,
        labels: &Labels,
        mask: &[String],
    ) -> Result<NamespaceRecord> {
        let scope = Scope::new(name.clone());
        let mut new = if mask.is_empty() {
            labels.clone()
        } else {
            let mut new = self.view().namespace_labels(name)?;
            for path in mask {
                let FieldPath::Entry("labels", key) = FieldPath::parse(path) else {
                    return Err(MetadataError::NamespaceMask(path.clone()));
                };
                let value = labels.get(key).cloned().unwrap_or_default();
                new.insert(key.to_owned(), value);
            }
            new
        };
        for (key, value) in &new {
            validate_label(key, value).map_err(MetadataError::field(FIELD))?;
        }
        new.retain(|_, value| !value.is_empty());
        if let Some(mut bucket) = self.open(&scope, &[])?
            && bucket.as_read().bucket(LABELS)?.is_some()
        {
            bucket.delete_bucket(LABELS)?;
        }
        let mut bucket = self.create(&scope, &[LABELS])?;
        for (key, value) in &new {
            bucket.put(key.as_bytes(), value.as_bytes())?;
        }
        Ok(NamespaceRecord { name: name.as_str().to_owned(), labels: new })
    }

    /// Removes an empty namespace, with its leases and ingests.
    ///
    /// # Errors
    /// NotFound; FailedPrecondition if it holds images, blobs, containers or snapshots.
    pub fn delete_namespace(&mut self, name: &Namespace) -> Result<()> {
        let kinds = self.view().remains(name)?;
        let text = name.as_str().to_owned();
        if !kinds.is_empty() {
            return Err(MetadataError::NamespaceNotEmpty { name: text, kinds });
        }
        if self.view().bucket(name, &[])?.is_none() {
            return Err(MetadataError::NotFound(Object::Namespace(text)));
        }
        self.tx.create_bucket_if_missing(&[ROOT])?.delete_bucket(name.as_str().as_bytes())?;
        Ok(())
    }
}
