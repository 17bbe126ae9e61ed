//! What is behind an image's name: index, manifest, configuration, layers.

mod document;
mod platform;

use std::collections::BTreeSet;

use api_grpc::images::{GetImageRequest, Image};
use api_shim::types;
use base_errors::{Error, Result, ResultExt as _};
use bytes::Bytes;

pub use document::{Config, Descriptor, Index, Manifest, RootFs, chain_id, is_index, is_manifest};
pub use platform::Platform;

use crate::{Client, body, missing};

/// How many manifests of one index are looked at: far more than any image has.
const MAX_MANIFESTS: usize = 10_000;

/// How deep indexes may hold each other.
const MAX_DEPTH: usize = 8;

/// An image as one platform sees it.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The manifest's descriptor.
    pub target: Descriptor,
    /// The manifest.
    pub manifest: Manifest,
    /// The configuration, as it is stored.
    pub config_json: Bytes,
    /// The configuration.
    pub config: Config,
}

impl Resolved {
    /// The name of the snapshot with all layers; empty for an image without layers.
    #[must_use]
    pub fn chain_id(&self) -> String {
        chain_id(&self.config.rootfs.diff_ids)
    }
}

/// What of an image is there.
#[derive(Clone, Debug, Default)]
pub struct Check {
    /// Everything that the manifest of the platform asks for.
    pub required: Vec<Descriptor>,
    /// Those of them that are there.
    pub present: Vec<Descriptor>,
    /// The others.
    pub missing: Vec<Descriptor>,
    /// False if the manifest itself is missing: then nothing else is known.
    pub available: bool,
}

impl Client {
    /// The record of an image.
    ///
    /// # Errors
    /// NotFound.
    pub async fn image(&self, name: &str) -> Result<Image> {
        let request = GetImageRequest { name: name.to_owned() };
        body(self.images().get(request).await)?.image.ok_or_else(|| missing("image"))
    }

    /// The manifest for `platform` below `target`, the best one of an index.
    ///
    /// # Errors
    /// NotFound if there is none, or if its content is missing.
    pub async fn manifest(
        &self,
        target: &Descriptor,
        platform: &Platform,
    ) -> Result<(Descriptor, Manifest)> {
        let mut target = target.clone();
        for _ in 0..MAX_DEPTH {
            let blob = self.read_blob(&target.digest).await?;
            if !is_index(&target.media_type, &blob) {
                let manifest = Manifest::parse(&blob)
                    .with_context(|| format!("manifest {}", target.digest))?;
                return Ok((target, manifest));
            }
            let index = Index::parse(&blob).with_context(|| format!("index {}", target.digest))?;
            let mut best: Option<(usize, Descriptor)> = None;
            for child in index.manifests.into_iter().take(MAX_MANIFESTS) {
                let own = match &child.platform {
                    Some(own) => own.clone(),
                    // Without a platform of its own, the child's configuration tells it.
                    None => match self.platform_of(&child).await {
                        Ok(own) => own,
                        Err(_) => continue,
                    },
                };
                let Some(rank) = platform.rank(&own) else { continue };
                if best.as_ref().is_none_or(|(known, _)| rank < *known) {
                    best = Some((rank, child));
                }
            }
            target = best.map(|(_, child)| child).ok_or_else(|| {
                Error::not_found(format!("no match for platform in manifest {}", target.digest))
            })?;
        }
        Err(Error::invalid_argument(format!("index {} nests too deep", target.digest)))
    }

    async fn platform_of(&self, manifest: &Descriptor) -> Result<Platform> {
        let manifest = Manifest::parse(&self.read_blob(&manifest.digest).await?)?;
        let config = Config::parse(&self.read_blob(&manifest.config.digest).await?)?;
        Ok(config.platform())
    }

    /// Manifest and configuration of an image for `platform`.
    ///
    /// # Errors
    /// As [`Client::manifest`].
    pub async fn resolve_image(&self, image: &Image, platform: &Platform) -> Result<Resolved> {
        let target: Descriptor = image.target.clone().ok_or_else(|| missing("target"))?.into();
        self.resolve_target(&target, platform).await
    }

    /// As [`Client::resolve_image`], from the image's target.
    ///
    /// # Errors
    /// As [`Client::manifest`].
    pub async fn resolve_target(
        &self,
        target: &Descriptor,
        platform: &Platform,
    ) -> Result<Resolved> {
        let (target, manifest) = self.manifest(target, platform).await?;
        let config_json = self.read_blob(&manifest.config.digest).await?;
        let config = Config::parse(&config_json)
            .with_context(|| format!("configuration {}", manifest.config.digest))?;
        Ok(Resolved { target, manifest, config_json, config })
    }

    /// The bytes of everything that `platform` needs of an image, the manifests on the way with it.
    ///
    /// # Errors
    /// As [`Client::manifest`].
    pub async fn image_size(&self, target: &types::Descriptor, platform: &Platform) -> Result<i64> {
        let target: Descriptor = target.clone().into();
        let (chosen, manifest) = self.manifest(&target, platform).await?;
        let mut size = chosen.size + manifest.config.size;
        if chosen.digest != target.digest {
            size += target.size;
        }
        Ok(size + manifest.layers.iter().map(|layer| layer.size).sum::<i64>())
    }

    /// The platforms that an image has, sorted; those whose manifests are missing are not told.
    ///
    /// # Errors
    /// NotFound if the target's content is missing.
    pub async fn image_platforms(&self, target: &types::Descriptor) -> Result<BTreeSet<String>> {
        let target: Descriptor = target.clone().into();
        let blob = self.read_blob(&target.digest).await?;
        let mut platforms = BTreeSet::new();
        if !is_index(&target.media_type, &blob) {
            let manifest = Manifest::parse(&blob)?;
            let config = self.read_blob(&manifest.config.digest).await?;
            platforms.insert(Config::parse(&config)?.platform().to_string());
            return Ok(platforms);
        }
        for child in Index::parse(&blob)?.manifests.into_iter().take(MAX_MANIFESTS) {
            match child.platform.clone() {
                Some(platform) => platforms.insert(platform.normalised().to_string()),
                None => match self.platform_of(&child).await {
                    Ok(platform) => platforms.insert(platform.to_string()),
                    Err(_) => continue,
                },
            };
        }
        Ok(platforms)
    }

    /// Whether the content of an image is there.
    ///
    /// # Errors
    /// The daemon's, save for missing content.
    pub async fn image_check(
        &self,
        target: &types::Descriptor,
        platform: &Platform,
    ) -> Result<Check> {
        let target: Descriptor = target.clone().into();
        let (chosen, manifest) = match self.manifest(&target, platform).await {
            Ok(found) => found,
            Err(error) if error.is_not_found() => return Ok(Check::default()),
            Err(error) => return Err(error),
        };
        let mut check = Check { available: true, ..Check::default() };
        drop(chosen);
        check.required.push(manifest.config);
        check.required.extend(manifest.layers);
        for descriptor in &check.required {
            match self.blob_info(&descriptor.digest).await {
                Ok(_) => check.present.push(descriptor.clone()),
                Err(error) if error.is_not_found() => check.missing.push(descriptor.clone()),
                Err(error) => return Err(error),
            }
        }
        Ok(check)
    }
}
