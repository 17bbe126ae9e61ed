//! The content store in a folder, in containerd's layout (see [`layout`]).
//!
//! The presence of a blob's file is the truth; its size and times are the file's. Labels are kept
//! by the namespaced store. Locks are in memory: one process per folder.

mod lane;
mod layout;
pub(crate) mod lock;
mod pipeline;
mod publish;
mod reader;
mod writer;

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use base_errors::{Error, Result};
use base_ident::{Algorithm, Digest, Labels};

use self::layout::{Layout, modified};
use self::lock::{Live, RefLocks};
use self::publish::FolderSyncs;
use self::reader::LocalReader;
use self::writer::{Body, LocalWriter};
use crate::error::{ContentError, io_error};
use crate::select;
use crate::store::{ContentReader, Info, IngestStatus, Store, UpdateField, WriteOptions, Writer};

/// A content store in a folder of the file system.
#[derive(Clone)]
pub struct LocalStore {
    shared: Arc<Shared>,
}

struct Shared {
    layout: Layout,
    locks: RefLocks,
    syncs: FolderSyncs,
}

/// Runs file work on a thread for it.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(ContentError::from)?
}

impl LocalStore {
    /// Opens the store in `root`, which is made if it is missing. Ingests that a loss of power left
    /// unreadable are removed: nobody could name them, so nobody could abort them. Blocks.
    ///
    /// # Errors
    /// Those of making the folders.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        let layout = Layout::new(root.into());
        let ingests = layout.ingests();
        fs::create_dir_all(&ingests).map_err(|error| io_error("mkdir", &ingests, &error))?;
        tidy(&layout)?;
        Ok(LocalStore {
            shared: Arc::new(Shared {
                layout,
                locks: RefLocks::default(),
                syncs: FolderSyncs::default(),
            }),
        })
    }
}

