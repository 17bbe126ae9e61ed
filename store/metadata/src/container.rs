//! Containers: what shall run. The task that runs is not recorded here.
//!
//! ```text
//! containers/<id>/
//!   createdat updatedat                        time
//!   image snapshotter snapshotKey sandboxid    text
//!   spec                                       Any
//!   runtime/ name  options(Any)
//!   extensions/<name>                          Any; an update merges into them
//!   labels/
//! ```

use std::collections::BTreeMap;
use std::time::SystemTime;

use base_ident::filter::{Adaptor, Filter, map_field};
use base_ident::{FieldPath, Labels, Namespace, apply_label, validate_identifier, validate_labels};
use prost_types::Any;
use store_bolt::BucketMut;

use crate::encode::{put_any, put_extensions, put_map, put_times, zero_time};
use crate::metadata::{Update, View};
use crate::record::{Record, find, list};
use crate::schema::{
    CONTAINERS, IMAGE, LABELS, NAME, OPTIONS, RUNTIME, SANDBOX_ID, SNAPSHOT_KEY, SNAPSHOTTER, SPEC,
};
use crate::{MetadataError, Object, Result, Scope};

/// The runtime of a container or sandbox.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Runtime {
    /// Its name, such as `io.containerd.runc.v2`, or a path.
    pub name: String,
    /// Its options.
    pub options: Option<Any>,
}

/// A container.
#[derive(Clone, Debug, PartialEq)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// Its labels.
    pub labels: Labels,
    /// The name of the image that it was made from; may be empty.
    pub image: String,
    /// The runtime that runs it.
    pub runtime: Runtime,
    /// The OCI specification, as the client gave it.
    pub spec: Option<Any>,
    /// The snapshotter of its root file system; may be empty.
    pub snapshotter: String,
    /// The key of its snapshot; may be empty.
    pub snapshot_key: String,
    /// When it was created.
    pub created_at: SystemTime,
    /// When it was last changed.
    pub updated_at: SystemTime,
    /// What clients store with it.
    pub extensions: BTreeMap<String, Any>,
    /// The sandbox that it belongs to; may be empty.
    pub sandbox_id: String,
}

impl Default for Container {
    fn default() -> Self {
        Container {
            id: String::new(),
            labels: Labels::new(),
            image: String::new(),
            runtime: Runtime::default(),
            spec: None,
            snapshotter: String::new(),
            snapshot_key: String::new(),
            created_at: zero_time(),
            updated_at: zero_time(),
            extensions: BTreeMap::new(),
            sandbox_id: String::new(),
        }
    }
}

/// A value as filters see it: an empty one is not present.
pub(crate) fn present(value: &str) -> Option<String> {
    (!value.is_empty()).then(|| value.to_owned())
}

impl Adaptor for Container {
    fn field(&self, path: &[&str]) -> Option<String> {
        match path {
            ["id", ..] => present(&self.id),
            ["runtime", "name", ..] => present(&self.runtime.name),
            ["image", ..] => present(&self.image),
            ["labels", key @ ..] => map_field(&self.labels, key),
            _ => None,
        }
    }
}

impl Container {
    pub(crate) fn decode(record: Record<'_>) -> Result<Self> {
        let (created_at, updated_at) = record.times()?;
        Ok(Container {
            id: record.name()?,
            labels: record.map(LABELS)?,
            image: record.string(IMAGE)?,
            runtime: read_runtime(record)?.unwrap_or_default(),
            spec: record.any(SPEC)?,
            snapshotter: record.string(SNAPSHOTTER)?,
            snapshot_key: record.string(SNAPSHOT_KEY)?,
            created_at,
            updated_at,
            extensions: record.extensions()?,
            sandbox_id: record.string(SANDBOX_ID)?,
        })
    }

    fn encode(&self, bucket: &mut BucketMut<'_>) -> Result<()> {
        put_times(bucket, self.created_at, self.updated_at)?;
        put_any(bucket, SPEC, self.spec.as_ref())?;
        for (key, value) in [
            (IMAGE, &self.image),
            (SNAPSHOTTER, &self.snapshotter),
            (SNAPSHOT_KEY, &self.snapshot_key),
            (SANDBOX_ID, &self.sandbox_id),
        ] {
            bucket.put(key, value.as_bytes())?;
        }
        if bucket.as_read().bucket(RUNTIME)?.is_some() {
            bucket.delete_bucket(RUNTIME)?;
        }
        put_runtime(bucket, &self.runtime)?;
        put_extensions(bucket, &self.extensions)?;
        put_map(bucket, LABELS, &self.labels)
    }

    fn validate(&self) -> Result<()> {
        validate_identifier(&self.id).map_err(MetadataError::field("container.ID"))?;
        if self.extensions.contains_key("") {
            return Err(MetadataError::Rule("container.Extension keys must not be zero-length"));
        }
        validate_labels(&self.labels).map_err(MetadataError::field("containers.Labels"))?;
        if self.runtime.name.is_empty() {
            return Err(MetadataError::Unset("container.Runtime.Name"));
        }
        if self.spec.is_none() {
            return Err(MetadataError::Unset("container.Spec"));
        }
        if !self.snapshot_key.is_empty() && self.snapshotter.is_empty() {
            return Err(MetadataError::Rule(
                "container.Snapshotter must be set if container.SnapshotKey is set",
            ));
        }
        Ok(())
    }
}

pub(crate) fn read_runtime(record: Record<'_>) -> Result<Option<Runtime>> {
    let Some(runtime) = record.nested(RUNTIME)? else { return Ok(None) };
    Ok(Some(Runtime { name: runtime.string(NAME)?, options: runtime.any(OPTIONS)? }))
}

