//! How a container ended, in its bundle: the truth behind the exit event.
//!
//! ```text
//! <bundle>/exit-status   {"pid":123,"exit_status":0,"exited_at":"2026-01-02T03:04:05.000000006Z"}
//! ```
//!
//! The shim writes it before it announces the exit. A daemon that was down meanwhile, and `delete`
//! of a shim that has died since, read it.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::SystemTime;

use base_errors::{Error, Result, ResultExt};
use base_ident::timestamp;
use serde::{Deserialize, Serialize};

/// The file's name in the bundle.
pub const FILE: &str = "exit-status";

/// The file in which a record is written, and which keeps the room for it.
const TEMPORARY: &str = ".exit-status";

/// More than the longest record.
const ROOM: usize = 256;

/// How the init process of a container ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitRecord {
    /// Its pid.
    pub pid: u32,
    /// Its exit code; 128 and the signal if it was killed.
    pub exit_status: u32,
    /// When the exit was seen.
    pub exited_at: SystemTime,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    pid: u32,
    exit_status: u32,
    exited_at: String,
}

impl ExitRecord {
    /// Takes the room that a record needs, so that one can be written when the file system of the
    /// bundle is full. An older record goes.
    ///
    /// # Errors
    /// The system's, with the path.
    pub fn reserve(bundle: &Path) -> Result<()> {
        let path = bundle.join(TEMPORARY);
        let _ = fs::remove_file(bundle.join(FILE));
        File::create(&path)
            .and_then(|mut file| file.write_all(&[b' '; ROOM]))
            .with_context(|| format!("write {}", path.display()))
    }

    /// Writes the record, whole or not at all.
    ///
    /// # Errors
    /// The system's, with the path.
    pub fn write(&self, bundle: &Path) -> Result<()> {
        let stored = Stored {
            pid: self.pid,
            exit_status: self.exit_status,
            exited_at: timestamp::format(self.exited_at),
        };
        let json = serde_json::to_vec(&stored)
            .map_err(|error| Error::internal(format!("encode exit record: {error}")))?;
        let path = bundle.join(FILE);
        let temporary = bundle.join(TEMPORARY);
        let write = || {
            // Over what was reserved, which is cut off only afterwards.
            let mut file =
                File::options().write(true).create(true).truncate(false).open(&temporary)?;
            file.write_all(&json)?;
            file.set_len(json.len() as u64)?;
            file.sync_all()?;
            // DURABILITY: from here on the exit is known, whoever dies.
            fs::rename(&temporary, &path)
        };
        write().with_context(|| format!("write {}", path.display()))
    }

    /// Reads the record; `None` if there is none.
    ///
    /// # Errors
    /// Data loss if it is damaged; the system's.
    pub fn read(bundle: &Path) -> Result<Option<Self>> {
        let path = bundle.join(FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("open {}", path.display())),
        };
        let damaged = |reason: String| Error::data_loss(format!("{}: {reason}", path.display()));
        let stored: Stored =
            serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        let exited_at =
            timestamp::parse(&stored.exited_at).map_err(|error| damaged(error.to_string()))?;
        Ok(Some(ExitRecord { pid: stored.pid, exit_status: stored.exit_status, exited_at }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_record_comes_back() {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        assert_eq!(ExitRecord::read(folder.path()).unwrap(), None);
        let exited_at = SystemTime::UNIX_EPOCH + Duration::new(1_800_000_000, 123_456_789);
        let record = ExitRecord { pid: 7, exit_status: 137, exited_at };
        record.write(folder.path()).unwrap();
        assert_eq!(ExitRecord::read(folder.path()).unwrap(), Some(record));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        // The same over a reserved file.
        ExitRecord::reserve(folder.path()).unwrap();
        let other = ExitRecord { exit_status: 255, ..record };
        other.write(folder.path()).unwrap();
        assert_eq!(ExitRecord::read(folder.path()).unwrap(), Some(other));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        fs::write(folder.path().join(FILE), "{").unwrap();
        let error = ExitRecord::read(folder.path()).unwrap_err();
        assert_eq!(error.class(), base_errors::Class::DataLoss);
    }
}