impl Shared {
    fn info(&self, digest: &Digest) -> Result<Info> {
        let path = self.layout.blob(digest);
        match fs::metadata(&path) {
            Ok(metadata) => Ok(info(digest.clone(), &metadata)),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err(ContentError::NotFound(digest.clone()).into())
            }
            Err(error) => Err(io_error("stat", &path, &error).into()),
        }
    }

    fn delete(&self, digest: &Digest) -> Result<()> {
        let path = self.layout.blob(digest);
        base_fs::failpoint::hit("content.delete")
            .map_err(|errno| base_fs::Error::new("unlink", &path, errno))?;
        match fs::remove_file(&path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err(ContentError::NotFound(digest.clone()).into())
            }
            Err(error) => Err(io_error("unlink", &path, &error).into()),
        }
    }

    fn list(&self) -> Result<Vec<Info>> {
        let mut infos = Vec::new();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha384, Algorithm::Sha512] {
            let folder = self.layout.blobs_of(algorithm);
            for name in names(&folder)? {
                // What is no digest is not ours.
                let Ok(digest) = Digest::parse(&format!("{}:{name}", algorithm.name())) else {
                    continue;
                };
                match fs::metadata(folder.join(&name)) {
                    Ok(metadata) => infos.push(info(digest, &metadata)),
                    // Removed since.
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) => {
                        return Err(io_error("stat", &folder.join(name), &error).into());
                    }
                }
            }
        }
        Ok(infos)
    }

    fn status(&self, reference: &str) -> Result<IngestStatus> {
        let gone = || ContentError::IngestNotFound(reference.to_owned()).into();
        match self.locks.live(reference) {
            Some(live) if !live.aborted() => return Ok(live.status()),
            // Its writer may be making files, and removes them then.
            Some(_) => return Err(gone()),
            None => {}
        }
        match self.layout.ingest(reference).status() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err(gone()),
            Err(reason) => Err(Error::unknown(format!("ingest ref {reference:?}: {reason}"))),
        }
    }

    fn statuses(&self) -> Result<Vec<IngestStatus>> {
        let mut statuses = Vec::new();
        // Also of those that were aborted: a writer may be making files, and removes them then.
        let mut open = HashSet::new();
        for live in self.locks.all_live() {
            let status = live.status();
            open.insert(status.reference.clone());
            if !live.aborted() {
                statuses.push(status);
            }
        }
        let folder = self.layout.ingests();
        for name in names(&folder)? {
            let paths = layout::IngestPaths { folder: folder.join(name) };
            match paths.status() {
                Ok(Some(status)) if !open.contains(&status.reference) => statuses.push(status),
                Ok(_) => {}
                // One bad ingest costs itself only; a writer of its reference makes it anew.
                Err(reason) => {
                    tracing::warn!(path = %paths.folder.display(), %reason, "unreadable ingest");
                }
            }
        }
        Ok(statuses)
    }

    /// Opens or resumes an ingest whose lock is held.
    fn open_writer(
        self: Arc<Self>,
        options: WriteOptions,
        lock: lock::RefLock,
    ) -> Result<LocalWriter> {
        let WriteOptions { reference, total, expected } = options;
        if let Some(digest) = &expected
            && publish::exists(&self.layout.blob(digest))?
        {
            return Err(ContentError::Exists(digest.clone()).into());
        }
        let algorithm = expected.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
        let paths = self.layout.ingest(&reference);
        let now = SystemTime::now();
        let fresh = IngestStatus {
            reference: reference.clone(),
            offset: 0,
            total,
            expected: expected.clone(),
            started_at: now,
            updated_at: now,
        };
        let found = match paths.status() {
            Ok(Some(status)) if status.reference != reference => {
                Err(format!("ref key does not match: {reference} != {}", status.reference))
            }
            Ok(Some(status)) if total > 0 && status.total > 0 && total != status.total => {
                // COMPAT: containerd drops what was received when the totals differ.
                Err(format!("provided total differs from status: {total} != {}", status.total))
            }
            other => other,
        };
        let resumed = match found {
            Ok(None) => None,
            Ok(Some(status)) => {
                let total = if status.total > 0 { status.total } else { total };
                let live = Live::new(IngestStatus { expected, total, ..status });
                lock.show(&live);
                match writer::resume(&paths, &live, algorithm) {
                    Ok(pipeline) => Some((live, pipeline)),
                    Err(error) => {
                        tracing::warn!(%reference, %error, "failed to resume an ingest, will recreate it");
                        paths.remove()?;
                        None
                    }
                }
            }
            Err(reason) => {
                tracing::warn!(%reference, %reason, "failed to resume an ingest, will recreate it");
                paths.remove()?;
                None
            }
        };
        Ok(match resumed {
            Some((live, pipeline)) => {
                LocalWriter::with_body(self, paths, live, lock, Body::File(pipeline))
            }
            None => {
                let live = Live::new(fresh);
                lock.show(&live);
                LocalWriter::fresh(self, paths, live, lock, algorithm)
            }
        })
    }
}

/// Removes ingests without a reference that leads to them, or with a state that cannot be read.
fn tidy(layout: &Layout) -> Result<()> {
    let folder = layout.ingests();
    for name in names(&folder)? {
        let paths = layout::IngestPaths { folder: folder.join(name) };
        let reason = match paths.status() {
            Ok(Some(status)) if layout.ingest(&status.reference).folder == paths.folder => continue,
            Ok(Some(_)) => "its reference leads elsewhere".to_owned(),
            Ok(None) => "it has no data or no reference".to_owned(),
            Err(reason) => reason,
        };
        tracing::warn!(path = %paths.folder.display(), reason, "an ingest cannot go on: removed");
        if let Err(error) = paths.remove() {
            tracing::warn!(path = %paths.folder.display(), %error, "it cannot be removed");
        }
    }
    Ok(())
}

/// The names in a folder; none if it is missing. Names that are not UTF-8 are not ours.
fn names(folder: &Path) -> Result<Vec<String>, base_fs::Error> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io_error("open", folder, &error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| io_error("read", folder, &error))?;
        if let Ok(name) = entry.file_name().into_string() {
            names.push(name);
        }
    }
    Ok(names)
}

