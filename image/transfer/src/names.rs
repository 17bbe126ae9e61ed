//! Under which names images are stored and found: the ImageStore object of the Transfer API.

use std::time::SystemTime;

use base_errors::Result;
use base_ident::{Descriptor, Labels, Namespace};
use store_metadata::{
    Image, ImageChange as Change, Metadata, MetadataError, Object, Scope, Update,
};

use crate::TransferError;
use crate::platform::{Matcher, Platform};
use crate::progress::ImageChange;
use crate::reference::with_prefix;

/// The annotation with the full name of an image.
pub(crate) const ANNOTATION_IMAGE_NAME: &str = "io.containerd.image.name";
/// OCI's annotation with a tag.
pub(crate) const ANNOTATION_REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Marks a descriptor whose name comes from its annotations.
pub(crate) const ANNOTATION_REF_SOURCE: &str = "io.containerd.import.ref-source";

/// A further name of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageReference {
    /// The name, or the repository if it is a prefix.
    pub name: String,
    /// `name` needs a tag or digest from the image.
    pub is_prefix: bool,
    /// A full name in the image wins over the prefix. For prefixes only.
    pub allow_overwrite: bool,
    /// Store under `name@digest` too.
    pub add_digest: bool,
    /// But not if the image has a name by this prefix.
    pub skip_named_digest: bool,
}

/// A wish to unpack.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnpackConfiguration {
    /// For which platform; the daemon's if the operating system and architecture are empty.
    pub platform: Platform,
    /// With which snapshotter; the daemon's default if empty.
    pub snapshotter: String,
}

/// The ImageStore object: source or destination of a transfer. Its fields are the wire's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageStoreOptions {
    /// The image's name.
    pub name: String,
    /// Labels of the images that are stored.
    pub labels: Labels,
    /// Platforms that are wanted; all if empty.
    pub platforms: Vec<Platform>,
    /// Keep manifests and configs of other platforms too.
    pub all_metadata: bool,
    /// The most manifests of an index that are taken, the best platforms first; zero: all.
    pub manifest_limit: u32,
    /// Further names.
    pub extra_references: Vec<ImageReference>,
    /// What is to be unpacked.
    pub unpacks: Vec<UnpackConfiguration>,
}

impl ImageStoreOptions {
    /// One image by its name.
    #[must_use]
    pub fn named(name: impl Into<String>) -> Self {
        ImageStoreOptions { name: name.into(), ..ImageStoreOptions::default() }
    }

    /// Which platforms are wanted.
    #[must_use]
    pub fn matcher(&self) -> Matcher {
        Matcher::ordered(&self.platforms)
    }

    /// The names for `target`, in the order in which they are stored.
    ///
    /// # Errors
    /// [`TransferError::RefSource`].
    pub(crate) fn names(&self, target: &Descriptor) -> Result<Vec<String>, TransferError> {
        let mut names = Vec::new();
        let digested = |name: &str| format!("{name}@{}", target.digest);
        match target.annotations.get(ANNOTATION_REF_SOURCE).map(String::as_str) {
            None => {
                if !self.name.is_empty() {
                    names.push(self.name.clone());
                }
                for reference in self.extra_references.iter().filter(|extra| !extra.is_prefix) {
                    names.push(match reference.add_digest {
                        true => digested(&reference.name),
                        false => reference.name.clone(),
                    });
                }
            }
            Some("annotation") => {
                for reference in self.extra_references.iter().filter(|extra| extra.is_prefix) {
                    match annotated_name(target, reference) {
                        Some(name) => {
                            names.push(name);
                            if reference.add_digest && !reference.skip_named_digest {
                                names.push(digested(&reference.name));
                            }
                        }
                        None if reference.add_digest => names.push(digested(&reference.name)),
                        None => {}
                    }
                }
            }
            Some(_) => return Err(TransferError::RefSource),
        }
        Ok(names)
    }

    /// Stores each of `targets` under its names, all in one commit; existing images get the new
    /// target and labels. A target without a name is left out.
    ///
    /// # Errors
    /// [`TransferError::RefSource`]; those of the records. Then nothing is stored.
    pub(crate) async fn store(
        &self,
        metadata: &Metadata,
        scope: &Scope,
        targets: &[Descriptor],
    ) -> Result<Vec<ImageChange>> {
        let mut named = Vec::new();
        for target in targets {
            let names = self.names(target)?;
            if names.is_empty() {
                tracing::info!("no images store for {}", target.digest);
            }
            let mut target = target.clone();
            target.annotations.remove(ANNOTATION_REF_SOURCE);
            named.extend(names.into_iter().map(|name| (name, target.clone())));
        }
        if named.is_empty() {
            return Ok(Vec::new());
        }
        let (scope, labels) = (scope.clone(), self.labels.clone());
        // DURABILITY: the content below was committed before; this is the record of it.
        base_fs::failpoint::hit("image.record")
            .map_err(|errno| base_fs::Error::new("record", "the image", errno))?;
        metadata
            .update(move |tx| {
                named
                    .into_iter()
                    .map(|(name, target)| put(tx, &scope, name, target, labels.clone()))
                    .collect()
            })
            .await
    }

