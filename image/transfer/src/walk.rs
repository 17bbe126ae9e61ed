//! From an image down to its content: children, platforms, labels for the collector.

use std::collections::BTreeMap;

use base_errors::{Error, Result, ResultExt as _};
use base_ident::{Digest, Labels};
use store_content::{Info, Store, UpdateField, read_all};

use crate::TransferError;
use crate::document::{Config, Index, Manifest, OciDescriptor, is_config, is_index, is_manifest};
use crate::platform::Matcher;

/// Indexes within indexes.
const MAX_DEPTH: usize = 16;

/// Documents of one image: far more than there are platforms, few enough to hold.
const MAX_DOCUMENTS: usize = 10_000;

/// What is wanted of an image.
pub(crate) struct Selection<'a> {
    pub(crate) matcher: &'a Matcher,
    /// Manifests and configs of other platforms count too, without their layers.
    pub(crate) all_metadata: bool,
    /// The most manifests of one index; zero: all.
    pub(crate) limit: usize,
}

/// A manifest that was found, with its children.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) descriptor: OciDescriptor,
    pub(crate) manifest: Manifest,
}

/// Walks from `root` to the manifests that are wanted, and labels all documents on the way with
/// what they refer to.
///
/// # Errors
/// NotFound if a document that is wanted is missing, InvalidArgument if one is malformed.
pub(crate) async fn manifests(
    content: &dyn Store,
    root: &OciDescriptor,
    selection: &Selection<'_>,
) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    let mut queue = vec![(root.clone(), 0, true)];
    let mut seen = std::collections::BTreeSet::new();
    while let Some((descriptor, depth, with_layers)) = queue.pop() {
        if !seen.insert(descriptor.digest.clone()) {
            continue;
        }
        if depth > MAX_DEPTH || seen.len() > MAX_DOCUMENTS {
            return Err(TransferError::Depth { digest: descriptor.digest }.into());
        }
        let digest = Digest::parse(&descriptor.digest)?;
        if is_manifest(&descriptor.media_type) {
            let data = read_all(content, &digest).await?;
            let manifest = Manifest::parse(&descriptor.digest, &data)?;
            label_children(content, &digest, &manifest_children(&manifest)).await?;
            if with_layers {
                found.push(Found { descriptor, manifest });
            }
        } else if is_index(&descriptor.media_type) {
            let data = read_all(content, &digest).await?;
            let index = Index::parse(&descriptor.digest, &data)?;
            let children = index.manifests.unwrap_or_default();
            label_children(content, &digest, &children).await?;
            // Last in, first out: the order of the index is kept.
            for (child, is_wanted) in choose(children, selection).into_iter().rev() {
                queue.push((child, depth + 1, with_layers && is_wanted));
            }
        }
    }
    Ok(found)
}

/// The children of an index that are looked at, and whether they are wanted with their layers.
fn choose(children: Vec<OciDescriptor>, selection: &Selection<'_>) -> Vec<(OciDescriptor, bool)> {
    let rank = |child: &OciDescriptor| match &child.platform {
        None => Some(0),
        Some(platform) => selection.matcher.rank(platform),
    };
    let mut chosen: Vec<_> = children
        .into_iter()
        .map(|child| {
            let rank = rank(&child);
            (child, rank)
        })
        .filter(|(_, rank)| rank.is_some() || selection.all_metadata)
        .collect();
    if selection.limit > 0 && chosen.len() > selection.limit {
        chosen.sort_by_key(|(_, rank)| rank.unwrap_or(usize::MAX));
        chosen.truncate(selection.limit);
    }
    chosen.into_iter().map(|(child, rank)| (child, rank.is_some())).collect()
}

/// Config and layers of a manifest.
pub(crate) fn manifest_children(manifest: &Manifest) -> Vec<OciDescriptor> {
    let layers = manifest.layers.as_deref().unwrap_or_default();
    std::iter::once(&manifest.config).chain(layers).cloned().collect()
}

