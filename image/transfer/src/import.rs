//! From an archive to content: one pass, in which every file is hashed while it is stored.

mod archive;
mod docker;

use std::collections::HashMap;

use base_errors::{Error, Result, ResultExt as _};
use base_ident::{Digest, Labels};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use serde::Deserialize;
use store_content::{Store, WriteOptions, Writer, read_all};
use tokio::sync::mpsc;

use crate::TransferError;
use crate::document::{Index, OciDescriptor, media_type, parse};
use crate::unpack::unique_part;

use archive::Piece;

/// The largest document that is read from an archive by name; as containerd.
const MAX_JSON: u64 = 20 << 20;

/// Names of one archive: each is remembered until its end.
const MAX_FILES: usize = 100_000;

/// The longest name that becomes part of an ingest's reference.
const MAX_REFERENCE: usize = 1024;

/// Chunks and pieces between the stream, the thread that reads the archive, and the store. Chunks
/// of streams have 32 KiB to 1 MiB.
const QUEUE: usize = 16;

/// How an archive is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportOptions {
    /// Media type of the stream; empty: it may be compressed, which is found out.
    pub media_type: String,
    /// Compress uncompressed layers of docker archives.
    pub force_compress: bool,
}

/// What a file of the archive is in the content store.
#[derive(Clone, Debug)]
struct Blob {
    digest: Digest,
    size: u64,
}

/// What was found in an archive.
#[derive(Default)]
struct Contents {
    layout: Option<Bytes>,
    manifests: Option<Bytes>,
    blobs: HashMap<String, Blob>,
    links: HashMap<String, String>,
}

#[derive(Deserialize)]
struct Layout {
    #[serde(rename = "imageLayoutVersion", default)]
    version: String,
}

/// Reads an archive into `content`; gives the descriptor of its index, which is made for archives
/// that have none.
///
/// # Errors
/// [`TransferError`]; those of the store. What was stored is held by the lease of the call alone.
pub(crate) async fn read(
    content: &dyn Store,
    source: impl Stream<Item = std::io::Result<Bytes>> + Send + Unpin,
    options: &ImportOptions,
) -> Result<OciDescriptor> {
    let (chunk_sender, chunks) = mpsc::channel(QUEUE);
    let (piece_sender, mut pieces) = mpsc::channel(QUEUE);
    let detect = options.media_type.is_empty();
    let reader = tokio::task::spawn_blocking(move || archive::read(chunks, &piece_sender, detect));
    let pump = async move {
        let mut source = source;
        while let Some(chunk) = source.next().await {
            let is_end = chunk.is_err();
            // The reader has ended: nobody needs the rest.
            if chunk_sender.send(chunk).await.is_err() || is_end {
                break;
            }
        }
    };
    let collect = async {
        let collected = collect(content, &mut pieces).await;
        // Ends the reader, if this is why it is over.
        drop(pieces);
        collected
    };
    let ((), collected, read) = tokio::join!(pump, collect, reader);
    read.map_err(|error| Error::internal(error.to_string()))?;
    resolve(content, collected?, options).await
}

/// Stores the files of an archive as they come.
async fn collect(
    content: &dyn Store,
    pieces: &mut mpsc::Receiver<Result<Piece, TransferError>>,
) -> Result<Contents> {
    let mut contents = Contents::default();
    while let Some(piece) = pieces.recv().await {
        match piece? {
            Piece::Link { name, target } => {
                contents.links.insert(name, target);
            }
            Piece::File { name, size } => match name.as_str() {
                "oci-layout" => contents.layout = Some(document(&name, size, pieces).await?),
                "manifest.json" => contents.manifests = Some(document(&name, size, pieces).await?),
                _ => {
                    let blob = ingest(content, &name, size, pieces)
                        .await
                        .with_context(|| format!("failed to ingest {name:?}"))?;
                    contents.blobs.insert(name, blob);
                }
            },
            // Data of a file that is stored already.
            Piece::Data(_) => {}
        }
        if contents.blobs.len() + contents.links.len() > MAX_FILES {
            return Err(TransferError::TooMany(MAX_FILES).into());
        }
    }
    Ok(contents)
}

/// The next chunk of the file that is being read.
async fn data(pieces: &mut mpsc::Receiver<Result<Piece, TransferError>>) -> Result<Bytes> {
    match pieces.recv().await {
        Some(Ok(Piece::Data(data))) => Ok(data),
        Some(Err(error)) => Err(error.into()),
        // The reader gives each file all of its data, or an error.
        Some(Ok(_)) | None => {
            Err(TransferError::Archive(store_diff::tar::TarError::Truncated).into())
        }
    }
}

async fn document(
    name: &str,
    size: u64,
    pieces: &mut mpsc::Receiver<Result<Piece, TransferError>>,
) -> Result<Bytes> {
    if size > MAX_JSON {
        return Err(TransferError::TooLarge { name: name.to_owned(), size }.into());
    }
    let mut text = Vec::new();
    while (text.len() as u64) < size {
        text.extend_from_slice(&data(pieces).await?);
    }
    Ok(Bytes::from(text))
}

