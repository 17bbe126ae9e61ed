//! The writer of the local store.
//!
//! Bytes up to [`BUFFERED`] stay in memory and become a blob in one step, without the files of an
//! ingest. More bytes, a failed commit, or a writer that is dropped unfinished make the files.

use std::sync::Arc;

use async_trait::async_trait;
use base_errors::{Error, Result};
use base_ident::{Algorithm, Digest, Labels};
use bytes::{Bytes, BytesMut};

use super::layout::IngestPaths;
use super::lock::{Live, RefLock};
use super::pipeline::{FileWork, Pipeline};
use super::publish::{hash_file, publish_bytes, publish_file};
use super::{Shared, blocking};
use crate::Hasher;
use crate::error::{ContentError, io_error};
use crate::store::{IngestStatus, Writer};

/// Bytes of an ingest that stay in memory: manifests, indexes and configs fit, and hashing them on
/// the reactor takes less than a hop to another thread.
const BUFFERED: usize = 64 << 10;

/// An open ingest of the local store.
pub(super) struct LocalWriter {
    live: Arc<Live>,
    open: Option<Open>,
    committed: Option<Digest>,
}

/// What a commit takes with it to another thread. Dropping the lock frees the reference.
pub(super) struct Open {
    pub(super) shared: Arc<Shared>,
    pub(super) paths: IngestPaths,
    pub(super) live: Arc<Live>,
    pub(super) body: Body,
    pub(super) _lock: RefLock,
}

/// The bytes of an open ingest.
pub(super) enum Body {
    /// All in memory.
    Buffer(Box<Hasher>, BytesMut),
    /// In the files.
    File(Pipeline),
}

impl Open {
    /// Moves to files what is in memory. Does not block: the files are made by the lane.
    fn spill(&mut self) -> &Pipeline {
        if let Body::Buffer(hasher, data) = &mut self.body {
            let pipeline = Pipeline::new(
                (**hasher).clone(),
                FileWork {
                    paths: self.paths.clone(),
                    live: Arc::clone(&self.live),
                    file: None,
                    offset: 0,
                },
            );
            pipeline.write_hashed(data.split().freeze());
            self.body = Body::File(pipeline);
        }
        match &self.body {
            Body::File(pipeline) => pipeline,
            Body::Buffer(..) => unreachable!("replaced above"),
        }
    }

    /// Checks the bytes and makes them content. Blocks.
    fn commit(&mut self, size: u64, expected: Option<&Digest>) -> Result<Digest> {
        if self.live.aborted() {
            return Err(ContentError::Aborted(self.live.status().reference).into());
        }
        if let Body::Buffer(hasher, data) = &self.body {
            let digest = match expected {
                Some(expected) if expected.algorithm() != hasher.algorithm() => {
                    Hasher::hash(expected.algorithm(), data)
                }
                _ => hasher.digest(),
            };
            check(size, expected, data.len() as u64, &digest)?;
            if publish_bytes(&self.shared.layout, &self.shared.syncs, &digest, data)? {
                return Ok(digest);
            }
        }
        let paths = self.paths.clone();
        let pipeline = self.spill();
        let file = pipeline.finish()?;
        let mut digest = pipeline.digest()?;
        let actual =
            file.metadata().map_err(|error| io_error("stat", &paths.data(), &error))?.len();
        if let Some(expected) = expected
            && expected.algorithm() != digest.algorithm()
        {
            let mut hasher = Hasher::new(expected.algorithm());
            hash_file(&file, &paths.data(), &mut hasher)?;
            digest = hasher.digest();
        }
        check(size, expected, actual, &digest)?;
        publish_file(&self.shared.layout, &self.shared.syncs, &digest, &file, &paths)?;
        Ok(digest)
    }

    /// Keeps an unfinished ingest for a later writer, or removes it if it was aborted. Blocks.
    fn leave(mut self) {
        let result = if self.live.aborted() {
            match &self.body {
                Body::Buffer(..) => Ok(()),
                Body::File(pipeline) => pipeline.leave(),
            }
        } else {
            self.spill().leave()
        };
        if let Err(error) = result {
            let reference = self.live.status().reference;
            tracing::warn!(%reference, %error, "failed to keep an unfinished ingest");
        }
    }
}

fn check(size: u64, expected: Option<&Digest>, actual: u64, digest: &Digest) -> Result<()> {
    if size != 0 && size != actual {
        return Err(ContentError::Size { actual, expected: size }.into());
    }
    match expected {
        Some(expected) if expected != digest => {
            Err(ContentError::Digest { actual: digest.clone(), expected: expected.clone() }.into())
        }
        _ => Ok(()),
    }
}

