//! Where the local store keeps what: containerd's layout.
//!
//! ```text
//! blobs/<algorithm>/<hex>          0444
//! ingest/<hex(sha256(ref))>/       0755
//!     ref data startedat updatedat total
//! ```

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use base_ident::{Algorithm, Digest, timestamp};

use crate::Hasher;
use crate::error::io_error;
use crate::store::IngestStatus;

/// The most bytes of `ref`, `startedat`, `updatedat` or `total` that are read: references come from
/// clients, the transport bounds them far below this.
const MAX_SMALL_FILE: u64 = 1 << 20;

/// The folders of a local store.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(crate) fn new(root: PathBuf) -> Self {
        Layout { root }
    }

    pub(crate) fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    pub(crate) fn blobs_of(&self, algorithm: Algorithm) -> PathBuf {
        self.blobs().join(algorithm.name())
    }

    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs_of(digest.algorithm()).join(digest.hex())
    }

    pub(crate) fn ingests(&self) -> PathBuf {
        self.root.join("ingest")
    }

    pub(crate) fn ingest(&self, reference: &str) -> IngestPaths {
        let name = Hasher::hash(Algorithm::Sha256, reference.as_bytes());
        IngestPaths { folder: self.ingests().join(name.hex()) }
    }
}

/// The files of one ingest.
#[derive(Clone, Debug)]
pub(crate) struct IngestPaths {
    pub(crate) folder: PathBuf,
}

impl IngestPaths {
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Makes the folder with all but the data. What was there before is removed.
    ///
    /// `data` is made last by the caller: a folder without it is no ingest for anybody.
    pub(crate) fn create(&self, status: &IngestStatus) -> Result<(), base_fs::Error> {
        let make = || {
            fs::create_dir(&self.folder).map_err(|error| io_error("mkdir", &self.folder, &error))
        };
        if let Err(error) = make() {
            if error.errno() != Some(rustix::io::Errno::EXIST) {
                return Err(error);
            }
            self.remove()?;
            make()?;
        }
        let write = |name: &str, text: &str, sync: bool| {
            let path = self.folder.join(name);
            let file =
                fs::File::create_new(&path).map_err(|error| io_error("create", &path, &error))?;
            let last = || {
                if !sync {
                    return Ok(());
                }
                base_fs::failpoint::hit_io("content.ingest.times")?;
                file.sync_data()
            };
            (&file)
                .write_all(text.as_bytes())
                .and_then(|()| last())
                .map_err(|error| io_error("write", &path, &error))
        };
        write("ref", &status.reference, false)?;
        // DURABILITY: containerd fails to list ingests while a time cannot be read, so an empty
        // one must not survive a loss of power (content.ingest.times).
        write("startedat", &timestamp::format(status.started_at), true)?;
        write("updatedat", &timestamp::format(status.updated_at), true)?;
        if status.total > 0 {
            write("total", &status.total.to_string(), false)?;
        }
        Ok(())
    }

    /// Replaces the time of the last change.
    pub(crate) fn write_updated(&self, time: SystemTime) -> Result<(), base_fs::Error> {
        let path = self.folder.join("updatedat");
        let temporary = self.folder.join(".tmp-updatedat");
        let write = || -> std::io::Result<()> {
            let mut file = fs::File::create(&temporary)?;
            file.write_all(timestamp::format(time).as_bytes())?;
            file.sync_data()?;
            fs::rename(&temporary, &path)
        };
        write().map_err(|error| io_error("write", &path, &error))
    }

    /// Removes the ingest, also while its writer is putting the last files into it; one that is not
    /// there is no error.
    pub(crate) fn remove(&self) -> Result<(), base_fs::Error> {
        base_fs::remove_all(&self.folder)
    }

    /// Reads the state from the files. `None`: there is no ingest here.
    ///
    /// # Errors
    /// A text that says what cannot be read.
    pub(crate) fn status(&self) -> Result<Option<IngestStatus>, String> {
        let data = match fs::symlink_metadata(self.data()) {
            Ok(data) if data.is_file() => data,
            Ok(_) => return Err("data is not a file".to_owned()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("data: {error}")),
        };
        let text = |name: &str| match read_small(&self.folder.join(name)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(format!("{name}: {error}")),
        };
        let time = |name: &str| {
            let text = text(name)?.ok_or_else(|| format!("{name} is missing"))?;
            timestamp::parse(&text).map_err(|error| format!("{name}: {error}"))
        };
        let Some(reference) = text("ref")? else { return Ok(None) };
        let started_at = time("startedat")?;
        // The file of the last change is written at the end only: the data may be newer.
        let updated_at = time("updatedat")?.max(modified(&data));
        // COMPAT: a total that cannot be read counts as unknown.
        let total = text("total")?.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        Ok(Some(IngestStatus {
            reference,
            offset: data.len(),
            total,
            expected: None,
            started_at,
            updated_at,
        }))
    }
}

fn read_small(path: &Path) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    fs::File::open(path)?.take(MAX_SMALL_FILE).read_to_string(&mut text)?;
    Ok(text)
}

/// The time of modification; the epoch for times before it.
pub(crate) fn modified(metadata: &fs::Metadata) -> SystemTime {
    let seconds = u64::try_from(metadata.mtime()).unwrap_or(0);
    let nanos = u32::try_from(metadata.mtime_nsec()).unwrap_or(0);
    SystemTime::UNIX_EPOCH + Duration::new(seconds, nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_containerds() {
        let layout = Layout::new("/r".into());
        let digest = Hasher::hash(Algorithm::Sha256, b"abc");
        assert_eq!(
            layout.blob(&digest),
            Path::new(
                "/r/blobs/sha256/ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
            )
        );
        assert_eq!(
            layout.ingest("abc").data(),
            Path::new(
                "/r/ingest/ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad/data"
            )
        );
    }
}
