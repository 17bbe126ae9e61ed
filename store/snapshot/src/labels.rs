//! Labels with a meaning for snapshotters, and what filters see of a snapshot.

use base_errors::Result;
use base_ident::filter::{Adaptor, Filter, map_field};
use base_ident::{Labels, apply_label};

use crate::snapshotter::{Info, Kind, UpdateField};

/// Names the committed snapshot that a `prepare` is meant to become.
pub const LABEL_SNAPSHOT_REF: &str = "containerd.io/snapshot.ref";
/// Labels of this prefix reach the backend.
pub const LABEL_INHERITED_PREFIX: &str = "containerd.io/snapshot/";
/// User ids of the tree: `container:host:size`, several joined with commas.
pub const LABEL_UID_MAPPING: &str = "containerd.io/snapshot/uidmapping";
/// Group ids of the tree.
pub const LABEL_GID_MAPPING: &str = "containerd.io/snapshot/gidmapping";

/// The most bytes that may be written to the snapshot, as a decimal number.
pub const LABEL_MAX_SIZE: &str = "containerd.io/snapshot/max-size";

/// The value of [`LABEL_MAX_SIZE`].
///
/// # Errors
/// InvalidArgument for what is no positive number.
pub(crate) fn max_size(labels: &Labels) -> Result<Option<u64>> {
    let Some(text) = labels.get(LABEL_MAX_SIZE) else { return Ok(None) };
    match text.parse() {
        Ok(size) if size > 0 => Ok(Some(size)),
        _ => Err(base_errors::Error::invalid_argument(format!(
            "label {LABEL_MAX_SIZE}: {text:?} is no size in bytes"
        ))),
    }
}

/// The labels that a backend gets.
#[must_use]
pub fn inherited(labels: &Labels) -> Labels {
    labels
        .iter()
        .filter(|(key, _)| is_inherited(key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// True if a backend gets the label.
pub(crate) fn is_inherited(key: &str) -> bool {
    key == LABEL_SNAPSHOT_REF || key.starts_with(LABEL_INHERITED_PREFIX)
}

/// Changes the labels that `fields` name, all if it is empty.
pub(crate) fn apply(labels: &mut Labels, new: &Labels, fields: &[UpdateField]) {
    if fields.is_empty() {
        labels.clone_from(new);
    }
    for field in fields {
        match field {
            UpdateField::Labels => labels.clone_from(new),
            UpdateField::Label(key) => apply_label(labels, key, new),
        }
    }
    labels.retain(|_, value| !value.is_empty());
}

/// Parses the filters of a list call.
pub(crate) fn parse(filters: &[String]) -> Result<Filter> {
    Ok(Filter::parse_all(filters)?)
}

/// True if the filter takes the snapshot.
pub(crate) fn matches(filter: &Filter, info: &Info) -> bool {
    filter.matches(&Fields(info))
}

struct Fields<'a>(&'a Info);

impl Adaptor for Fields<'_> {
    fn field(&self, path: &[&str]) -> Option<String> {
        match path {
            ["kind", ..] => Some(self.0.kind.name().to_lowercase()),
            ["name", ..] => Some(self.0.name.clone()),
            ["parent", ..] => Some(self.0.parent.clone()),
            ["labels", key @ ..] => map_field(&self.0.labels, key),
            _ => None,
        }
    }
}

impl Kind {
    /// The name in listings; filters have it in lower case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Kind::View => "View",
            Kind::Active => "Active",
            Kind::Committed => "Committed",
        }
    }
}
