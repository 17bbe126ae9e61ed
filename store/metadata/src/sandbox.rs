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

use std::collections::BTreeMap;
use std::time::SystemTime;

use base_ident::filter::{Adaptor, Filter, map_field};
use base_ident::{FieldPath, Labels, Namespace, apply_label, validate_identifier};
use prost_types::Any;
use store_bolt::BucketMut;

use crate::container::{Runtime, apply_extension, put_runtime, read_runtime};
use crate::encode::{put_any, put_extensions, put_map, put_times, zero_time};
use crate::metadata::{Update, View};
use crate::record::{Record, find, list};
use crate::schema::{LABELS, SANDBOXER, SANDBOXES, SPEC};
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

impl View<'_> {
    /// A sandbox.
    ///
    /// # Errors
    /// NotFound, DataLoss.
    pub fn sandbox(&self, namespace: &Namespace, id: &str) -> Result<Sandbox> {
        match find(self.bucket(namespace, &[SANDBOXES])?, "sandboxes", id.as_bytes())? {
            Some(record) => Sandbox::decode(record),
            None => Err(MetadataError::NotFound(Object::Sandbox(id.to_owned()))),
        }
    }

    /// The sandboxes that match `filter`, in the order of their ids.
    ///
    /// # Errors
    /// DataLoss of the whole list; a damaged record is left out.
    pub fn sandboxes(&self, namespace: &Namespace, filter: &Filter) -> Result<Vec<Sandbox>> {
        let bucket = self.bucket(namespace, &[SANDBOXES])?;
        list(bucket, "sandboxes", Sandbox::decode, |sandbox| filter.matches(sandbox))
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
        let path = [SANDBOXES, sandbox.id.as_bytes()];
        if self.view().bucket(&scope.namespace, &path)?.is_some() {
            return Err(MetadataError::AlreadyExists(Object::Sandbox(sandbox.id)));
        }
        sandbox.created_at = SystemTime::now();
        sandbox.updated_at = sandbox.created_at;
        sandbox.labels.retain(|_, value| !value.is_empty());
        sandbox.encode(&mut self.create(scope, &path)?)?;
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
        new.encode(&mut self.create(scope, &[SANDBOXES, new.id.as_bytes()])?)?;
        Ok(new)
    }

    /// Removes a sandbox.
    ///
    /// # Errors
    /// NotFound.
    pub fn delete_sandbox(&mut self, scope: &Scope, id: &str) -> Result<()> {
        if self.remove(scope, &[SANDBOXES], id.as_bytes())? {
            return Ok(());
        }
        Err(MetadataError::NotFound(Object::Sandbox(id.to_owned())))
    }
}
