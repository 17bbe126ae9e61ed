//! Docker's archives: `manifest.json` names configs and layers; manifests and an index are made
//! from it, byte for byte as containerd makes them.

use std::collections::BTreeMap;
use std::io::Read;

use base_errors::{Error, Result, ResultExt as _};
use base_ident::{Digest, Labels};
use bytes::Bytes;
use serde::Deserialize;
use store_content::{Store, WriteOptions, read_all};
use store_diff::Encoder;
use store_diff::media::{Format, LABEL_UNCOMPRESSED, MAGIC};
use tokio::sync::mpsc;

use super::{Blob, Contents, commit, write_document};
use crate::TransferError;
use crate::document::{Config, Index, Manifest, OciDescriptor, media_type, parse, to_json};
use crate::names::{ANNOTATION_IMAGE_NAME, ANNOTATION_REF_NAME};
use crate::reference::{normalize, reference_object};
use crate::unpack::unique_part;

/// Links that lead to links.
const MAX_LINKS: usize = 16;

/// Bytes compressed at once, and chunks on the way to the store.
const CHUNK: usize = 256 << 10;
const CHUNKS: usize = 4;

/// An image in `manifest.json`.
#[derive(Deserialize)]
struct DockerImage {
    #[serde(rename = "Config", default)]
    config: String,
    #[serde(rename = "RepoTags", default)]
    repo_tags: Option<Vec<String>>,
    #[serde(rename = "Layers", default)]
    layers: Option<Vec<String>>,
}

impl Contents {
    /// A file, through links.
    fn file(&self, name: &str) -> Result<Option<&Blob>, TransferError> {
        let mut at = name;
        for _ in 0..MAX_LINKS {
            if let Some(blob) = self.blobs.get(at) {
                return Ok(Some(blob));
            }
            match self.links.get(at) {
                Some(target) => at = target,
                None if at == name => return Ok(None),
                None => break,
            }
        }
        Err(TransferError::Link { name: name.to_owned(), target: at.to_owned() })
    }
}

/// Makes the index of a docker archive.
pub(super) async fn index(
    content: &dyn Store,
    contents: &Contents,
    compress: bool,
) -> Result<OciDescriptor> {
    let images = contents.manifests.as_ref().ok_or(TransferError::Format)?;
    let images: Option<Vec<DockerImage>> = parse("untar manifest \"manifest.json\"", images)?;
    let mut manifests = Vec::new();
    for image in images.ok_or(TransferError::Format)? {
        let name = super::archive::clean(&image.config);
        let config = contents.file(&name)?.ok_or_else(|| TransferError::Missing {
            kind: "image config",
            name: image.config.clone(),
        })?;
        let mut layers = Vec::new();
        for layer in image.layers.iter().flatten() {
            let resolved = resolve(content, contents, layer, compress).await;
            layers.push(resolved.context("failed to resolve layers")?);
        }
        let data = read_all(content, &config.digest).await?;
        let platform = Config::parse(&data)?.platform;
        let manifest = Manifest::docker(config.descriptor(media_type::DOCKER_CONFIG), layers);
        let data = to_json("docker manifest", &manifest)?;
        let mut descriptor = write_document(content, media_type::DOCKER_MANIFEST, data)
            .await
            .context("write docker manifest")?;
        if !platform.os.is_empty() || !platform.architecture.is_empty() {
            descriptor.platform = Some(platform.normalized());
        }
        match image.repo_tags.as_deref().unwrap_or_default() {
            [] => manifests.push(descriptor),
            tags => {
                for tag in tags {
                    let name = normalize(tag)?;
                    let object = reference_object(&name).to_owned();
                    let annotations = BTreeMap::from([
                        (ANNOTATION_REF_NAME.to_owned(), object),
                        (ANNOTATION_IMAGE_NAME.to_owned(), name),
                    ]);
                    let annotations = Some(annotations);
                    manifests.push(OciDescriptor { annotations, ..descriptor.clone() });
                }
            }
        }
    }
    let data = to_json("index", &Index::of(manifests))?;
    write_document(content, media_type::OCI_INDEX, data).await
}

