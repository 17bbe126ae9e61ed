//! Images: names of content.
//!
//! ```text
//! images/<name>/
//!   createdat updatedat              time
//!   target/ digest mediatype         text
//!           size                     varint
//!   annotations/                     those of the target
//!   labels/
//! ```

use std::collections::BTreeMap;
use std::time::SystemTime;

use base_ident::filter::{Adaptor, Filter, map_field};
use base_ident::{Descriptor, Digest, FieldPath, Labels, Namespace, apply_label, validate_labels};
use store_bolt::{Bucket, BucketMut, Entry};

use crate::container::present;
use crate::encode::{put_map, put_times};
use crate::gc::EXPIRE;
use crate::metadata::{Update, View};
use crate::record::{Record, each, find};
use crate::schema::{
    ANNOTATIONS, CREATED_AT, DIGEST, IMAGES, LABELS, MEDIA_TYPE, SIZE, TARGET, UPDATED_AT,
};
use crate::{MetadataError, Object, Result, Scope};
use store_bolt::value::varint;

/// An image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Its name: any text that is not empty.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
    /// The content that it names.
    pub target: Descriptor,
    /// When it was created; kept by updates.
    pub created_at: SystemTime,
    /// When it was last changed.
    pub updated_at: SystemTime,
}

/// What an update of an image may change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageChange {
    /// The image's name.
    pub name: String,
    /// Labels.
    pub labels: Labels,
    /// The target, if the request has a valid one.
    pub target: Option<Descriptor>,
    /// The annotations of the target, for masks that name them alone.
    pub annotations: BTreeMap<String, String>,
}

impl Adaptor for Image {
    fn field(&self, path: &[&str]) -> Option<String> {
        match path {
            ["name", ..] => present(&self.name),
            ["target", "digest", ..] => present(self.target.digest.as_str()),
            ["target", "mediatype", ..] => present(&self.target.media_type),
            ["labels", key @ ..] => map_field(&self.labels, key),
            ["annotations", key @ ..] => map_field(&self.target.annotations, key),
            _ => None,
        }
    }
}

impl Image {
    pub(crate) fn decode(record: Record<'_>) -> Result<Self> {
        let [annotations, created, labels, target, updated] =
            record.entries([ANNOTATIONS, CREATED_AT, LABELS, TARGET, UPDATED_AT])?;
        let Some(target) = bucket(target) else {
            return Err(record.damaged("unable to read target bucket"));
        };
        let target = Record { bucket: target, ..record };
        let [digest, media_type, size] = target.entries([DIGEST, MEDIA_TYPE, SIZE])?;
        let digest = target.text(value(digest).unwrap_or_default(), DIGEST)?;
        let media_type = target.text(value(media_type).unwrap_or_default(), MEDIA_TYPE)?;
        let (created_at, updated_at) = record.times_of(value(created), value(updated))?;
        Ok(Image {
            name: record.name()?,
            labels: record.map_of(bucket(labels))?,
            target: Descriptor {
                media_type: media_type.to_owned(),
                digest: Digest::parse(digest).map_err(|error| record.damaged(error.to_string()))?,
                size: target.size_of(value(size), SIZE)?,
                annotations: record.map_of(bucket(annotations))?,
            },
            created_at,
            updated_at,
        })
    }

    fn encode(&self, bucket: &mut BucketMut<'_>) -> Result<()> {
        put_times(bucket, self.created_at, self.updated_at)?;
        put_map(bucket, LABELS, &self.labels)?;
        put_map(bucket, ANNOTATIONS, &self.target.annotations)?;
        let mut target = bucket.create_bucket_if_missing(TARGET)?;
        target.put(DIGEST, self.target.digest.as_str().as_bytes())?;
        target.put(MEDIA_TYPE, self.target.media_type.as_bytes())?;
        target.put(SIZE, &varint(self.size()?))?;
        Ok(())
    }

    /// The target's size as it is stored.
    fn size(&self) -> Result<i64> {
        match i64::try_from(self.target.size) {
            Ok(size) if size > 0 => Ok(size),
            _ => Err(MetadataError::Rule("Target.Size must be greater than zero")),
        }
    }

    fn validate(&self) -> Result<()> {
        if self.name.is_empty() {
            return Err(MetadataError::Rule("image name must not be empty"));
        }
        validate_labels(&self.labels).map_err(MetadataError::field("image.Labels"))?;
        self.size()?;
        if self.target.media_type.is_empty() {
            return Err(MetadataError::Unset("Target.MediaType"));
        }
        Ok(())
    }

    /// Takes the field at `path` over from `change`.
    fn apply(&mut self, change: &ImageChange, path: &str) -> Result<()> {
        match FieldPath::parse(path) {
            FieldPath::Entry("labels", key) => apply_label(&mut self.labels, key, &change.labels),
            FieldPath::Entry("annotations", key) => {
                apply_label(&mut self.target.annotations, key, &change.annotations);
            }
            FieldPath::Whole("labels") => self.labels.clone_from(&change.labels),
            FieldPath::Whole("target") => self.target = change.target()?.clone(),
            FieldPath::Whole("annotations") => {
                self.target.annotations.clone_from(&change.annotations);
            }
            _ => {
                return Err(MetadataError::Mask {
                    path: path.to_owned(),
                    object: format!("image {:?}", self.name),
                });
            }
        }
        Ok(())
    }
}

