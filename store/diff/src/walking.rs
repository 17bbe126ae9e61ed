//! The differ that walks trees: plug-in `walking`.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use base_errors::{Error, Result, ResultExt as _};
use base_ident::{Algorithm, Descriptor, Digest, Labels};
use bytes::Bytes;
use kernel_mount::{Mount, TempMount};
use sha2::{Digest as _, Sha256};
use store_content::{UpdateField, WriteOptions};
use tokio::sync::mpsc;

use crate::apply::{Target, apply_layer};
use crate::compare::{CompareError, TreeOptions, changes, write_diff, write_overlay_diff};
use crate::layer::{blocking, uncompressed, with_blob};
use crate::media::{self, Format, LABEL_UNCOMPRESSED};
use crate::processor::Processors;
use crate::{ApplyOptions, CompareOptions, Differ, Encoder};

/// Bytes of a layer handed to the content store at once.
const CHUNK: usize = 256 << 10;

/// Chunks that wait for the content store: 1 MiB.
const CHUNKS: usize = 4;

/// Applies layers by unpacking them, and makes layers by comparing trees file by file.
#[derive(Clone, Debug)]
pub struct WalkingDiffer {
    /// Where trees are mounted that cannot be reached otherwise; None: the system's folder for
    /// temporary files.
    temp: Option<PathBuf>,
    /// Flush after each layer, whatever the caller says.
    always_sync: bool,
    /// Programs that decode layers.
    processors: Processors,
}

impl WalkingDiffer {
    /// A differ that mounts below `temp` (the daemon's `tmpmounts`).
    #[must_use]
    pub fn new(temp: Option<PathBuf>) -> Self {
        WalkingDiffer { temp, always_sync: false, processors: Processors::default() }
    }

    /// The same, with programs that decode layers.
    #[must_use]
    pub fn with_processors(self, processors: Processors) -> Self {
        WalkingDiffer { processors, ..self }
    }

    /// The same, which makes each layer durable before it says that it is applied, if `always`.
    #[must_use]
    pub fn durable(self, always: bool) -> Self {
        WalkingDiffer { always_sync: always, ..self }
    }
}

#[async_trait]
impl Differ for WalkingDiffer {
    /// CANCEL: if the future is dropped, the unpacking thread ends at its next buffer; the tree is
    /// in between then, and only good to be removed.
    async fn apply(
        &self,
        content: &dyn store_content::Store,
        descriptor: &Descriptor,
        mounts: &[Mount],
        options: ApplyOptions,
    ) -> Result<Descriptor> {
        let plan = self.processors.plan(&descriptor.media_type)?;
        let (temp, mounts) = (self.temp.clone(), mounts.to_vec());
        let sync = options.sync_fs || self.always_sync;
        let applied = with_blob(content, descriptor, move |source, cancel| {
            let direct = (!in_user_namespace())
                .then(|| Target::of_mounts(&mounts, options.parent_comes_later))
                .flatten();
            if direct.is_none() && options.parent_comes_later {
                return Err(Error::not_implemented(
                    "these mounts cannot be written to before their parent is there",
                ));
            }
            let (mount, target) = match direct {
                Some(target) => (None, target),
                None => {
                    let mount = TempMount::new(&mounts, temp.as_deref())?;
                    let target = Target::folder(mount.path());
                    (Some(mount), target)
                }
            };
            let mut stream = plan.start(source, &options.payloads)?;
            let applied = match apply_layer(&mut stream, plan.compression, &target, cancel) {
                Ok(applied) => {
                    stream.finish()?;
                    applied
                }
                Err(error) => {
                    // What a program has said tells more than a stream that was cut off.
                    if stream.has_failed() {
                        stream.finish()?;
                    }
                    return Err(error.into());
                }
            };
            if sync {
                // DURABILITY: the layer's files, before the snapshot is committed.
                base_fs::failpoint::hit("diff.layer.sync")
                    .map_err(|errno| base_fs::Error::new("sync", "the layer's files", errno))?;
                sync_fs(&target)?;
            }
            if let Some(mount) = mount {
                mount.close()?;
            }
            Ok(applied)
        })
        .await?;
        Ok(uncompressed(applied))
    }