pub(crate) fn put_runtime(bucket: &mut BucketMut<'_>, runtime: &Runtime) -> Result<()> {
    let mut bucket = bucket.create_bucket_if_missing(RUNTIME)?;
    bucket.put(NAME, runtime.name.as_bytes())?;
    put_any(&mut bucket, OPTIONS, runtime.options.as_ref())
}

/// Takes extension `key` over from `changes`; an absent one is stored as an empty message.
pub(crate) fn apply_extension(
    extensions: &mut BTreeMap<String, Any>,
    key: &str,
    changes: &BTreeMap<String, Any>,
) {
    extensions.insert(key.to_owned(), changes.get(key).cloned().unwrap_or_default());
}

impl View<'_> {
    /// A container.
    ///
    /// # Errors
    /// NotFound, DataLoss.
    pub fn container(&self, namespace: &Namespace, id: &str) -> Result<Container> {
        match find(self.bucket(namespace, &[CONTAINERS])?, "containers", id.as_bytes())? {
            Some(record) => Container::decode(record),
            None => Err(MetadataError::NotFound(Object::ContainerIn(
                id.to_owned(),
                namespace.as_str().to_owned(),
            ))),
        }
    }

    /// The containers that match `filter`, in the order of their ids.
    ///
    /// # Errors
    /// DataLoss of the whole list; a damaged record is left out.
    pub fn containers(&self, namespace: &Namespace, filter: &Filter) -> Result<Vec<Container>> {
        let bucket = self.bucket(namespace, &[CONTAINERS])?;
        list(bucket, "containers", Container::decode, |container| filter.matches(container))
    }
}

impl Update<'_, '_> {
    /// Creates a container; sets its times.
    ///
    /// # Errors
    /// AlreadyExists; InvalidArgument by the rules of containerd.
    pub fn create_container(
        &mut self,
        scope: &Scope,
        mut container: Container,
    ) -> base_errors::Result<Container> {
        container.validate().map_err(|error| {
            base_errors::Error::from(error).context("create container failed validation")
        })?;
        let exists = find(
            self.view().bucket(&scope.namespace, &[CONTAINERS])?,
            "containers",
            container.id.as_bytes(),
        )?;
        if exists.is_some() {
            return Err(MetadataError::AlreadyExists(Object::Container(container.id)).into());
        }
        container.created_at = SystemTime::now();
        container.updated_at = container.created_at;
        container.labels.retain(|_, value| !value.is_empty());
        container.encode(&mut self.create(scope, &[CONTAINERS, container.id.as_bytes()])?)?;
        Ok(container)
    }

    /// Changes the fields that `mask` names: `labels`, `labels.<key>`, `spec`, `extensions`,
    /// `extensions.<name>`, `image`, `snapshotkey`; all of them if it is empty. An empty label is
    /// removed; extensions are merged. Gives the new record.
    ///
    /// # Errors
    /// NotFound; InvalidArgument for other paths, for changes to what is immutable and by the rules
    /// of a new container.
    pub fn update_container(
        &mut self,
        scope: &Scope,
        change: &Container,
        mask: &[String],
    ) -> base_errors::Result<Container> {
        if change.id.is_empty() {
            return Err(MetadataError::Rule("must specify a container id").into());
        }
        let id = change.id.as_bytes();
        let stored = self.view().bucket(&scope.namespace, &[CONTAINERS])?;
        let Some(record) = find(stored, "containers", id)? else {
            return Err(MetadataError::NotFound(Object::Container(change.id.clone())).into());
        };
        let mut new = Container::decode(record)?;
        const ALL: [&str; 5] = ["labels", "spec", "extensions", "image", "snapshotkey"];
        if mask.is_empty() {
            if new.snapshotter != change.snapshotter {
                return Err(MetadataError::Immutable("container.Snapshotter").into());
            }
            if new.runtime.name != change.runtime.name {
                return Err(MetadataError::Immutable("container.Runtime.Name").into());
            }
            ALL.iter().try_for_each(|path| new.apply(change, path))?;
        } else {
            mask.iter().try_for_each(|path| new.apply(change, path))?;
        }
        new.validate()
            .map_err(|error| base_errors::Error::from(error).context("update failed validation"))?;
        new.labels.retain(|_, value| !value.is_empty());
        new.updated_at = SystemTime::now();
        new.encode(&mut self.create(scope, &[CONTAINERS, id])?)?;
        Ok(new)
    }

    /// Removes a container.
    ///
    /// # Errors
    /// NotFound.
    pub fn delete_container(&mut self, scope: &Scope, id: &str) -> Result<()> {
        if !self.remove(scope, &[CONTAINERS], id.as_bytes())? {
            return Err(MetadataError::NotFound(Object::Container(id.to_owned())));
        }
        self.dirty.deletions += 1;
        Ok(())
    }
}

impl Container {
    /// Takes the field at `path` over from `change`.
    fn apply(&mut self, change: &Container, path: &str) -> Result<()> {
        match FieldPath::parse(path) {
            FieldPath::Entry("labels", key) => apply_label(&mut self.labels, key, &change.labels),
            FieldPath::Entry("extensions", key) => {
                apply_extension(&mut self.extensions, key, &change.extensions);
            }
            FieldPath::Whole("labels") => self.labels.clone_from(&change.labels),
            FieldPath::Whole("spec") => self.spec.clone_from(&change.spec),
            FieldPath::Whole("extensions") => {
                self.extensions.extend(change.extensions.clone());
            }
            FieldPath::Whole("image") => self.image.clone_from(&change.image),
            FieldPath::Whole("snapshotkey") => self.snapshot_key.clone_from(&change.snapshot_key),
            _ => {
                return Err(MetadataError::Mask {
                    path: path.to_owned(),
                    object: format!("{:?}", self.id),
                });
            }
        }
        Ok(())
    }
}
