//! What the blobs of the content store say of each other.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use base_ident::{Algorithm, Digest};
use serde_json::Value;
use store_content::Hasher;

use super::places::names;

/// The largest blob that is taken for a document: as registries bound manifests.
const MAX_DOCUMENT: u64 = 4 << 20;

/// The annotation that archives name their images by.
const IMAGE_NAME: &str = "io.containerd.image.name";

/// A blob.
#[derive(Debug)]
pub(super) struct Blob {
    pub(super) size: u64,
    pub(super) modified: SystemTime,
    pub(super) document: Document,
}

/// What a blob is, as far as other blobs go.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Document {
    /// Manifests by digest, some with a name.
    Index { media_type: String, manifests: Vec<(String, Option<String>)> },
    /// A configuration, and layers with their media types.
    Manifest { media_type: String, config: String, layers: Vec<(String, String)> },
    /// The configuration of an image: the digests of its unpacked layers.
    Config { diff_ids: Vec<String> },
    /// Anything else.
    Other,
}

/// Where a snapshot that is named by its chain comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layer {
    pub(super) digest: String,
    pub(super) media_type: String,
    pub(super) diff_id: String,
    /// It has no layer below it.
    pub(super) base: bool,
}

/// All blobs by digest.
pub(super) fn blobs(content: &Path) -> BTreeMap<String, Blob> {
    let mut blobs = BTreeMap::new();
    for algorithm in [Algorithm::Sha256, Algorithm::Sha384, Algorithm::Sha512] {
        let folder = content.join("blobs").join(algorithm.name());
        for name in names(&folder) {
            let digest = format!("{}:{name}", algorithm.name());
            let path = folder.join(&name);
            let (Ok(parsed), Ok(metadata)) = (Digest::parse(&digest), fs::metadata(&path)) else {
                continue;
            };
            let size = metadata.len();
            let document =
                if size <= MAX_DOCUMENT { read(&path, &parsed) } else { Document::Other };
            let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            blobs.insert(digest, Blob { size, modified, document });
        }
    }
    blobs
}

/// Reads a document; one whose bytes are not those of its digest is none.
fn read(path: &Path, digest: &Digest) -> Document {
    let Ok(bytes) = base_fs::read_file(path, MAX_DOCUMENT) else { return Document::Other };
    if bytes.first() != Some(&b'{') || Hasher::hash(digest.algorithm(), &bytes) != *digest {
        return Document::Other;
    }
    serde_json::from_slice(&bytes).map_or(Document::Other, |value| parse(&value))
}

fn parse(value: &Value) -> Document {
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let list = |value: &Value, key: &str| value.get(key).and_then(Value::as_array).cloned();
    if let Some(manifests) = list(value, "manifests") {
        let manifests = manifests.iter().filter_map(|child| {
            let name = child.get("annotations").and_then(|all| text(all, IMAGE_NAME));
            Some((text(child, "digest")?, name))
        });
        let media_type = text(value, "mediaType")
            .unwrap_or_else(|| "application/vnd.oci.image.index.v1+json".to_owned());
        return Document::Index { media_type, manifests: manifests.collect() };
    }
    if let Some(layers) = list(value, "layers")
        && let Some(config) = value.get("config").and_then(|config| text(config, "digest"))
    {
        let layers = layers.iter().filter_map(|layer| {
            Some((text(layer, "digest")?, text(layer, "mediaType").unwrap_or_default()))
        });
        let media_type = text(value, "mediaType")
            .unwrap_or_else(|| "application/vnd.oci.image.manifest.v1+json".to_owned());
        return Document::Manifest { media_type, config, layers: layers.collect() };
    }
    if let Some(diff_ids) = value.get("rootfs").and_then(|rootfs| list(rootfs, "diff_ids")) {
        let diff_ids = diff_ids.iter().filter_map(|id| id.as_str().map(str::to_owned)).collect();
        return Document::Config { diff_ids };
    }
    Document::Other
}

/// The chain of each prefix of `diff_ids`.
pub(super) fn chain(diff_ids: &[String]) -> Vec<String> {
    let mut chain: Vec<String> = Vec::new();
    for diff_id in diff_ids {
        let next = match chain.last() {
            None => diff_id.clone(),
            Some(below) => {
                let text = format!("{below} {diff_id}");
                Hasher::hash(Algorithm::Sha256, text.as_bytes()).to_string()
            }
        };
        chain.push(next);
    }
    chain
}

/// The layers of all manifests, by their chains.
pub(super) fn layers(blobs: &BTreeMap<String, Blob>) -> BTreeMap<String, Layer> {
    let mut found = BTreeMap::new();
    for blob in blobs.values() {
        let Document::Manifest { config, layers, .. } = &blob.document else { continue };
        let Some(Document::Config { diff_ids }) = blobs.get(config).map(|blob| &blob.document)
        else {
            continue;
        };
        if diff_ids.len() != layers.len() {
            continue;
        }
        for (at, name) in chain(diff_ids).into_iter().enumerate() {
            let (digest, media_type) = layers[at].clone();
            let diff_id = diff_ids[at].clone();
            found.insert(name, Layer { digest, media_type, diff_id, base: at == 0 });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_known_by_their_fields() {
        let parsed = |text| parse(&serde_json::from_str(text).expect("JSON"));
        assert_eq!(
            parsed(
                r#"{"manifests":[{"digest":"sha256:a","annotations":{"io.containerd.image.name":"n"}}]}"#
            ),
            Document::Index {
                media_type: "application/vnd.oci.image.index.v1+json".into(),
                manifests: vec![("sha256:a".into(), Some("n".into()))],
            }
        );
        assert_eq!(
            parsed(
                r#"{"mediaType":"m","config":{"digest":"c"},"layers":[{"digest":"l","mediaType":"t"}]}"#
            ),
            Document::Manifest {
                media_type: "m".into(),
                config: "c".into(),
                layers: vec![("l".into(), "t".into())],
            }
        );
        assert_eq!(
            parsed(r#"{"rootfs":{"diff_ids":["d"]}}"#),
            Document::Config { diff_ids: vec!["d".into()] }
        );
        assert_eq!(parsed(r#"{"layers":7}"#), Document::Other);
    }

    #[test]
    fn a_chain_hashes_what_is_below() {
        let ids = ["sha256:a", "sha256:b"].map(str::to_owned);
        let chain = chain(&ids);
        assert_eq!(chain[0], "sha256:a");
        let below = Hasher::hash(Algorithm::Sha256, b"sha256:a sha256:b");
        assert_eq!(chain[1], below.to_string());
    }
}