/// Labels a document with its children, so that who keeps it keeps them:
/// `containerd.io/gc.ref.content.config`, `.m.N`, `.l.N`.
async fn label_children(
    content: &dyn Store,
    parent: &Digest,
    children: &[OciDescriptor],
) -> Result<()> {
    let labels = child_labels(children);
    if labels.is_empty() {
        return Ok(());
    }
    let mut info = content.info(parent).await?;
    if labels.iter().all(|(key, value)| info.labels.get(key) == Some(value)) {
        return Ok(());
    }
    let fields: Vec<_> = labels.keys().cloned().map(UpdateField::Label).collect();
    info.labels = labels;
    content.update(&info, &fields).await?;
    Ok(())
}

fn child_labels(children: &[OciDescriptor]) -> Labels {
    let mut counts = BTreeMap::<&str, usize>::new();
    let mut labels = Labels::new();
    for child in children {
        let kind = match child.media_type.as_str() {
            kind if is_config(kind) => "config",
            kind if is_manifest(kind) => "m.",
            kind if store_diff::media::is_layer(kind) => "l.",
            _ => "",
        };
        let count = counts.entry(kind).or_default();
        let key = match (kind, *count) {
            ("config", 0) => "containerd.io/gc.ref.content.config".to_owned(),
            (kind, count) => format!("containerd.io/gc.ref.content.{kind}{count}"),
        };
        *count += 1;
        labels.insert(key, child.digest.clone());
    }
    labels
}

/// Checks that what a manifest refers to is there, but for layers that may not be handed on.
///
/// # Errors
/// NotFound, naming the content.
pub(crate) async fn check_complete(content: &dyn Store, found: &Found) -> Result<()> {
    for child in manifest_children(&found.manifest) {
        if store_diff::media::is_non_distributable(&child.media_type) {
            continue;
        }
        let digest = Digest::parse(&child.digest)?;
        let info = content
            .info(&digest)
            .await
            .with_context(|| format!("manifest {}", found.descriptor.digest))?;
        check_size(&info, &child)?;
    }
    Ok(())
}

fn check_size(info: &Info, descriptor: &OciDescriptor) -> Result<()> {
    if u64::try_from(descriptor.size) == Ok(info.size) {
        return Ok(());
    }
    Err(Error::failed_precondition(format!(
        "content {} has {} bytes, its descriptor says {}",
        info.digest, info.size, descriptor.size
    )))
}

/// The config of a manifest; None if it is of a kind that says nothing of a root file system.
pub(crate) async fn config(content: &dyn Store, found: &Found) -> Result<Option<Config>> {
    let descriptor = &found.manifest.config;
    let is_image = matches!(
        descriptor.media_type.as_str(),
        crate::media_type::OCI_CONFIG | crate::media_type::DOCKER_CONFIG
    );
    if !is_image {
        return Ok(None);
    }
    let digest = Digest::parse(&descriptor.digest)?;
    Config::parse(&read_all(content, &digest).await?).map(Some)
}

/// The key of content in progress events: its kind and digest.
pub(crate) fn reference_key(descriptor: &OciDescriptor) -> String {
    let kind = match descriptor.media_type.as_str() {
        kind if is_manifest(kind) => "manifest",
        kind if is_index(kind) => "index",
        kind if store_diff::media::is_layer(kind) => "layer",
        kind if is_config(kind) => "config",
        "application/vnd.in-toto+json" => "attestation",
        _ => "unknown",
    };
    format!("{kind}-{}", descriptor.digest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media_type;

    fn descriptor(media_type: &str, digest: &str) -> OciDescriptor {
        OciDescriptor {
            media_type: media_type.to_owned(),
            digest: digest.to_owned(),
            ..OciDescriptor::default()
        }
    }

    #[test]
    fn labels_count_by_kind() {
        let children = [
            descriptor(media_type::DOCKER_CONFIG, "c"),
            descriptor(media_type::DOCKER_LAYER_GZIP, "l0"),
            descriptor("application/vnd.oci.image.layer.v1.tar+zstd", "l1"),
            descriptor(media_type::OCI_MANIFEST, "m"),
            descriptor(media_type::OCI_INDEX, "i"),
        ];
        let labels: Vec<_> = child_labels(&children).into_iter().collect();
        let prefix = "containerd.io/gc.ref.content.";
        let expected = [("0", "i"), ("config", "c"), ("l.0", "l0"), ("l.1", "l1"), ("m.0", "m")]
            .map(|(key, value)| (format!("{prefix}{key}"), value.to_owned()));
        assert_eq!(labels, expected);
    }
}
