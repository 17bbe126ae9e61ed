//! From content to an archive: an OCI layout that docker can load too.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::sync::Arc;

use base_errors::{Error, Result, ResultExt as _};
use base_ident::{Descriptor, Digest};
use bytes::Bytes;
use serde::Serialize;
use store_content::{ContentReader, Hasher, Store, read_all};
use store_diff::media::is_non_distributable;
use store_diff::tar::{TarWriter, WriteEntry};
use store_metadata::Image;
use tokio::sync::mpsc;

use crate::TransferError;
use crate::document::{Index, Manifest, OciDescriptor, is_index, is_manifest, to_json};
use crate::names::{ANNOTATION_IMAGE_NAME, ANNOTATION_REF_NAME};
use crate::platform::{Matcher, Platform};
use crate::reference::{familiar, reference_object};
use crate::walk::manifest_children;

/// Bytes handed to the sink at once.
const CHUNK: usize = 256 << 10;

/// Before labels that tell from which registries content came.
const DISTRIBUTION_SOURCE: &str = "containerd.io/distribution.source";

/// What goes into an archive; the fields of ImageExportStream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExportOptions {
    /// Platforms that are wanted, the first is what docker loads; this machine's if empty.
    pub platforms: Vec<Platform>,
    /// All manifests of an index.
    pub all_platforms: bool,
    /// No `manifest.json` for docker.
    pub skip_compatibility_manifest: bool,
    /// Without layers that may not be handed on.
    pub skip_non_distributable: bool,
}

/// A file of the archive.
enum Record {
    Folder,
    Text { data: Bytes, mode: u32 },
    Blob { digest: Digest, size: u64 },
}

/// What is gathered before anything is written; names in their order.
#[derive(Default)]
struct Plan {
    records: BTreeMap<String, Record>,
    algorithms: BTreeSet<&'static str>,
    index: Vec<OciDescriptor>,
    /// For docker: manifests in their order, with their names.
    docker: Vec<(Digest, Vec<String>)>,
}

/// An image in docker's `manifest.json`.
#[derive(Serialize)]
struct DockerImage {
    #[serde(rename = "Config")]
    config: String,
    #[serde(rename = "RepoTags")]
    repo_tags: Option<Vec<String>>,
    #[serde(rename = "Layers")]
    layers: Option<Vec<String>>,
}

#[derive(Serialize)]
struct Layout {
    #[serde(rename = "imageLayoutVersion")]
    version: &'static str,
}

/// Writes `images` as an archive.
///
/// # Errors
/// NotFound for content that is not there, before anything is written; DataLoss for content that
/// does not have its digest.
pub(crate) async fn write(
    content: &dyn Store,
    images: &[Image],
    options: &ExportOptions,
    sink: mpsc::Sender<Bytes>,
) -> Result<()> {
    let plan = plan(content, images, options).await?;
    let mut writer = TarWriter::new(SinkWriter { sink, chunk: Vec::with_capacity(CHUNK) });
    for (name, record) in plan.records {
        let mut entry = WriteEntry { name: name.clone().into_bytes(), ..WriteEntry::default() };
        writer = match record {
            Record::Folder => {
                entry.flag = b'5';
                entry.mode = 0o755;
                write_entry(writer, entry, Source::Text(Bytes::new())).await
            }
            Record::Text { data, mode } => {
                entry.flag = b'0';
                entry.mode = mode;
                entry.size = data.len() as u64;
                write_entry(writer, entry, Source::Text(data)).await
            }
            Record::Blob { digest, size } => {
                let reader = content.reader(&digest).await.context("failed to get reader")?;
                entry.flag = b'0';
                entry.mode = 0o444;
                entry.size = size;
                write_entry(writer, entry, Source::Blob(digest, reader)).await
            }
        }
        .with_context(|| format!("export {name}"))?;
    }
    blocking(move || {
        let mut sink = writer.finish().map_err(closed)?;
        sink.flush().map_err(closed)?;
        Ok(())
    })
    .await
}

enum Source {
    Text(Bytes),
    Blob(Digest, Arc<dyn ContentReader>),
}

