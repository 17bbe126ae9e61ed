//! Sandboxes: groups of containers with an environment of their own.
//!
//! ```text
//! sandboxes/<id>/
//!   createdat updatedat      time
//!   spec                     Any
//!   sandboxer                text
//!   runtime/ name  options(Any)
//!   extensions/<name>        Any; an update merges into them
//!   labels/
//! ```
//!
//! They lie in `v1/<namespace>` from version 4 of the schema on. Below that, and wherever containerd
//! 1.7 writes, they lie in a bucket of the namespace beside `v1`. Both places are read; a sandbox
//! stays where it is, and a new one goes where daemons of the file's version look for it.

use std::collections::BTreeMap;
use std::time::SystemTime;

use base_ident::filter::{Adaptor, Filter, map_field};
use base_ident::{FieldPath, Labels, Namespace, apply_label, validate_identifier};
use prost_types::Any;
use store_bolt::{Bucket, BucketMut};

use crate::container::{Runtime, apply_extension, put_runtime, read_runtime};
use crate::encode::{put_any, put_extensions, put_map, put_times, zero_time};
use crate::metadata::{Update, View};
use crate::migrate;
use crate::record::{Record, find, list};
use crate::schema::{LABELS, ROOT, SANDBOXER, SANDBOXES, SPEC, VERSION};
use crate::{MetadataError, Object, Result, Scope};

/// A sandbox.
#[derive(Clone, Debug, PartialEq)]
pub struct Sandbox {
    /// Its id.
    pub id: String,
    /// Its labels.
    pub labels: Labels,
    /// Its runtime.
    pub runtime: Runtime,
    /// Its specification, if it has one.
    pub spec: Option<Any>,
    /// The controller that runs it: `podsandbox`, `shim`.
    pub sandboxer: String,
    /// When it was created.
    pub created_at: SystemTime,
    /// When it was last changed.
    pub updated_at: SystemTime,
    /// What clients store with it.
    pub extensions: BTreeMap<String, Any>,
}

impl Default for Sandbox {
    fn default() -> Self {
        Sandbox {
            id: String::new(),
            labels: Labels::new(),
            runtime: Runtime::default(),
            spec: None,
            sandboxer: String::new(),
            created_at: zero_time(),
            updated_at: zero_time(),
            extensions: BTreeMap::new(),
        }
    }
}

impl Adaptor for Sandbox {
    fn field(&self, path: &[&str]) -> Option<String> {
        match path {
            ["id", ..] => Some(self.id.clone()),
            ["labels", key @ ..] => map_field(&self.labels, key),
            _ => None,
        }
    }
}

impl Sandbox {
    fn decode(record: Record<'_>) -> Result<Self> {
        let (created_at, updated_at) = record.times()?;
        Ok(Sandbox {
            id: record.name()?,
            labels: record.map(LABELS)?,
            runtime: read_runtime(record)?.ok_or_else(|| record.damaged("no runtime bucket"))?,
            spec: record.any(SPEC)?,
            sandboxer: record.string(SANDBOXER)?,
            created_at,
            updated_at,
            extensions: record.extensions()?,
        })
    }

    fn encode(&self, bucket: &mut BucketMut<'_>) -> Result<()> {
        put_times(bucket, self.created_at, self.updated_at)?;
        put_map(bucket, LABELS, &self.labels)?;
        put_extensions(bucket, &self.extensions)?;
        put_any(bucket, SPEC, self.spec.as_ref())?;
        bucket.put(SANDBOXER, self.sandboxer.as_bytes())?;
        put_runtime(bucket, &self.runtime)
    }

    /// Takes the field at `path` over from `change`.
    fn apply(&mut self, change: &Sandbox, path: &str) -> Result<()> {
        match FieldPath::parse(path) {
            FieldPath::Entry("labels", key) => apply_label(&mut self.labels, key, &change.labels),
            FieldPath::Entry("extensions", key) => {
                apply_extension(&mut self.extensions, key, &change.extensions);
            }
            FieldPath::Whole("labels") => self.labels.clone_from(&change.labels),
            FieldPath::Whole("extensions") => self.extensions.extend(change.extensions.clone()),
            FieldPath::Whole("runtime") => self.runtime = change.runtime.clone(),
            FieldPath::Whole("spec") => self.spec.clone_from(&change.spec),
            _ => {
                return Err(MetadataError::Mask {
                    path: path.to_owned(),
                    object: format!("sandbox {:?}", self.id),
                });
            }
        }
        Ok(())
    }
}

/// The sandboxes of a namespace beside `v1`.
pub(crate) fn beside<'a>(root: Bucket<'a>, namespace: &[u8]) -> Result<Option<Bucket<'a>>> {
    // COMPAT: those of a namespace called `v1` would lie among all namespaces; nobody tells them
    // from the records of one that is called `sandboxes`.
    if namespace == ROOT {
        return Ok(None);
    }
    Ok(root.path(&[namespace, SANDBOXES])?)
}

/// The full path of a sandbox in the place that is meant.
fn path<'a>(namespace: &'a [u8], id: &'a str, beside: bool) -> Vec<&'a [u8]> {
    let full = [ROOT, namespace, SANDBOXES, id.as_bytes()];
    full[usize::from(beside)..].to_vec()
}