    /// The image by its name.
    ///
    /// # Errors
    /// NotFound.
    pub(crate) fn get(&self, metadata: &Metadata, namespace: &Namespace) -> Result<Image> {
        metadata.view(|tx| Ok(tx.image(namespace, &self.name)?))
    }

    /// The images by name and further names.
    ///
    /// # Errors
    /// NotFound; NotImplemented for prefixes.
    pub(crate) fn lookup(&self, metadata: &Metadata, namespace: &Namespace) -> Result<Vec<Image>> {
        if self.extra_references.iter().any(|reference| reference.is_prefix) {
            return Err(TransferError::PrefixLookup.into());
        }
        let extra = self.extra_references.iter().map(|reference| reference.name.as_str());
        let names = (!self.name.is_empty()).then_some(self.name.as_str()).into_iter().chain(extra);
        metadata
            .view(|tx| names.map(|name| Ok(tx.image(namespace, name)?)).collect::<Result<Vec<_>>>())
    }
}

/// Creates an image, or gives an existing one a new target and labels.
fn put(
    tx: &mut Update<'_, '_>,
    scope: &Scope,
    name: String,
    target: Descriptor,
    labels: Labels,
) -> Result<ImageChange> {
    match tx.view().image(&scope.namespace, &name) {
        Ok(_) => {
            let annotations = target.annotations.clone();
            let change = Change { name, labels, target: Some(target), annotations };
            Ok(ImageChange::Updated(tx.update_image(scope, &change, &[], None)?))
        }
        Err(MetadataError::NotFound(Object::Image(_))) => {
            let now = SystemTime::now();
            let image = Image { name, labels, target, created_at: now, updated_at: now };
            Ok(ImageChange::Created(tx.create_image(scope, image, None)?))
        }
        Err(error) => Err(error.into()),
    }
}

/// The name that the annotations give under a prefix. A full name is taken as it is or not at all;
/// a tag gets the prefix.
fn annotated_name(target: &Descriptor, reference: &ImageReference) -> Option<String> {
    let annotation = |key: &str| target.annotations.get(key).filter(|value| !value.is_empty());
    let translate = |name: &str| with_prefix(&reference.name, name, !reference.allow_overwrite);
    match annotation(ANNOTATION_IMAGE_NAME) {
        Some(name) => translate(name).filter(|translated| translated == name),
        None => translate(annotation(ANNOTATION_REF_NAME)?),
    }
}

#[cfg(test)]
mod tests {
    use base_ident::Digest;

    use super::*;

    fn target(annotations: &[(&str, &str)]) -> Descriptor {
        Descriptor {
            media_type: String::new(),
            digest: Digest::parse(&format!("sha256:{}", "0".repeat(64))).unwrap(),
            size: 1,
            annotations: annotations
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
        }
    }

    fn names(reference: ImageReference, annotations: &[(&str, &str)]) -> Vec<String> {
        let options = ImageStoreOptions {
            name: "ignored".to_owned(),
            extra_references: vec![reference],
            ..ImageStoreOptions::default()
        };
        let source = [(ANNOTATION_REF_SOURCE, "annotation")];
        options.names(&target(&[&source, annotations].concat())).unwrap()
    }

    #[test]
    fn names_from_annotations() {
        let prefix = ImageReference {
            name: "r.io/a".to_owned(),
            is_prefix: true,
            ..ImageReference::default()
        };
        let full = [(ANNOTATION_IMAGE_NAME, "r.io/a:1"), (ANNOTATION_REF_NAME, "1")];
        let other = [(ANNOTATION_IMAGE_NAME, "x.io/b:1"), (ANNOTATION_REF_NAME, "1")];
        let tag = [(ANNOTATION_REF_NAME, "2")];
        assert_eq!(names(prefix.clone(), &full), ["r.io/a:1"]);
        assert_eq!(names(prefix.clone(), &other), Vec::<String>::new());
        assert_eq!(names(prefix.clone(), &tag), ["r.io/a:2"]);
        let overwrite = ImageReference { allow_overwrite: true, ..prefix.clone() };
        assert_eq!(names(overwrite, &other), ["x.io/b:1"]);
        let digest = format!("r.io/a@sha256:{}", "0".repeat(64));
        let digested = ImageReference { add_digest: true, ..prefix };
        assert_eq!(names(digested.clone(), &other), [digest.as_str()]);
        assert_eq!(names(digested.clone(), &tag), ["r.io/a:2", digest.as_str()]);
        let skip = ImageReference { skip_named_digest: true, ..digested };
        assert_eq!(names(skip, &tag), ["r.io/a:2"]);
    }

    #[test]
    fn names_without_annotations() {
        let options = ImageStoreOptions {
            name: "a".to_owned(),
            extra_references: vec![
                ImageReference { name: "b".to_owned(), ..ImageReference::default() },
                ImageReference {
                    name: "c".to_owned(),
                    is_prefix: true,
                    ..ImageReference::default()
                },
            ],
            ..ImageStoreOptions::default()
        };
        assert_eq!(options.names(&target(&[])).unwrap(), ["a", "b"]);
        assert!(options.names(&target(&[(ANNOTATION_REF_SOURCE, "x")])).is_err());
    }
}
