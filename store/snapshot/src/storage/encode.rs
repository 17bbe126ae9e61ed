//! The keys of the links between snapshots; numbers and times are as `store_bolt::value` has them.

use store_bolt::value::uvarint;

/// The key of a link from a parent to its child.
pub(super) fn parent_key(parent: u64, child: u64) -> Vec<u8> {
    let mut key = parent_prefix(parent);
    key.extend(uvarint(child));
    key
}

/// What the links to all children of a parent begin with.
pub(super) fn parent_prefix(parent: u64) -> Vec<u8> {
    let mut key = uvarint(parent);
    key.push(0);
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_keys() {
        assert_eq!(parent_key(1, 2), [1, 0, 2]);
        assert_eq!(parent_key(128, 300), [0x80, 1, 0, 0xac, 2]);
    }
}