    async fn compare(
        &self,
        content: &dyn store_content::Store,
        lower: &[Mount],
        upper: &[Mount],
        options: CompareOptions,
    ) -> Result<Descriptor> {
        let media_type = match options.media_type.as_str() {
            "" => media::OCI_LAYER_GZIP,
            given => given,
        };
        let format = match media_type {
            media::OCI_LAYER => Format::Plain,
            media::OCI_LAYER_GZIP => Format::Gzip,
            media::OCI_LAYER_ZSTD => Format::Zstd,
            other => {
                return Err(Error::not_implemented(format!(
                    "unsupported diff media type: {other}"
                )));
            }
        };
        let is_new_reference = options.reference.is_empty();
        let reference = if is_new_reference { unique_reference() } else { options.reference };
        let write = WriteOptions { reference: reference.clone(), ..WriteOptions::default() };
        let mut writer = content.writer(write).await.context("failed to open writer")?;
        let written = async {
            if writer.status().await?.offset > 0 {
                writer.truncate(0).await?;
            }
            let (sender, mut chunks) = mpsc::channel(CHUNKS);
            let tree = Tree {
                temp: self.temp.clone(),
                lower: lower.to_vec(),
                upper: upper.to_vec(),
                options: TreeOptions { source_date_epoch: options.source_date_epoch.map(seconds) },
                format,
            };
            // The two sides end together: a failed store closes the channel, at which the walk
            // ends; a finished walk closes it too.
            let walk = blocking(move || tree.write(sender));
            let store = async {
                while let Some(chunk) = chunks.recv().await {
                    writer.write(chunk).await?;
                }
                drop(chunks);
                Ok(())
            };
            let (walked, stored) = tokio::join!(walk, store);
            stored.and(walked)
        }
        .await;
        let diff_id = match written {
            Ok(diff_id) => diff_id,
            Err(error) => {
                drop(writer);
                if is_new_reference && let Err(error) = content.abort(&reference).await {
                    tracing::warn!(%error, reference, "cannot give up the ingest of a failed diff");
                }
                let what = match format {
                    Format::Plain => "failed to write diff",
                    _ => "failed to write compressed diff",
                };
                return Err(error.context(what));
            }
        };
        let mut labels = options.labels;
        labels.insert(LABEL_UNCOMPRESSED.to_owned(), diff_id.to_string());
        let digest = writer.digest()?;
        // DURABILITY: the commit makes the bytes durable before it makes their record
        // (content.record).
        match writer.commit(0, Some(&digest), labels).await {
            Ok(_) => {}
            Err(error) if error.is_already_exists() => {}
            Err(error) => return Err(error.context("failed to commit")),
        }
        let info = content.info(&digest).await.context("failed to get info from content store")?;
        if !info.labels.contains_key(LABEL_UNCOMPRESSED) {
            let mut info = info.clone();
            info.labels = Labels::from([(LABEL_UNCOMPRESSED.to_owned(), diff_id.to_string())]);
            let field = UpdateField::Label(LABEL_UNCOMPRESSED.to_owned());
            content.update(&info, &[field]).await.context("error setting uncompressed label")?;
        }
        Ok(Descriptor {
            media_type: media_type.to_owned(),
            digest: info.digest,
            size: info.size,
            annotations: std::collections::BTreeMap::new(),
        })
    }
}

/// Two trees and how their difference is written.
struct Tree {
    temp: Option<PathBuf>,
    lower: Vec<Mount>,
    upper: Vec<Mount>,
    options: TreeOptions,
    format: Format,
}

