//! What can go wrong with records.

use std::fmt;

use base_errors::{Class, Coded};
use base_ident::{Digest, IdentError};

/// An object that an error is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// A container.
    Container(String),
    /// A container, named with its namespace.
    ContainerIn(String, String),
    /// An image.
    Image(String),
    /// A namespace.
    Namespace(String),
    /// A lease that is the subject of the call.
    Lease(String),
    /// The lease under which the call was made.
    CallLease(String),
    /// A snapshot.
    Snapshot(String),
    /// The parent of a snapshot.
    ParentSnapshot(String),
    /// A snapshot that a client hoped to find by its label `containerd.io/snapshot.ref`.
    TargetSnapshot(String),
    /// The snapshots of a snapshotter.
    Snapshotter(String),
    /// A blob.
    Content(Digest),
    /// An ingest.
    Ingest(String),
    /// A sandbox.
    Sandbox(String),
}

impl Object {
    /// How containerd names the object when it is missing.
    fn missing(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Object::Snapshot(key) => write!(f, "snapshot {key} does not exist"),
            Object::ParentSnapshot(key) => write!(f, "parent snapshot {key} does not exist"),
            Object::Snapshotter(name) => write!(f, "can not find snapshotter {name:?}"),
            Object::Content(digest) => write!(f, "content digest {digest}"),
            Object::Ingest(reference) => write!(f, "reference {reference}"),
            Object::CallLease(_) => f.write_str("lease does not exist"),
            other => write!(f, "{other}"),
        }
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Object::Container(id) => write!(f, "container {id:?}"),
            Object::ContainerIn(id, namespace) => {
                write!(f, "container {id:?} in namespace {namespace:?}")
            }
            Object::Image(name) => write!(f, "image {name:?}"),
            Object::Namespace(name) => write!(f, "namespace {name:?}"),
            Object::Lease(id) | Object::CallLease(id) => write!(f, "lease {id:?}"),
            Object::Snapshot(key) => write!(f, "snapshot {key:?}"),
            Object::ParentSnapshot(key) => write!(f, "parent snapshot {key:?}"),
            Object::TargetSnapshot(key) => write!(f, "target snapshot {key:?}"),
            Object::Snapshotter(name) => write!(f, "snapshotter {name:?}"),
            Object::Content(digest) => write!(f, "content {digest}"),
            Object::Ingest(reference) => write!(f, "ingest {reference:?}"),
            Object::Sandbox(id) => write!(f, "sandbox {id:?}"),
        }
    }
}

/// Shows an object in containerd's words for a missing one.
struct Missing<'a>(&'a Object);

impl fmt::Display for Missing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.missing(f)
    }
}

