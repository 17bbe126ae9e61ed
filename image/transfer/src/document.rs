//! The documents of images: index, manifest, config. Content is kept as the bytes that came; these
//! types only read it, and build what docker archives lack.

use std::collections::BTreeMap;

use base_errors::Result;
use base_ident::{Descriptor, Digest};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::TransferError;
use crate::platform::Platform;

/// Media types.
pub mod media_type {
    /// OCI index.
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// OCI manifest.
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// OCI config.
    pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// Docker's list of manifests.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker's manifest.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker's config.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// Docker's layer, uncompressed.
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
    /// Docker's layer with gzip.
    pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    /// Docker's layer with zstd.
    pub const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";
    /// Configs of checkpoints.
    pub const CHECKPOINT_CONFIGS: [&str; 2] = [
        "application/vnd.containerd.container.checkpoint.config.v1+proto",
        "application/vnd.containerd.container.checkpoint.options.v1+proto",
    ];
}

/// True for an index or a list of manifests.
#[must_use]
pub fn is_index(media_type: &str) -> bool {
    matches!(media_type, media_type::OCI_INDEX | media_type::DOCKER_LIST)
}

/// True for a manifest.
#[must_use]
pub fn is_manifest(media_type: &str) -> bool {
    matches!(media_type, media_type::OCI_MANIFEST | media_type::DOCKER_MANIFEST)
}

/// True for a config.
#[must_use]
pub fn is_config(media_type: &str) -> bool {
    matches!(media_type, media_type::OCI_CONFIG | media_type::DOCKER_CONFIG)
        || media_type::CHECKPOINT_CONFIGS.contains(&media_type)
}

/// A descriptor as documents spell it. The order of the fields is that of Go's type, so that a
/// document built here has the digest that containerd would give it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OciDescriptor {
    /// Media type of the content.
    #[serde(rename = "mediaType", default)]
    pub media_type: String,
    /// Its digest.
    #[serde(default)]
    pub digest: String,
    /// Its size in bytes.
    #[serde(default)]
    pub size: i64,
    /// Other places to get it from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub urls: Option<Vec<String>>,
    /// Free annotations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    /// The content itself, in base 64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// What it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// What kind of artifact it is.
    #[serde(rename = "artifactType", default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

impl OciDescriptor {
    /// The validated form.
    ///
    /// # Errors
    /// InvalidArgument for a digest that is none, or a negative size.
    pub fn to_descriptor(&self) -> Result<Descriptor> {
        let size = u64::try_from(self.size).map_err(|_| {
            TransferError::Document(format!("descriptor {} has a negative size", self.digest))
        })?;
        Ok(Descriptor {
            media_type: self.media_type.clone(),
            digest: Digest::parse(&self.digest)?,
            size,
            annotations: self.annotations.clone().unwrap_or_default(),
        })
    }

    /// An annotation.
    #[must_use]
    pub fn annotation(&self, key: &str) -> Option<&str> {
        let value = self.annotations.as_ref()?.get(key)?;
        (!value.is_empty()).then_some(value.as_str())
    }
}

impl From<&Descriptor> for OciDescriptor {
    fn from(descriptor: &Descriptor) -> Self {
        let annotations = &descriptor.annotations;
        OciDescriptor {
            media_type: descriptor.media_type.clone(),
            digest: descriptor.digest.to_string(),
            size: i64::try_from(descriptor.size).unwrap_or(i64::MAX),
            annotations: (!annotations.is_empty()).then(|| annotations.clone()),
            ..OciDescriptor::default()
        }
    }
}

/// An index.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// 2.
    #[serde(rename = "schemaVersion", default)]
    pub schema_version: u32,
    /// Its own media type.
    #[serde(rename = "mediaType", default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// What it lists.
    #[serde(default)]
    pub manifests: Option<Vec<OciDescriptor>>,
    /// Only manifests have these; an index with them is none.
    #[serde(default, skip_serializing)]
    config: Option<serde_json::Value>,
    #[serde(default, skip_serializing)]
    layers: Option<serde_json::Value>,
}

impl Index {
    pub(crate) fn of(manifests: Vec<OciDescriptor>) -> Self {
        Index { schema_version: 2, manifests: Some(manifests), ..Index::default() }
    }

    /// Reads an index.
    pub(crate) fn parse(digest: &str, data: &[u8]) -> Result<Self> {
        let index: Index = parse(&format!("unmarshal index {digest}"), data)?;
        // A document that is index and manifest at once means different things to different readers.
        if index.config.is_some() || index.layers.is_some() {
            return Err(TransferError::Document(format!(
                "unexpected mixed index and manifest in {digest}"
            ))
            .into());
        }
        Ok(index)
    }
}

/// A manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// 2.
    #[serde(rename = "schemaVersion", default)]
    pub schema_version: u32,
    /// Its own media type.
    #[serde(rename = "mediaType", default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// The config.
    #[serde(default)]
    pub config: OciDescriptor,
    /// The layers, the lowest first.
    #[serde(default)]
    pub layers: Option<Vec<OciDescriptor>>,
    /// Only an index has these.
    #[serde(default, skip_serializing)]
    manifests: Option<serde_json::Value>,
}

impl Manifest {
    pub(crate) fn docker(config: OciDescriptor, layers: Vec<OciDescriptor>) -> Self {
        Manifest {
            schema_version: 2,
            media_type: media_type::DOCKER_MANIFEST.to_owned(),
            config,
            layers: Some(layers),
            manifests: None,
        }
    }

    /// Reads a manifest.
    pub(crate) fn parse(digest: &str, data: &[u8]) -> Result<Self> {
        let manifest: Manifest = parse(&format!("unmarshal manifest {digest}"), data)?;
        if manifest.manifests.is_some() {
            return Err(TransferError::Document(format!(
                "unexpected mixed index and manifest in {digest}"
            ))
            .into());
        }
        Ok(manifest)
    }
}

/// What a config says of its root file system and platform.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Config {
    /// What it runs on.
    #[serde(flatten)]
    pub platform: Platform,
    /// The layers' digests.
    #[serde(default)]
    pub rootfs: RootFs,
}

/// The list of layers in a config.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct RootFs {
    /// Digests of the uncompressed layers.
    #[serde(default)]
    pub diff_ids: Option<Vec<String>>,
}

impl Config {
    /// Reads a config.
    pub(crate) fn parse(data: &[u8]) -> Result<Self> {
        parse("unmarshal image config", data)
    }
}

/// Parses JSON; the error tells which document it was.
pub(crate) fn parse<T: serde::de::DeserializeOwned>(what: &str, data: &[u8]) -> Result<T> {
    serde_json::from_slice(data)
        .map_err(|source| TransferError::Json { what: what.to_owned(), source }.into())
}

/// Writes JSON as Go does, which escapes what could be markup.
pub(crate) fn to_json(what: &str, value: &impl Serialize) -> Result<Bytes> {
    let text = serde_json::to_string(value)
        .map_err(|source| TransferError::Json { what: what.to_owned(), source })?;
    // These stand only in strings.
    let text = text
        .replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029");
    Ok(Bytes::from(text))
}