/// Writes one entry outside of the reactor.
async fn write_entry(
    mut writer: TarWriter<SinkWriter>,
    entry: WriteEntry,
    source: Source,
) -> Result<TarWriter<SinkWriter>> {
    blocking(move || {
        writer.entry(&entry).map_err(closed)?;
        match source {
            Source::Text(data) => writer.data(&data).map_err(closed)?,
            Source::Blob(digest, reader) => {
                let mut hasher = Hasher::new(digest.algorithm());
                let mut buffer = vec![0; CHUNK];
                let mut offset = 0;
                while offset < entry.size {
                    let left = usize::try_from(entry.size - offset).unwrap_or(CHUNK);
                    let length = reader.read_at(&mut buffer[..left.min(CHUNK)], offset)?;
                    if length == 0 {
                        break;
                    }
                    hasher.update(&buffer[..length]);
                    writer.data(&buffer[..length]).map_err(closed)?;
                    offset += length as u64;
                }
                let actual = hasher.digest();
                if actual != digest || offset != entry.size {
                    return Err(TransferError::Corrupt(actual.to_string()).into());
                }
            }
        }
        Ok(writer)
    })
    .await
}

fn closed(_: io::Error) -> TransferError {
    TransferError::Closed
}

async fn plan(content: &dyn Store, images: &[Image], options: &ExportOptions) -> Result<Plan> {
    let matcher = match options.platforms.as_slice() {
        [] => Matcher::ordered(&[Platform::host()]),
        platforms => Matcher::ordered(platforms),
    };
    let mut plan = Plan::default();
    let layout = to_json("oci layout", &Layout { version: "1.0.0" })?;
    plan.records.insert("oci-layout".to_owned(), Record::Text { data: layout, mode: 0o444 });
    let mut resolved = BTreeMap::new();
    for image in images {
        let target = with_annotations(content, image).await?;
        let for_docker = if is_manifest(&target.media_type) {
            plan.add_tree(content, &OciDescriptor::from(&target), options).await?;
            Some(target.digest.clone())
        } else if is_index(&target.media_type) {
            match resolved.get(&target.digest) {
                Some(known) => Option::clone(known),
                None => {
                    let best = plan.add_index(content, &target, &matcher, options).await?;
                    resolved.insert(target.digest.clone(), best.clone());
                    best
                }
            }
        } else {
            return Err(TransferError::NotManifest.into());
        };
        if let Some(digest) = for_docker {
            let place = plan.docker.iter().position(|(known, _)| *known == digest);
            match place {
                Some(place) => plan.docker[place].1.push(image.name.clone()),
                None => plan.docker.push((digest, vec![image.name.clone()])),
            }
        }
        plan.index.push(OciDescriptor::from(&target));
    }
    let index = to_json("index", &Index::of(std::mem::take(&mut plan.index)))?;
    plan.records.insert("index.json".to_owned(), Record::Text { data: index, mode: 0o644 });
    if !options.skip_compatibility_manifest && !plan.docker.is_empty() {
        let data = docker_manifest(content, &plan.docker)
            .await
            .context("unable to create manifests file")?;
        plan.records.insert("manifest.json".to_owned(), Record::Text { data, mode: 0o644 });
    }
    if !plan.algorithms.is_empty() {
        plan.records.insert("blobs/".to_owned(), Record::Folder);
        for algorithm in &plan.algorithms {
            plan.records.insert(format!("blobs/{algorithm}/"), Record::Folder);
        }
    }
    Ok(plan)
}

/// The target with its name and where it came from.
async fn with_annotations(content: &dyn Store, image: &Image) -> Result<Descriptor> {
    let mut target = image.target.clone();
    let object = reference_object(&image.name).to_owned();
    target.annotations.insert(ANNOTATION_IMAGE_NAME.to_owned(), image.name.clone());
    target.annotations.insert(ANNOTATION_REF_NAME.to_owned(), object);
    let info = content.info(&target.digest).await?;
    for (key, value) in info.labels {
        if key.starts_with(DISTRIBUTION_SOURCE) {
            target.annotations.insert(key, value);
        }
    }
    Ok(target)
}