impl<'a> View<'a> {
    /// Both places for the sandboxes of a namespace, as far as they are there.
    fn sandbox_buckets(&self, namespace: &Namespace) -> Result<[Option<Bucket<'a>>; 2]> {
        let inside = self.bucket(namespace, &[SANDBOXES])?;
        Ok([inside, beside(self.root, namespace.as_str().as_bytes())?])
    }

    /// Whether the sandbox lies beside `v1`; `None` if it is nowhere.
    fn sandbox_place(&self, namespace: &Namespace, id: &str) -> Result<Option<bool>> {
        for (bucket, beside) in self.sandbox_buckets(namespace)?.into_iter().zip([false, true]) {
            if find(bucket, "sandboxes", id.as_bytes())?.is_some() {
                return Ok(Some(beside));
            }
        }
        Ok(None)
    }

    /// A sandbox.
    ///
    /// # Errors
    /// NotFound, DataLoss.
    pub fn sandbox(&self, namespace: &Namespace, id: &str) -> Result<Sandbox> {
        for bucket in self.sandbox_buckets(namespace)? {
            if let Some(record) = find(bucket, "sandboxes", id.as_bytes())? {
                return Sandbox::decode(record);
            }
        }
        Err(MetadataError::NotFound(Object::Sandbox(id.to_owned())))
    }

    /// The sandboxes that match `filter`, in the order of their ids.
    ///
    /// # Errors
    /// DataLoss of the whole list; a damaged record is left out.
    pub fn sandboxes(&self, namespace: &Namespace, filter: &Filter) -> Result<Vec<Sandbox>> {
        let mut found = Vec::new();
        for bucket in self.sandbox_buckets(namespace)? {
            let wanted = |sandbox: &Sandbox| filter.matches(sandbox);
            found.extend(list(bucket, "sandboxes", Sandbox::decode, wanted)?);
        }
        // The sort is stable: of two with the same id the first one stays, which is the one that
        // is found by its id.
        found.sort_by(|one, other| one.id.cmp(&other.id));
        found.dedup_by(|later, first| later.id == first.id);
        Ok(found)
    }
}

impl Update<'_, '_> {
    /// Creates a sandbox; sets its times.
    ///
    /// # Errors
    /// AlreadyExists; InvalidArgument for an id that is not valid.
    pub fn create_sandbox(&mut self, scope: &Scope, mut sandbox: Sandbox) -> Result<Sandbox> {
        validate_identifier(&sandbox.id)
            .map_err(MetadataError::field("failed to validate sandbox: invalid sandbox ID"))?;
        if self.view().sandbox_place(&scope.namespace, &sandbox.id)?.is_some() {
            return Err(MetadataError::AlreadyExists(Object::Sandbox(sandbox.id)));
        }
        sandbox.created_at = SystemTime::now();
        sandbox.updated_at = sandbox.created_at;
        sandbox.labels.retain(|_, value| !value.is_empty());
        let version = migrate::version(self.view().root)?;
        let beside = version.is_some_and(|version| version < VERSION) && scope.ns() != ROOT;
        self.write_sandbox(scope, &sandbox, beside)?;
        Ok(sandbox)
    }

    /// Changes the fields that `mask` names: `labels`, `labels.<key>`, `extensions`,
    /// `extensions.<name>`, `spec`, `runtime`; all of them if it is empty. Gives the new record.
    ///
    /// # Errors
    /// NotFound; InvalidArgument for other paths, and for another runtime without a mask.
    pub fn update_sandbox(
        &mut self,
        scope: &Scope,
        change: &Sandbox,
        mask: &[String],
    ) -> Result<Sandbox> {
        let mut new = self.view().sandbox(&scope.namespace, &change.id)?;
        if mask.is_empty() {
            if new.runtime.name != change.runtime.name {
                return Err(MetadataError::Immutable("sandbox.Runtime.Name"));
            }
            for path in ["labels", "extensions", "spec", "runtime"] {
                new.apply(change, path)?;
            }
        } else {
            mask.iter().try_for_each(|path| new.apply(change, path))?;
        }
        new.labels.retain(|_, value| !value.is_empty());
        new.updated_at = SystemTime::now();
        let beside = self.view().sandbox_place(&scope.namespace, &new.id)?.unwrap_or_default();
        self.write_sandbox(scope, &new, beside)?;
        Ok(new)
    }

    fn write_sandbox(&mut self, scope: &Scope, sandbox: &Sandbox, beside: bool) -> Result<()> {
        self.touch(scope, &[SANDBOXES, sandbox.id.as_bytes()]);
        let path = path(scope.ns(), &sandbox.id, beside);
        sandbox.encode(&mut self.tx.create_bucket_if_missing(&path)?)
    }

    /// Removes a sandbox.
    ///
    /// # Errors
    /// NotFound.
    pub fn delete_sandbox(&mut self, scope: &Scope, id: &str) -> Result<()> {
        let mut found = false;
        while let Some(beside) = self.view().sandbox_place(&scope.namespace, id)? {
            let path = path(scope.ns(), id, beside);
            let (key, parent) = path.split_last().unwrap_or((&ROOT, &[]));
            self.tx.create_bucket_if_missing(parent)?.delete_bucket(key)?;
            found = true;
        }
        if found { Ok(()) } else { Err(MetadataError::NotFound(Object::Sandbox(id.to_owned()))) }
    }
}