impl Tree {
    /// Writes the difference to `sender`; gives the digest of the uncompressed tar.
    fn write(self, sender: mpsc::Sender<Bytes>) -> Result<Digest> {
        let temp = self.temp.as_deref();
        let lower = match self.lower.is_empty() {
            true => None,
            false => Some(TempMount::with_readonly_temp(&self.lower, temp)?),
        };
        let upper = TempMount::with_readonly_temp(&self.upper, temp)?;
        let encoder = Encoder::new(self.format, ChunkWriter::new(sender));
        let encoder = encoder.map_err(CompareError::Write)?;
        // Headers are small: they reach the hash and the encoder together.
        let output = BufWriter::with_capacity(CHUNK, HashWriter { encoder, hasher: Sha256::new() });
        let quick = match (changes(&self.lower, &self.upper), &lower) {
            (Some(folder), Some(lower)) => {
                write_overlay_diff(output, lower.path(), &folder, self.options)?
            }
            _ => Err(output),
        };
        let output = match quick {
            Ok(output) => output,
            Err(output) => {
                let lower = lower.as_ref().map(TempMount::path);
                write_diff(output, lower, upper.path(), self.options)?
            }
        };
        let HashWriter { encoder, hasher } =
            output.into_inner().map_err(|error| CompareError::Write(error.into_error()))?;
        let chunks = encoder.finish().map_err(CompareError::Write)?;
        chunks.finish().map_err(CompareError::Write)?;
        upper.close()?;
        if let Some(lower) = lower {
            lower.close()?;
        }
        Ok(Digest::from_bytes(Algorithm::Sha256, &hasher.finalize())?)
    }
}

/// Hashes what it hands on.
struct HashWriter {
    encoder: Encoder<ChunkWriter>,
    hasher: Sha256,
}

impl Write for HashWriter {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let length = self.encoder.write(data)?;
        self.hasher.update(&data[..length]);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.encoder.flush()
    }
}

/// Sends what is written in chunks.
struct ChunkWriter {
    sender: mpsc::Sender<Bytes>,
    chunk: Vec<u8>,
}

impl ChunkWriter {
    fn new(sender: mpsc::Sender<Bytes>) -> Self {
        ChunkWriter { sender, chunk: Vec::with_capacity(CHUNK) }
    }

    fn send(&mut self) -> io::Result<()> {
        let chunk = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK));
        self.sender
            .blocking_send(Bytes::from(chunk))
            .map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the content store has ended"))
    }

    fn finish(mut self) -> io::Result<()> {
        if self.chunk.is_empty() { Ok(()) } else { self.send() }
    }
}

impl Write for ChunkWriter {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.chunk.len() >= CHUNK {
            self.send()?;
        }
        let length = data.len().min(CHUNK - self.chunk.len());
        self.chunk.extend_from_slice(&data[..length]);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn sync_fs(target: &Target) -> Result<()> {
    let folder = std::fs::File::open(&target.root)
        .with_context(|| format!("open {}", target.root.display()))?;
    rustix::fs::syncfs(folder)
        .map_err(io::Error::from)
        .with_context(|| format!("syncfs {}", target.root.display()))
}

/// True if this process does not have all user ids: then overlayfs's own files cannot be made.
fn in_user_namespace() -> bool {
    match std::fs::read_to_string("/proc/self/uid_map") {
        Ok(map) => {
            let fields: Vec<&str> = map.split_whitespace().collect();
            fields != ["0", "0", "4294967295"]
        }
        // Kernels without user namespaces have no such file.
        Err(_) => false,
    }
}

/// A name for an ingest that nobody else uses: nanoseconds and three random bytes.
fn unique_reference() -> String {
    use std::hash::{BuildHasher as _, Hasher as _};
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
    let random = std::hash::RandomState::new().build_hasher().finish();
    format!("{nanos}-{:06x}", random & 0xff_ffff)
}

fn seconds(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_secs()).unwrap_or(i64::MAX),
    }
}