/// A failure of an operation on records. The texts are containerd's, without the class at the end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MetadataError {
    /// The database failed.
    #[error(transparent)]
    Bolt(#[from] store_bolt::Error),
    /// The object does not exist.
    #[error("{}", Missing(.0))]
    NotFound(Object),
    /// The object exists already.
    #[error("{0}")]
    AlreadyExists(Object),
    /// The image has another target than the caller demands.
    #[error("image {name:?} has target {actual}, not {wanted}")]
    OtherTarget {
        /// The image.
        name: String,
        /// Its target.
        actual: Digest,
        /// The target that the caller named.
        wanted: Digest,
    },
    /// A value that is not valid.
    #[error("{field}: {source}")]
    Field {
        /// The field, as containerd names it.
        field: &'static str,
        /// What is wrong with it.
        source: IdentError,
    },
    /// A value that is not valid by itself.
    #[error(transparent)]
    Ident(#[from] IdentError),
    /// A field that must be set.
    #[error("{0} must be set")]
    Unset(&'static str),
    /// A field that never changes.
    #[error("{0} field is immutable")]
    Immutable(&'static str),
    /// A rule that the request breaks, in containerd's words.
    #[error("{0}")]
    Rule(&'static str),
    /// A path of a field mask that cannot be updated.
    #[error("cannot update {path:?} field on {object}")]
    Mask {
        /// The path.
        path: String,
        /// The object.
        object: String,
    },
    /// The path of a namespace's field mask cannot be updated.
    #[error("cannot update {0:?} field")]
    NamespaceMask(String),
    /// A lease was to be created without an id.
    #[error("lease id must be provided")]
    LeaseId,
    /// A type of leased resources that is not known.
    #[error("resource type {0} not supported yet")]
    ResourceType(String),
    /// A type of leased resources that is written wrongly.
    #[error("invalid {}resource type {resource}", if *.snapshot { "snapshot " } else { "" })]
    ResourceTypeForm {
        /// The type as given.
        resource: String,
        /// Whether it is one of snapshots.
        snapshot: bool,
    },
    /// A leased blob that is not named by a digest.
    #[error("invalid content resource id {id}: {source}")]
    ResourceId {
        /// The id as given.
        id: String,
        /// What is wrong with it.
        source: IdentError,
    },
    /// The namespace still holds objects.
    #[error("namespace {name:?} must be empty, but it still has {}", .kinds.join(", "))]
    NamespaceNotEmpty {
        /// The namespace.
        name: String,
        /// What it holds.
        kinds: Vec<String>,
    },
    /// A snapshot that is the parent of others cannot go.
    #[error("cannot remove snapshot with child")]
    HasChildren,
    /// The backend's snapshot has another parent than the one asked for.
    #[error("mismatched parent {parent} from target {target}")]
    ParentMismatch {
        /// The parent asked for.
        parent: String,
        /// The snapshot that the client wants.
        target: String,
    },
    /// A record that does not hold what the format promises.
    #[error("{bucket} {key:?}: {reason}")]
    Damaged {
        /// The kind of record: its bucket's name.
        bucket: &'static str,
        /// Its key.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The database's schema could not be brought up to date.
    #[error("failed to migrate to v1.{version}: {source}")]
    Migrate {
        /// The version of the step that failed.
        version: i64,
        /// Why.
        source: store_bolt::Error,
    },
    /// The thread that marks ended early.
    #[error("garbage collection: {0}")]
    Mark(#[from] tokio::task::JoinError),
}

impl MetadataError {
    /// An error of the field `field`.
    pub(crate) fn field(field: &'static str) -> impl FnOnce(IdentError) -> Self {
        move |source| MetadataError::Field { field, source }
    }
}

impl Coded for MetadataError {
    fn class(&self) -> Class {
        match self {
            MetadataError::Bolt(error) | MetadataError::Migrate { source: error, .. } => {
                error.class()
            }
            MetadataError::NotFound(_) | MetadataError::OtherTarget { .. } => Class::NotFound,
            MetadataError::AlreadyExists(_) => Class::AlreadyExists,
            MetadataError::Field { source, .. } | MetadataError::Ident(source) => source.class(),
            MetadataError::Unset(_)
            | MetadataError::Immutable(_)
            | MetadataError::Rule(_)
            | MetadataError::Mask { .. }
            | MetadataError::NamespaceMask(_)
            | MetadataError::ResourceTypeForm { .. }
            | MetadataError::ResourceId { .. }
            | MetadataError::ParentMismatch { .. } => Class::InvalidArgument,
            // COMPAT: containerd gives this one no class.
            MetadataError::LeaseId => Class::Unknown,
            MetadataError::ResourceType(_) => Class::NotImplemented,
            MetadataError::NamespaceNotEmpty { .. } | MetadataError::HasChildren => {
                Class::FailedPrecondition
            }
            MetadataError::Damaged { .. } => Class::DataLoss,
            MetadataError::Mark(_) => Class::Internal,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            MetadataError::Bolt(error) | MetadataError::Migrate { source: error, .. } => {
                error.hint()
            }
            _ => None,
        }
    }
}
