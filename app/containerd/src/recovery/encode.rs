//! The encoding of messages that recovery writes: byte for byte containerd's.

/// A `google.protobuf.Any` of the type `url`.
pub(super) fn any(url: &str, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(url.len() + value.len() + 16);
    for (tag, field) in [(0x0a, url.as_bytes()), (0x12, value)] {
        bytes.push(tag);
        bytes.extend(store_bolt::value::uvarint(field.len() as u64));
        bytes.extend_from_slice(field);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_containerds() {
        assert_eq!(any("a", b"bc"), [0x0a, 1, b'a', 0x12, 2, b'b', b'c']);
    }
}