fn info(digest: Digest, metadata: &fs::Metadata) -> Info {
    let time = modified(metadata);
    Info { digest, size: metadata.len(), created_at: time, updated_at: time, labels: Labels::new() }
}

#[async_trait]
impl Store for LocalStore {
    async fn info(&self, digest: &Digest) -> Result<Info> {
        let (shared, digest) = (Arc::clone(&self.shared), digest.clone());
        blocking(move || shared.info(&digest)).await
    }

    async fn update(&self, _info: &Info, _fields: &[UpdateField]) -> Result<Info> {
        Err(ContentError::Immutable.into())
    }

    async fn list(&self, filters: &[String]) -> Result<Vec<Info>> {
        let filter = select::parse(filters)?;
        let shared = Arc::clone(&self.shared);
        let mut infos = blocking(move || shared.list()).await?;
        infos.retain(|info| select::info(&filter, info));
        Ok(infos)
    }

    async fn delete(&self, digest: &Digest) -> Result<()> {
        let (shared, digest) = (Arc::clone(&self.shared), digest.clone());
        blocking(move || shared.delete(&digest)).await
    }

    /// On one thread: a change of threads takes longer than the removal of a file.
    async fn delete_all(&self, digests: &[Digest]) -> Vec<Result<()>> {
        let (shared, all) = (Arc::clone(&self.shared), digests.to_vec());
        let work = move || Ok(all.iter().map(|digest| shared.delete(digest)).collect());
        blocking(work).await.unwrap_or_else(|error| {
            let text = error.to_string();
            digests.iter().map(|_| Err(Error::internal(text.clone()))).collect()
        })
    }

    async fn reader(&self, digest: &Digest) -> Result<Arc<dyn ContentReader>> {
        let (shared, digest) = (Arc::clone(&self.shared), digest.clone());
        blocking(move || {
            let path = shared.layout.blob(&digest);
            let file = match File::open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    return Err(ContentError::NotFound(digest).into());
                }
                Err(error) => return Err(io_error("open", &path, &error).into()),
            };
            let size = file.metadata().map_err(|error| io_error("stat", &path, &error))?.len();
            Ok(Arc::new(LocalReader { file, size }) as Arc<dyn ContentReader>)
        })
        .await
    }

    async fn status(&self, reference: &str) -> Result<IngestStatus> {
        let (shared, reference) = (Arc::clone(&self.shared), reference.to_owned());
        blocking(move || shared.status(&reference)).await
    }

    async fn list_statuses(&self, filters: &[String]) -> Result<Vec<IngestStatus>> {
        let filter = select::parse(filters)?;
        let shared = Arc::clone(&self.shared);
        let mut statuses = blocking(move || shared.statuses()).await?;
        statuses.retain(|status| select::status(&filter, status));
        Ok(statuses)
    }

    async fn abort(&self, reference: &str) -> Result<()> {
        let (shared, reference) = (Arc::clone(&self.shared), reference.to_owned());
        blocking(move || {
            let live = shared.locks.live(&reference).filter(|live| !live.aborted());
            if let Some(live) = &live {
                live.abort();
            }
            let paths = shared.layout.ingest(&reference);
            if !publish::exists(&paths.folder)? && live.is_none() {
                return Err(ContentError::IngestNotFound(reference).into());
            }
            paths.remove().map_err(Error::from)
        })
        .await
    }

    async fn writer(&self, options: WriteOptions) -> Result<Box<dyn Writer>> {
        if options.reference.is_empty() {
            return Err(ContentError::ReferenceEmpty.into());
        }
        let lock = self.shared.locks.acquire(&options.reference).await?;
        let shared = Arc::clone(&self.shared);
        let writer = blocking(move || shared.open_writer(options, lock)).await?;
        Ok(Box::new(writer))
    }
}