impl ImageChange {
    fn target(&self) -> Result<&Descriptor> {
        self.target.as_ref().ok_or(MetadataError::Rule(
            "Target.Digest \"\" invalid: invalid checksum digest format",
        ))
    }
}

fn bucket(entry: Option<Entry<'_>>) -> Option<Bucket<'_>> {
    entry.as_ref().and_then(Entry::bucket)
}

fn value(entry: Option<Entry<'_>>) -> Option<&[u8]> {
    entry.as_ref().and_then(Entry::value)
}

impl View<'_> {
    /// An image.
    ///
    /// # Errors
    /// NotFound, DataLoss.
    pub fn image(&self, namespace: &Namespace, name: &str) -> Result<Image> {
        match find(self.bucket(namespace, &[IMAGES])?, "images", name.as_bytes())? {
            Some(record) => Image::decode(record),
            None => Err(MetadataError::NotFound(Object::Image(name.to_owned()))),
        }
    }

    /// The images that match `filter`, in the order of their names.
    ///
    /// # Errors
    /// DataLoss of the whole list; a damaged record is left out.
    pub fn images(&self, namespace: &Namespace, filter: &Filter) -> Result<Vec<Image>> {
        let mut images = Vec::new();
        self.each_image(namespace, filter, |image| images.push(image))?;
        Ok(images)
    }

    /// As [`View::images`], one by one.
    ///
    /// # Errors
    /// The same.
    pub fn each_image(
        &self,
        namespace: &Namespace,
        filter: &Filter,
        mut take: impl FnMut(Image),
    ) -> Result<()> {
        each(self.bucket(namespace, &[IMAGES])?, "images", Image::decode, |image| {
            if filter.matches(&image) {
                take(image);
            }
        })
    }
}

impl Update<'_, '_> {
    /// An image that can expire is held by the lease of the call; any other needs none.
    fn lease_image(&mut self, scope: &Scope, image: &Image) -> Result<()> {
        if image.labels.contains_key(EXPIRE) {
            self.lease(scope, &[IMAGES], image.name.as_bytes())?;
        }
        Ok(())
    }

    /// Creates an image. Its times are `epoch` (the request's source date), or now.
    ///
    /// # Errors
    /// AlreadyExists; InvalidArgument by the rules of containerd; NotFound for an unknown lease.
    pub fn create_image(
        &mut self,
        scope: &Scope,
        mut image: Image,
        epoch: Option<SystemTime>,
    ) -> Result<Image> {
        image.validate()?;
        self.lease_image(scope, &image)?;
        let stored = self.view().bucket(&scope.namespace, &[IMAGES])?;
        if find(stored, "images", image.name.as_bytes())?.is_some() {
            return Err(MetadataError::AlreadyExists(Object::Image(image.name)));
        }
        image.created_at = epoch.unwrap_or_else(SystemTime::now);
        image.updated_at = image.created_at;
        image.labels.retain(|_, value| !value.is_empty());
        image.target.annotations.retain(|_, value| !value.is_empty());
        self.note_expiry(&image.labels);
        image.encode(&mut self.create(scope, &[IMAGES, image.name.as_bytes()])?)?;
        Ok(image)
    }

    /// Changes the fields that `mask` names: `labels`, `labels.<key>`, `target`, `annotations`,
    /// `annotations.<key>`; labels and target if it is empty. Gives the new record.
    ///
    /// # Errors
    /// NotFound; InvalidArgument for other paths and by the rules of a new image.
    pub fn update_image(
        &mut self,
        scope: &Scope,
        change: &ImageChange,
        mask: &[String],
        epoch: Option<SystemTime>,
    ) -> Result<Image> {
        if change.name.is_empty() {
            return Err(MetadataError::Rule("image name is required for update"));
        }
        let mut new = self.view().image(&scope.namespace, &change.name)?;
        if mask.is_empty() {
            ["labels", "target"].iter().try_for_each(|path| new.apply(change, path))?;
        } else {
            mask.iter().try_for_each(|path| new.apply(change, path))?;
        }
        new.validate()?;
        self.lease_image(scope, &new)?;
        new.labels.retain(|_, value| !value.is_empty());
        new.target.annotations.retain(|_, value| !value.is_empty());
        new.updated_at = epoch.unwrap_or_else(SystemTime::now);
        self.note_expiry(&new.labels);
        new.encode(&mut self.create(scope, &[IMAGES, change.name.as_bytes()])?)?;
        Ok(new)
    }

    /// Removes an image; with `target` only if that is what it names.
    ///
    /// # Errors
    /// NotFound, also for another target.
    pub fn delete_image(
        &mut self,
        scope: &Scope,
        name: &str,
        target: Option<&Digest>,
    ) -> Result<()> {
        if let Some(wanted) = target {
            let actual = self.view().image(&scope.namespace, name)?.target.digest;
            if actual != *wanted {
                return Err(MetadataError::OtherTarget {
                    name: name.to_owned(),
                    actual,
                    wanted: wanted.clone(),
                });
            }
        }
        if !self.remove(scope, &[IMAGES], name.as_bytes())? {
            return Err(MetadataError::NotFound(Object::Image(name.to_owned())));
        }
        self.unlease(scope, &[IMAGES], name.as_bytes())?;
        self.dirty.deletions += 1;
        Ok(())
    }
}
