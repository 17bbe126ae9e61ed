//! The labels that map a tree's owners into a user namespace.

use base_ident::Labels;

use crate::error::SnapshotError;
use crate::labels::{LABEL_GID_MAPPING, LABEL_UID_MAPPING};

/// The most ranges of one map: what the kernel takes.
const MAX_RANGES: usize = 340;

/// The host's user and group that root is mapped to; none without labels.
///
/// # Errors
/// InvalidArgument for labels that are no maps, or have no root.
pub(crate) fn root(labels: &Labels) -> Result<Option<(u32, u32)>, SnapshotError> {
    let uids = labels.get(LABEL_UID_MAPPING);
    let gids = labels.get(LABEL_GID_MAPPING);
    match (uids, gids) {
        (None, None) => Ok(None),
        (uids, gids) => {
            let text = |map: Option<&String>| map.cloned().unwrap_or_default();
            Ok(Some((host_root(&text(uids))?, host_root(&text(gids))?)))
        }
    }
}

/// The host id of container id 0 in `container:host:size[,…]`.
fn host_root(map: &str) -> Result<u32, SnapshotError> {
    let invalid = || SnapshotError::IdMap(map.to_owned());
    let mut found = None;
    for (number, range) in map.split(',').enumerate() {
        let mut fields = range.split(':').map(str::parse::<u32>);
        let (Some(Ok(container)), Some(Ok(host)), Some(Ok(size)), None) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return Err(invalid());
        };
        if size == 0
            || number == MAX_RANGES
            || container.checked_add(size - 1).is_none()
            || host.checked_add(size - 1).is_none()
        {
            return Err(invalid());
        }
        if container == 0 {
            found.get_or_insert(host);
        }
    }
    found.ok_or_else(|| SnapshotError::IdMapRoot(map.to_owned()))
}

/// The mount options of the labels.
pub(crate) fn options(labels: &Labels) -> Vec<String> {
    [("uidmap", LABEL_UID_MAPPING), ("gidmap", LABEL_GID_MAPPING)]
        .into_iter()
        .filter_map(|(option, label)| Some(format!("{option}={}", labels.get(label)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots() {
        assert_eq!(host_root("0:100000:65536").ok(), Some(100_000));
        assert_eq!(host_root("1:5:10,0:7:1").ok(), Some(7));
        for bad in ["", "0:1", "0:1:0", "a:1:2", "0:1:2:3", "0:4294967295:2", "-1:0:1", "0:1:2,"] {
            assert!(matches!(host_root(bad), Err(SnapshotError::IdMap(_))), "{bad}");
        }
        assert!(matches!(host_root("1:0:5"), Err(SnapshotError::IdMapRoot(_))));
    }

    #[test]
    fn one_label_alone_is_an_error() {
        let labels = Labels::from([(LABEL_UID_MAPPING.to_owned(), "0:1:2".to_owned())]);
        assert!(root(&labels).is_err());
        assert!(matches!(root(&Labels::new()), Ok(None)));
    }
}