impl LocalWriter {
    /// A writer for a new ingest.
    pub(super) fn fresh(
        shared: Arc<Shared>,
        paths: IngestPaths,
        live: Arc<Live>,
        lock: RefLock,
        algorithm: Algorithm,
    ) -> Self {
        let body = Body::Buffer(Box::new(Hasher::new(algorithm)), BytesMut::new());
        Self::with_body(shared, paths, live, lock, body)
    }

    /// A writer over what is there already.
    pub(super) fn with_body(
        shared: Arc<Shared>,
        paths: IngestPaths,
        live: Arc<Live>,
        lock: RefLock,
        body: Body,
    ) -> Self {
        let open = Open { shared, paths, live: Arc::clone(&live), body, _lock: lock };
        LocalWriter { live, open: Some(open), committed: None }
    }
}

#[async_trait]
impl Writer for LocalWriter {
    async fn write(&mut self, data: Bytes) -> Result<()> {
        let open = self.open.as_mut().ok_or(ContentError::Closed("write"))?;
        if data.is_empty() {
            return Ok(());
        }
        let length = data.len() as u64;
        match &mut open.body {
            Body::Buffer(hasher, buffer) if buffer.len() + data.len() <= BUFFERED => {
                hasher.update(&data);
                buffer.extend_from_slice(&data);
            }
            _ => open.spill().write(data).await?,
        }
        self.live.advance(length);
        Ok(())
    }

    async fn status(&self) -> Result<IngestStatus> {
        Ok(self.live.status())
    }

    fn digest(&self) -> Result<Digest> {
        match (&self.committed, &self.open) {
            (Some(digest), _) => Ok(digest.clone()),
            (None, None) => Err(ContentError::Closed("digest").into()),
            (None, Some(open)) => match &open.body {
                Body::Buffer(hasher, _) => Ok(hasher.digest()),
                Body::File(pipeline) => pipeline.digest(),
            },
        }
    }

    async fn truncate(&mut self, size: u64) -> Result<()> {
        if size != 0 {
            return Err(ContentError::Truncate(size).into());
        }
        let mut open = self.open.take().ok_or(ContentError::Closed("truncate"))?;
        if let Body::Buffer(hasher, buffer) = &mut open.body {
            **hasher = Hasher::new(hasher.algorithm());
            buffer.clear();
            self.open = Some(open);
        } else {
            // CANCEL: the job goes on and keeps the ingest; the writer is closed.
            let mut carrier =
                LocalWriter { live: Arc::clone(&self.live), open: Some(open), committed: None };
            let (open, result) = blocking(move || {
                let result = match carrier.open.as_ref().map(|open| &open.body) {
                    Some(Body::File(pipeline)) => pipeline.truncate(),
                    _ => Ok(()),
                };
                Ok((carrier.open.take(), result))
            })
            .await?;
            self.open = open;
            result?;
        }
        self.live.truncated();
        Ok(())
    }

    /// CANCEL: the commit goes on to its end, and the reference stays locked until then.
    async fn commit(
        &mut self,
        size: u64,
        expected: Option<&Digest>,
        labels: Labels,
    ) -> Result<Digest> {
        // A local store has no labels; containerd's backend ignores them as well.
        drop(labels);
        let mut open = self.open.take().ok_or(ContentError::Closed("commit"))?;
        let expected = expected.cloned();
        let digest = blocking(move || {
            let result = open.commit(size, expected.as_ref());
            if let Err(error) = &result
                && !error.is_already_exists()
            {
                // As in containerd: what was received stays for another try.
                open.leave();
            }
            result
        })
        .await?;
        self.committed = Some(digest.clone());
        Ok(digest)
    }
}

impl Drop for LocalWriter {
    fn drop(&mut self) {
        let Some(open) = self.open.take() else { return };
        match tokio::runtime::Handle::try_current() {
            // Not waited for: a later writer waits for the lock, which the job holds.
            Ok(runtime) => drop(runtime.spawn_blocking(move || open.leave())),
            Err(_) => open.leave(),
        }
    }
}

/// The error of a job whose thread was lost.
impl From<tokio::task::JoinError> for ContentError {
    fn from(error: tokio::task::JoinError) -> Self {
        ContentError::Lost(error.to_string())
    }
}

/// Opens the files of an ingest that exists and hashes them again. Blocks.
pub(super) fn resume(
    paths: &IngestPaths,
    live: &Arc<Live>,
    algorithm: Algorithm,
) -> Result<Pipeline, Error> {
    let path = paths.data();
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(&path)
        .map_err(|error| io_error("open", &path, &error))?;
    let mut hasher = Hasher::new(algorithm);
    let offset = hash_file(&file, &path, &mut hasher)?;
    live.found(offset);
    Ok(Pipeline::new(
        hasher,
        FileWork {
            paths: paths.clone(),
            live: Arc::clone(live),
            file: Some(Arc::new(file)),
            offset,
        },
    ))
}
