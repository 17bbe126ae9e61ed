//! What an activation lives as long as.

use base_ident::Labels;

/// The labels that name objects an activation belongs to; text after a `.` or `/` tells them apart.
const CONTAINER: &str = "containerd.io/gc.bref.container";
const CONTENT: &str = "containerd.io/gc.bref.content";
const IMAGE: &str = "containerd.io/gc.bref.image";
const SNAPSHOT: &str = "containerd.io/gc.bref.snapshot.";

/// The label by which an object keeps the activation that it names, beside others that do; text
/// after a `.` or `/` only makes keys differ.
pub const LABEL_REFERENCE: &str = "containerd.io/gc.ref.mount";

/// Something of the activation's namespace that keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A lease, by its id.
    Lease(String),
    /// A container, by its id.
    Container(String),
    /// A blob, by its digest.
    Content(String),
    /// An image, by its name.
    Image(String),
    /// A snapshot.
    Snapshot {
        /// The snapshotter.
        snapshotter: String,
        /// The client's key.
        key: String,
    },
    /// Any object with a label [`LABEL_REFERENCE`] that names the activation, by the activation's
    /// name.
    Referrer(String),
}

/// The owners that a lease and labels name.
pub(crate) fn owners(lease: Option<&str>, labels: &Labels) -> Vec<Owner> {
    let mut owners: Vec<Owner> = lease.map(|id| Owner::Lease(id.to_owned())).into_iter().collect();
    for (label, value) in labels {
        let value = || value.clone();
        if named(label, CONTAINER) {
            owners.push(Owner::Container(value()));
        } else if named(label, CONTENT) {
            owners.push(Owner::Content(value()));
        } else if named(label, IMAGE) {
            owners.push(Owner::Image(value()));
        } else if let Some(rest) = label.strip_prefix(SNAPSHOT) {
            let snapshotter = rest.split('/').next().unwrap_or_default().to_owned();
            owners.push(Owner::Snapshot { snapshotter, key: value() });
        }
    }
    owners
}

fn named(label: &str, prefix: &str) -> bool {
    label.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '/']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_name_owners() {
        let labels = Labels::from(
            [
                ("containerd.io/gc.bref.container", "c"),
                ("containerd.io/gc.bref.container.second", "d"),
                ("containerd.io/gc.bref.containers", "no"),
                ("containerd.io/gc.bref.snapshot.overlayfs/x", "s"),
                ("other", "no"),
            ]
            .map(|(label, value)| (label.to_owned(), value.to_owned())),
        );
        let mut found = owners(Some("l"), &labels);
        found.sort_by_key(|owner| format!("{owner:?}"));
        assert_eq!(
            found,
            [
                Owner::Container("c".to_owned()),
                Owner::Container("d".to_owned()),
                Owner::Lease("l".to_owned()),
                Owner::Snapshot { snapshotter: "overlayfs".to_owned(), key: "s".to_owned() },
            ]
        );
        assert!(owners(None, &Labels::new()).is_empty());
    }
}