/// Stores one file. A file below `blobs/` must have the digest of its name.
async fn ingest(
    content: &dyn Store,
    name: &str,
    size: u64,
    pieces: &mut mpsc::Receiver<Result<Piece, TransferError>>,
) -> Result<Blob> {
    let expected = digest_of_name(name);
    let mut reference = match name.len() <= MAX_REFERENCE {
        true => format!("tar-{name}"),
        false => format!("tar-{}", unique_part()),
    };
    let open = |reference: &str| {
        content.writer(WriteOptions {
            reference: reference.to_owned(),
            total: size,
            expected: expected.clone(),
        })
    };
    let mut opened = open(&reference).await;
    if let Err(error) = &opened
        && error.class() == base_errors::Class::Unavailable
    {
        // Another import writes the same file at this moment.
        reference = format!("{reference}-{}", unique_part());
        opened = open(&reference).await;
    }
    let mut writer = match (opened, expected.clone()) {
        (Ok(writer), _) => writer,
        // Content that is there need not be read again: its data is passed over.
        (Err(error), Some(digest)) if error.is_already_exists() => {
            let known = content.info(&digest).await?;
            if known.size != size {
                return Err(TransferError::Document(format!(
                    "{digest} has {size} bytes in the archive, and {} in the store",
                    known.size
                ))
                .into());
            }
            return Ok(Blob { digest, size });
        }
        (Err(error), _) => return Err(error),
    };
    match fill(&mut *writer, size, expected.as_ref(), pieces).await {
        Ok(digest) => Ok(Blob { digest, size }),
        Err(error) => {
            drop(writer);
            if let Err(error) = content.abort(&reference).await
                && !error.is_not_found()
            {
                tracing::warn!(%error, reference, "cannot give up the ingest of a failed import");
            }
            Err(error)
        }
    }
}

async fn fill(
    writer: &mut dyn Writer,
    size: u64,
    expected: Option<&Digest>,
    pieces: &mut mpsc::Receiver<Result<Piece, TransferError>>,
) -> Result<Digest> {
    if writer.status().await?.offset > 0 {
        writer.truncate(0).await?;
    }
    let mut written = 0;
    while written < size {
        let chunk = data(pieces).await?;
        written += chunk.len() as u64;
        writer.write(chunk).await?;
    }
    commit(writer, size, expected, Labels::new()).await
}

/// Commits an ingest; content that exists already is as good.
async fn commit(
    writer: &mut dyn Writer,
    size: u64,
    expected: Option<&Digest>,
    labels: Labels,
) -> Result<Digest> {
    let digest = writer.digest()?;
    // DURABILITY: the store makes the bytes durable before their record (content.record).
    match writer.commit(size, expected.or(Some(&digest)), labels).await {
        Ok(digest) => Ok(digest),
        Err(error) if error.is_already_exists() => Ok(digest),
        Err(error) => Err(error),
    }
}

/// The digest that a name in `blobs/` promises.
fn digest_of_name(name: &str) -> Option<Digest> {
    let (algorithm, hex) = name.strip_prefix("blobs/")?.split_once('/')?;
    Digest::parse(&format!("{algorithm}:{hex}")).ok()
}

/// Finds the index of what was stored, or makes one.
async fn resolve(
    content: &dyn Store,
    contents: Contents,
    options: &ImportOptions,
) -> Result<OciDescriptor> {
    if let Some(layout) = &contents.layout {
        let layout: Layout = parse("untar oci layout \"oci-layout\"", layout)?;
        match layout.version.as_str() {
            "" => {}
            "1.0.0" => {
                let index = contents.blobs.get("index.json").ok_or(TransferError::NoIndex)?;
                return Ok(index.descriptor(media_type::OCI_INDEX));
            }
            other => return Err(TransferError::Version(other.to_owned()).into()),
        }
    }
    docker::index(content, &contents, options.force_compress).await
}

impl Blob {
    fn descriptor(&self, media_type: &str) -> OciDescriptor {
        OciDescriptor {
            media_type: media_type.to_owned(),
            digest: self.digest.to_string(),
            size: i64::try_from(self.size).unwrap_or(i64::MAX),
            ..OciDescriptor::default()
        }
    }
}

/// What an index lists.
pub(crate) async fn children(
    content: &dyn Store,
    index: &OciDescriptor,
) -> Result<Vec<OciDescriptor>> {
    let digest = Digest::parse(&index.digest)?;
    let data = read_all(content, &digest).await?;
    Ok(Index::parse(&index.digest, &data)?.manifests.unwrap_or_default())
}

/// Stores a document that was made here.
async fn write_document(
    content: &dyn Store,
    media_type: &str,
    data: Bytes,
) -> Result<OciDescriptor> {
    let digest = store_content::Hasher::hash(base_ident::Algorithm::Sha256, &data);
    let size = data.len() as u64;
    let blob = Blob { digest: digest.clone(), size };
    let options = WriteOptions {
        reference: format!("manifest-{digest}-{}", unique_part()),
        total: size,
        expected: Some(digest.clone()),
    };
    match content.writer(options).await {
        Ok(mut writer) => {
            writer.write(data).await?;
            commit(&mut *writer, size, Some(&digest), Labels::new()).await?;
        }
        Err(error) if error.is_already_exists() => {}
        Err(error) => return Err(error),
    }
    Ok(blob.descriptor(media_type))
}