impl Plan {
    async fn add_blob(
        &mut self,
        content: &dyn Store,
        descriptor: &OciDescriptor,
        options: &ExportOptions,
    ) -> Result<()> {
        if options.skip_non_distributable && is_non_distributable(&descriptor.media_type) {
            return Ok(());
        }
        let digest = Digest::parse(&descriptor.digest)?;
        let algorithm = digest.algorithm().name();
        let name = blob_name(&digest);
        if self.records.contains_key(&name) {
            return Ok(());
        }
        let size = content.info(&digest).await?.size;
        if u64::try_from(descriptor.size) != Ok(size) {
            return Err(Error::failed_precondition(format!(
                "content {digest} has {size} bytes, its descriptor says {}",
                descriptor.size
            )));
        }
        self.algorithms.insert(algorithm);
        self.records.insert(name, Record::Blob { digest, size });
        Ok(())
    }

    /// Adds content and all below it.
    async fn add_tree(
        &mut self,
        content: &dyn Store,
        root: &OciDescriptor,
        options: &ExportOptions,
    ) -> Result<()> {
        let mut queue = vec![root.clone()];
        while let Some(descriptor) = queue.pop() {
            let digest = Digest::parse(&descriptor.digest)?;
            if self.records.contains_key(&blob_name(&digest)) {
                continue;
            }
            self.add_blob(content, &descriptor, options).await?;
            if is_manifest(&descriptor.media_type) {
                let data = read_all(content, &digest).await?;
                queue.extend(manifest_children(&Manifest::parse(&descriptor.digest, &data)?));
            } else if is_index(&descriptor.media_type) {
                let data = read_all(content, &digest).await?;
                let index = Index::parse(&descriptor.digest, &data)?;
                queue.extend(index.manifests.unwrap_or_default());
            }
        }
        Ok(())
    }

    /// Adds an index with the wanted manifests; gives the best one.
    async fn add_index(
        &mut self,
        content: &dyn Store,
        target: &Descriptor,
        matcher: &Matcher,
        options: &ExportOptions,
    ) -> Result<Option<Digest>> {
        self.add_blob(content, &OciDescriptor::from(target), options).await?;
        let data = read_all(content, &target.digest).await?;
        let index = Index::parse(target.digest.as_str(), &data)?;
        let mut wanted = Vec::new();
        for manifest in index.manifests.unwrap_or_default() {
            let rank = match &manifest.platform {
                // Without a platform it fits any, and comes last.
                None => Some(usize::MAX),
                Some(platform) => matcher.rank(platform),
            };
            match rank {
                Some(rank) => wanted.push((rank, Digest::parse(&manifest.digest)?)),
                None if !options.all_platforms => continue,
                None => {}
            }
            self.add_tree(content, &manifest, options).await?;
        }
        wanted.sort_by_key(|(rank, _)| *rank);
        match wanted.into_iter().next() {
            Some((_, digest)) => Ok(Some(digest)),
            None => Err(TransferError::NoPlatform.into()),
        }
    }
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

/// Docker's `manifest.json`.
async fn docker_manifest(
    content: &dyn Store,
    manifests: &[(Digest, Vec<String>)],
) -> Result<Bytes> {
    let mut images = Vec::new();
    for (digest, names) in manifests {
        let data = read_all(content, digest).await?;
        let manifest = Manifest::parse(digest.as_str(), &data)?;
        let config = Digest::parse(&manifest.config.digest)?;
        let mut layers = Vec::new();
        for layer in manifest.layers.iter().flatten() {
            layers.push(blob_name(&Digest::parse(&layer.digest)?));
        }
        // A name that is no docker reference cannot be loaded by docker; it stays in the index.
        let tags: Vec<_> = names.iter().filter_map(|name| familiar(name).ok()).collect();
        images.push(DockerImage {
            config: blob_name(&config),
            repo_tags: (!tags.is_empty()).then_some(tags),
            layers: (!layers.is_empty()).then_some(layers),
        });
    }
    to_json("manifest.json", &images)
}

/// Sends what is written in chunks.
struct SinkWriter {
    sink: mpsc::Sender<Bytes>,
    chunk: Vec<u8>,
}

impl Write for SinkWriter {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.chunk.len() >= CHUNK {
            self.flush()?;
        }
        let length = data.len().min(CHUNK - self.chunk.len());
        self.chunk.extend_from_slice(&data[..length]);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK));
        self.sink
            .blocking_send(Bytes::from(chunk))
            .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => Err(Error::internal(error.to_string())),
    }
}