/// The descriptor of a layer, by what its bytes are.
async fn resolve(
    content: &dyn Store,
    contents: &Contents,
    name: &str,
    compress: bool,
) -> Result<OciDescriptor> {
    let blob = contents
        .file(&super::archive::clean(name))?
        .ok_or_else(|| TransferError::Missing { kind: "layer", name: name.to_owned() })?;
    match format_of(content, &blob.digest).await? {
        Format::Gzip => Ok(blob.descriptor(media_type::DOCKER_LAYER_GZIP)),
        Format::Zstd => Ok(blob.descriptor(media_type::DOCKER_LAYER_ZSTD)),
        Format::Plain => {
            // The same layer may be there compressed, from a registry: then that one is taken.
            let filter = format!("labels.\"{LABEL_UNCOMPRESSED}\"=={}", blob.digest);
            let known = content.list(&[filter]).await?;
            if let Some(known) = known.into_iter().find(|known| known.digest != blob.digest) {
                let known = Blob { digest: known.digest, size: known.size };
                let media_type = match format_of(content, &known.digest).await? {
                    Format::Plain => media_type::DOCKER_LAYER,
                    Format::Gzip => media_type::DOCKER_LAYER_GZIP,
                    Format::Zstd => media_type::DOCKER_LAYER_ZSTD,
                };
                return Ok(known.descriptor(media_type));
            }
            if !compress {
                return Ok(blob.descriptor(media_type::DOCKER_LAYER));
            }
            let packed = compress_blob(content, blob).await?;
            Ok(packed.descriptor(media_type::DOCKER_LAYER_GZIP))
        }
    }
}

async fn format_of(content: &dyn Store, digest: &Digest) -> Result<Format> {
    let reader = content.reader(digest).await?;
    blocking(move || {
        let mut head = [0; MAGIC];
        let length = reader.read_at(&mut head, 0)?;
        Ok(Format::detect(&head[..length]))
    })
    .await
}

/// Stores a layer compressed, labelled with its diff id.
async fn compress_blob(content: &dyn Store, blob: &Blob) -> Result<Blob> {
    let digest = &blob.digest;
    let reference = format!("compress-blob-{}-{}", digest.algorithm().name(), digest.hex());
    let open = |reference: &str| {
        content.writer(WriteOptions { reference: reference.to_owned(), ..Default::default() })
    };
    let mut writer = match open(&reference).await {
        Err(error) if error.class() == base_errors::Class::Unavailable => {
            open(&format!("{reference}-{}", unique_part())).await
        }
        opened => opened,
    }
    .context("failed to open writer")?;
    if writer.status().await?.offset > 0 {
        writer.truncate(0).await.context("failed to truncate writer")?;
    }
    let reader = content.reader(digest).await?;
    let (sender, mut chunks) = mpsc::channel(CHUNKS);
    let pack = blocking(move || {
        let mut source = BlobReader { reader, offset: 0 };
        let mut encoder = Encoder::new(Format::Gzip, ChunkWriter { sender })?;
        let mut buffer = vec![0; CHUNK];
        loop {
            let length = source.read(&mut buffer)?;
            if length == 0 {
                break;
            }
            std::io::Write::write_all(&mut encoder, &buffer[..length])?;
        }
        encoder.finish()?;
        Ok(())
    });
    let store = async {
        let mut size = 0;
        while let Some(chunk) = chunks.recv().await {
            let chunk: Bytes = chunk;
            size += chunk.len() as u64;
            writer.write(chunk).await?;
        }
        Ok::<_, Error>(size)
    };
    let (packed, stored) = tokio::join!(pack, store);
    let size = stored?;
    packed?;
    let labels = Labels::from([(LABEL_UNCOMPRESSED.to_owned(), digest.to_string())]);
    let digest = commit(&mut *writer, size, None, labels).await.context("failed to commit")?;
    Ok(Blob { digest, size })
}

struct BlobReader {
    reader: std::sync::Arc<dyn store_content::ContentReader>,
    offset: u64,
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.reader.read_at(buffer, self.offset)?;
        self.offset += length as u64;
        Ok(length)
    }
}

/// Sends what the encoder writes; it writes in chunks of its own buffer.
struct ChunkWriter {
    sender: mpsc::Sender<Bytes>,
}

impl std::io::Write for ChunkWriter {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.sender.blocking_send(Bytes::copy_from_slice(data)).map_err(|_| {
            std::io::Error::new(std::io::ErrorKind::BrokenPipe, "the content store has ended")
        })?;
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => Ok(outcome?),
        Err(error) => Err(Error::internal(error.to_string())),
    }
}
