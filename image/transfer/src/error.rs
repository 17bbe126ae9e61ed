//! What can be wrong with a transfer.

use base_errors::{Class, Coded};
use store_diff::tar::TarError;

/// A transfer that cannot be done. Failures of stores keep their own errors.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The archive is not readable.
    #[error(transparent)]
    Archive(#[from] TarError),
    /// The stream of the archive broke.
    #[error("read image archive: {0}")]
    Stream(#[source] std::io::Error),
    /// Neither an OCI layout nor a docker archive.
    #[error("unrecognized image format")]
    Format,
    /// An OCI layout of another version.
    #[error("unsupported OCI version {0}")]
    Version(String),
    /// An OCI layout without its index.
    #[error("missing index.json in OCI layout 1.0.0")]
    NoIndex,
    /// A document in the archive is larger than is read.
    #[error("{name:?} in the archive has {size} bytes, too many for a document")]
    TooLarge {
        /// Its name.
        name: String,
        /// Its size.
        size: u64,
    },
    /// A document that does not parse.
    #[error("{what}: {source}")]
    Json {
        /// Which document.
        what: String,
        /// Why not.
        source: serde_json::Error,
    },
    /// A document that contradicts itself or its descriptor.
    #[error("{0}")]
    Document(String),
    /// A docker archive names a file that it does not hold.
    #[error("{kind} {name:?} not found")]
    Missing {
        /// `image config` or `layer`.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// A link in a docker archive leads nowhere.
    #[error("no target for symlink layer from {name:?} to {target:?}")]
    Link {
        /// The link.
        name: String,
        /// Where it leads.
        target: String,
    },
    /// More names than an archive may have.
    #[error("more than {0} files in the archive")]
    TooMany(usize),
    /// A name that is no reference.
    #[error("normalize image ref {name:?}: invalid reference format")]
    Reference {
        /// The name.
        name: String,
    },
    /// More levels of indexes than are followed.
    #[error("{digest}: too many indexes within indexes")]
    Depth {
        /// Where it was given up.
        digest: String,
    },
    /// A layer's bytes are not what the config says.
    #[error("wrong diff id calculated on extraction {expected:?}")]
    DiffId {
        /// What the config says.
        expected: String,
    },
    /// Config and manifest do not fit.
    #[error("number of layers and diffIDs don't match: {layers} != {diff_ids}")]
    LayerCount {
        /// Layers of the manifest.
        layers: usize,
        /// Diff ids of the config.
        diff_ids: usize,
    },
    /// No name under which to store an image.
    #[error("no image name found")]
    NoName,
    /// A source of names that is not known.
    #[error("ref source not supported")]
    RefSource,
    /// An archive without anything for the wanted platforms.
    #[error("image might be filtered out")]
    Filtered,
    /// A look-up by prefix.
    #[error("prefix lookup on export not implemented")]
    PrefixLookup,
    /// None of the wished platforms and snapshotters is set up here.
    #[error("unable to initialize unpacker: no unpack platforms defined")]
    NoUnpacker,
    /// An image without a manifest for the wished platform.
    #[error("no manifest found for platform")]
    NoPlatform,
    /// Something that is no manifest or index.
    #[error("only manifests may be exported")]
    NotManifest,
    /// Bytes of the store that do not have their digest.
    #[error("unexpected digest {0} copied")]
    Corrupt(String),
    /// Nobody reads the export any more.
    #[error("the reader of the export has ended")]
    Closed,
}

impl Coded for TransferError {
    fn class(&self) -> Class {
        use TransferError as E;
        match self {
            E::Archive(error) => error.class(),
            E::Stream(error) => error.class(),
            E::Format
            | E::Version(_)
            | E::NoIndex
            | E::TooLarge { .. }
            | E::Json { .. }
            | E::Document(_)
            | E::Missing { .. }
            | E::Link { .. }
            | E::TooMany(_)
            | E::Reference { .. }
            | E::Depth { .. }
            | E::LayerCount { .. }
            | E::RefSource
            | E::NoUnpacker
            | E::NotManifest => Class::InvalidArgument,
            // COMPAT: containerd gives these no class.
            E::DiffId { .. } | E::Filtered => Class::Unknown,
            E::NoName | E::NoPlatform => Class::NotFound,
            E::PrefixLookup => Class::NotImplemented,
            E::Corrupt(_) => Class::DataLoss,
            E::Closed => Class::Cancelled,
        }
    }
}
