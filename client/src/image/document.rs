//! The JSON documents of an image, OCI's and docker's alike.

use std::collections::BTreeMap;

use api_shim::types;
use base_errors::{Error, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use sha2::{Digest as _, Sha256};

use super::Platform;

/// Names a blob and tells what it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Descriptor {
    /// What it is.
    pub media_type: String,
    /// Its name.
    pub digest: String,
    /// Its bytes.
    pub size: i64,
    /// Free notes.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// For what machines a manifest is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

impl From<types::Descriptor> for Descriptor {
    fn from(descriptor: types::Descriptor) -> Self {
        Descriptor {
            media_type: descriptor.media_type,
            digest: descriptor.digest,
            size: descriptor.size,
            annotations: descriptor.annotations,
            platform: None,
        }
    }
}

impl From<Descriptor> for types::Descriptor {
    fn from(descriptor: Descriptor) -> Self {
        types::Descriptor {
            media_type: descriptor.media_type,
            digest: descriptor.digest,
            size: descriptor.size,
            annotations: descriptor.annotations,
        }
    }
}

/// Go writes empty lists and maps as `null`.
fn nullable<'de, D, T>(deserializer: D) -> std::result::Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// An image for one platform.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Manifest {
    /// The configuration.
    pub config: Descriptor,
    /// The layers, lowest first.
    #[serde(deserialize_with = "nullable")]
    pub layers: Vec<Descriptor>,
}

/// An image for several platforms.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Index {
    /// The images.
    #[serde(deserialize_with = "nullable")]
    pub manifests: Vec<Descriptor>,
}

/// What is needed of a configuration here; the process part is runtime_spec's.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Go's name of the architecture.
    pub architecture: String,
    /// The architecture's variant.
    pub variant: String,
    /// The operating system.
    pub os: String,
    /// The layers.
    pub rootfs: RootFs,
}

/// The layers of a configuration.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct RootFs {
    /// Digests of the layers without compression, lowest first.
    #[serde(deserialize_with = "nullable")]
    pub diff_ids: Vec<String>,
}

fn parse<T: DeserializeOwned>(json: &[u8]) -> Result<T> {
    serde_json::from_slice(json).map_err(|error| Error::invalid_argument(error.to_string()))
}

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// InvalidArgument.
    pub fn parse(json: &[u8]) -> Result<Manifest> {
        parse(json)
    }
}

impl Index {
    /// Reads an index.
    ///
    /// # Errors
    /// InvalidArgument.
    pub fn parse(json: &[u8]) -> Result<Index> {
        parse(json)
    }
}

impl Config {
    /// Reads a configuration.
    ///
    /// # Errors
    /// InvalidArgument.
    pub fn parse(json: &[u8]) -> Result<Config> {
        parse(json)
    }

    /// The platform that it is for.
    #[must_use]
    pub fn platform(&self) -> Platform {
        let platform = Platform {
            os: self.os.clone(),
            architecture: self.architecture.clone(),
            variant: self.variant.clone(),
        };
        platform.normalised()
    }
}

/// True for the media types of indexes; where there is none, if the document is one.
#[must_use]
pub fn is_index(media_type: &str, json: &[u8]) -> bool {
    match media_type {
        "application/vnd.oci.image.index.v1+json"
        | "application/vnd.docker.distribution.manifest.list.v2+json" => true,
        _ if is_manifest(media_type) => false,
        _ => Index::parse(json).is_ok_and(|index| !index.manifests.is_empty()),
    }
}

/// True for the media types of manifests.
#[must_use]
pub fn is_manifest(media_type: &str) -> bool {
    matches!(
        media_type,
        "application/vnd.oci.image.manifest.v1+json"
            | "application/vnd.docker.distribution.manifest.v2+json"
    )
}

/// The OCI chain id of layers, lowest first: the name of the snapshot that they make.
#[must_use]
pub fn chain_id(diff_ids: &[String]) -> String {
    let Some((first, rest)) = diff_ids.split_first() else { return String::new() };
    rest.iter().fold(first.clone(), |parent, layer| {
        let mut text = "sha256:".to_owned();
        for byte in Sha256::digest(format!("{parent} {layer}")) {
            for nibble in [byte >> 4, byte & 15] {
                text.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
            }
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_id_is_made_from_the_layers() {
        let layers = ["sha256:a", "sha256:b", "sha256:c"].map(str::to_owned);
        assert_eq!(chain_id(&[]), "");
        assert_eq!(chain_id(&layers[..1]), "sha256:a");
        let two = chain_id(&layers[..2]);
        // printf 'sha256:a sha256:b' | sha256sum
        assert_eq!(two, "sha256:970a948bffa8de94d6e22d747ba8c95030e6e546909f98f54e99a13005e173a8");
        assert_eq!(chain_id(&layers), chain_id(&[two, layers[2].clone()]));
    }

    #[test]
    fn documents_of_go_have_nulls() {
        let manifest =
            br#"{"config":{"digest":"sha256:1","size":3,"annotations":null},"layers":null}"#;
        assert_eq!(Manifest::parse(manifest).unwrap().config.size, 3);
        assert!(Index::parse(b"{\"manifests\":null}").unwrap().manifests.is_empty());
        assert!(is_index("", br#"{"manifests":[{"digest":"x"}]}"#));
        assert!(!is_index("", manifest));
        assert!(Config::parse(b"[1]").is_err());
    }
}
