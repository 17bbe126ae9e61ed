//! The large half of writing: hashing and writing side by side, off the reactor.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use base_errors::Error;
use base_ident::Digest;
use bytes::Bytes;

use super::lane::{Lane, Work};
use super::layout::IngestPaths;
use super::lock::Live;
use crate::Hasher;
use crate::error::{ContentError, io_error};

/// An ingest that has files: its bytes go through two lanes.
pub(crate) struct Pipeline {
    hash: Arc<Lane<HashWork>>,
    file: Arc<Lane<FileWork>>,
}

/// Hashes chunks.
pub(crate) struct HashWork(Hasher);

impl Work for HashWork {
    fn process(&mut self, chunk: &[u8]) -> Result<(), Error> {
        self.0.update(chunk);
        Ok(())
    }
}

/// Appends chunks to the data file, which it makes before the first one.
pub(crate) struct FileWork {
    pub(crate) paths: IngestPaths,
    pub(crate) live: Arc<Live>,
    pub(crate) file: Option<Arc<File>>,
    pub(crate) offset: u64,
}

impl FileWork {
    /// The data file; the ingest's files are made if they are not there yet.
    pub(crate) fn open(&mut self) -> Result<&Arc<File>, Error> {
        if self.live.aborted() {
            return Err(ContentError::Aborted(self.live.status().reference).into());
        }
        if self.file.is_none() {
            let status = self.live.status();
            base_fs::failpoint::hit("content.ingest.create")
                .map_err(|errno| base_fs::Error::new("mkdir", &self.paths.folder, errno))?;
            self.paths.create(&status).inspect_err(|_| drop(self.paths.remove()))?;
            let path = self.paths.data();
            let file = File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .open(&path)
                .map_err(|error| io_error("create", &path, &error))?;
            self.file = Some(Arc::new(file));
            if self.live.aborted() {
                // Aborted while the files were made: nobody else removes them.
                self.file = None;
                self.paths.remove()?;
                return Err(ContentError::Aborted(status.reference).into());
            }
        }
        self.file.as_ref().ok_or_else(|| ContentError::Closed("write").into())
    }
}

impl FileWork {
    /// Makes what was received durable, for a writer that continues here.
    fn keep(&mut self) -> Result<(), Error> {
        let updated_at = self.live.status().updated_at;
        let file = Arc::clone(self.open()?);
        // DURABILITY: a later writer continues where this one stopped.
        base_fs::failpoint::hit_io("content.ingest.keep")
            .and_then(|()| file.sync_data())
            .map_err(|error| io_error("sync", &self.paths.data(), &error))?;
        if fs::exists(&self.paths.folder).unwrap_or(false) {
            self.paths.write_updated(updated_at)?;
        }
        Ok(())
    }
}

impl Work for FileWork {
    fn process(&mut self, chunk: &[u8]) -> Result<(), Error> {
        let offset = self.offset;
        let file = self.open()?;
        let written = base_fs::failpoint::hit_io("content.ingest.write")
            .and_then(|()| file.write_all_at(chunk, offset));
        if let Err(error) = written {
            // What came whole stays, so that a resume continues at a chunk's end.
            drop(file.set_len(offset));
            return Err(io_error("write", &self.paths.data(), &error).into());
        }
        self.offset += chunk.len() as u64;
        Ok(())
    }
}

impl Pipeline {
    /// A pipeline that continues after `hasher`'s bytes.
    pub(crate) fn new(hasher: Hasher, file: FileWork) -> Self {
        Pipeline { hash: Lane::new(HashWork(hasher)), file: Lane::new(file) }
    }

    /// Takes the next bytes as soon as both lanes have room.
    pub(crate) async fn write(&self, data: Bytes) -> Result<(), Error> {
        // CANCEL: nothing has been taken before both have room; after that nothing waits.
        self.file.room().await?;
        self.hash.room().await?;
        self.hash.push(data.clone());
        self.file.push(data);
        Ok(())
    }

    /// Takes bytes that are hashed already.
    pub(crate) fn write_hashed(&self, data: Bytes) {
        if !data.is_empty() {
            self.file.push(data);
        }
    }

    /// The digest of all bytes so far. Hashes what is queued on this thread: a few milliseconds.
    pub(crate) fn digest(&self) -> Result<Digest, Error> {
        self.hash.finish(|work| Ok(work.0.digest()))
    }

    /// Forgets all bytes. May block.
    pub(crate) fn truncate(&self) -> Result<(), Error> {
        self.file.reset(|work| {
            work.offset = 0;
            let file = work.open()?;
            file.set_len(0).map_err(|error| io_error("truncate", &work.paths.data(), &error))?;
            Ok(())
        })?;
        self.hash.reset(|work| {
            work.0 = Hasher::new(work.0.algorithm());
            Ok(())
        })
    }

    /// Waits for all bytes and gives the file. May block.
    pub(crate) fn finish(&self) -> Result<Arc<File>, Error> {
        self.file.finish(|work| work.open().cloned())
    }

    /// Stops after the bytes that are queued. The ingest stays, unless it was aborted. May block.
    pub(crate) fn leave(&self) -> Result<(), Error> {
        self.file.drain();
        self.file.reset(|work| {
            let kept = if work.live.aborted() { Ok(()) } else { work.keep() };
            // Asked again: an abort during the work above found nothing, or not all, to remove.
            if work.live.aborted() {
                work.file = None;
                return work.paths.remove().map_err(Error::from);
            }
            kept
        })
    }
}
