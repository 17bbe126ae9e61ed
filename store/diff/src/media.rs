//! Media types of layers, and how they are compressed.

/// OCI layer, uncompressed: what every apply results in.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// OCI layer with gzip: what a comparison gives by default.
pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// OCI layer with zstd.
pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

/// The label of a layer's content that names the digest of its uncompressed tar.
pub const LABEL_UNCOMPRESSED: &str = "containerd.io/uncompressed";

/// The families of layer types, without their compression.
const OCI_FAMILIES: [&str; 2] =
    [OCI_LAYER, "application/vnd.oci.image.layer.nondistributable.v1.tar"];
const DOCKER_FAMILIES: [&str; 2] = [
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
];

/// How the bytes of a layer are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// As a plain tar.
    None,
    /// By what they begin with: gzip, zstd, or a plain tar.
    Detect,
}

/// How a layer of this media type is compressed; None if it is not a layer that can be applied.
///
/// COMPAT: a compressed type is a hint. The bytes decide, because images exist whose types were
/// converted wrongly, and containerd reads them.
#[must_use]
pub fn compression_of(media_type: &str) -> Option<Compression> {
    let (family, suffix) = match media_type.split_once('+') {
        Some((family, suffix)) => (family, Some(suffix)),
        None => (media_type, None),
    };
    if OCI_FAMILIES.contains(&family) {
        return match suffix {
            None => Some(Compression::None),
            Some("gzip" | "zstd") => Some(Compression::Detect),
            Some(_) => None,
        };
    }
    let (family, compressed) = match family.strip_suffix(".gzip") {
        Some(family) => (family, true),
        None => (family.strip_suffix(".zstd").unwrap_or(family), false),
    };
    let known = DOCKER_FAMILIES.contains(&family);
    match suffix {
        // Docker's uncompressed type was also used for compressed layers.
        None if known => Some(Compression::Detect),
        Some("gzip" | "zstd") if known && !compressed => Some(Compression::Detect),
        _ => None,
    }
}

/// True if this media type is a layer, whatever its compression or encryption.
#[must_use]
pub fn is_layer(media_type: &str) -> bool {
    let family = media_type.split_once('+').map_or(media_type, |(family, _)| family);
    family.starts_with("application/vnd.oci.image.layer.")
        || DOCKER_FAMILIES.iter().any(|docker| {
            family.strip_prefix(docker).is_some_and(|rest| matches!(rest, "" | ".gzip" | ".zstd"))
        })
        || family == "application/vnd.erofs.layer.v1"
}

/// True if layers of this type may not be handed on (`foreign`, `nondistributable`).
#[must_use]
pub fn is_non_distributable(media_type: &str) -> bool {
    media_type.contains(".nondistributable.") || media_type.contains(".foreign.")
}

/// A compression, told by the first bytes of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// None known.
    Plain,
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
}

/// How many bytes [`Format::detect`] looks at.
pub const MAGIC: usize = 4;

impl Format {
    /// Tells the format by the head of the data.
    #[must_use]
    pub fn detect(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, 0x08, ..] => Format::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Format::Zstd,
            // A skippable frame, with which some zstd streams begin.
            [first, 0x2a, 0x4d, 0x18, ..] if first & 0xf0 == 0x50 => Format::Zstd,
            _ => Format::Plain,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_of_both_worlds() {
        use Compression::{Detect, None as Plain};
        for (media_type, expected) in [
            ("application/vnd.oci.image.layer.v1.tar", Some(Plain)),
            ("application/vnd.oci.image.layer.v1.tar+gzip", Some(Detect)),
            ("application/vnd.oci.image.layer.v1.tar+zstd", Some(Detect)),
            ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", Some(Detect)),
            ("application/vnd.docker.image.rootfs.diff.tar", Some(Detect)),
            ("application/vnd.docker.image.rootfs.diff.tar.gzip", Some(Detect)),
            ("application/vnd.docker.image.rootfs.diff.tar.zstd", Some(Detect)),
            ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", Some(Detect)),
            ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", None),
            ("application/vnd.oci.image.config.v1+json", None),
            ("", None),
        ] {
            assert_eq!(compression_of(media_type), expected, "{media_type}");
        }
        assert!(is_layer("application/vnd.oci.image.layer.v1.tar+encrypted"));
        assert!(!is_layer("application/vnd.oci.image.manifest.v1+json"));
    }
}
