//! The runtime's log: JSON lines, of which the last error explains a failure.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use serde::Deserialize;

use crate::error::system_text;

/// The most of a log that is looked at: a runtime that floods its log must not flood the shim.
const MAX_LOG: u64 = 1 << 20;

#[derive(Deserialize)]
struct Line {
    #[serde(default)]
    level: String,
    #[serde(default)]
    msg: String,
}

/// The length of the log now, so that [`last_error`] can leave older lines out.
pub(crate) fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// The last message of level `error` at or after byte `from`; `None` if there is none.
///
/// Lines that are no JSON objects are skipped.
///
/// # Errors
/// The reason, as Go writes it, if the log cannot be read.
pub(crate) fn last_error(path: &Path, from: u64) -> Result<Option<String>, String> {
    let fail = |error: std::io::Error| format!("open {}: {}", path.display(), system_text(&error));
    let mut file = File::open(path).map_err(fail)?;
    let length = file.metadata().map_err(fail)?.len();
    // A log that has shrunk was written anew.
    let from = if length < from { 0 } else { from };
    let from = from.max(length.saturating_sub(MAX_LOG));
    file.seek(SeekFrom::Start(from)).map_err(fail)?;
    let mut last = None;
    for line in BufReader::new(file.take(MAX_LOG)).split(b'\n') {
        let line = line.map_err(fail)?;
        if let Ok(Line { level, msg }) = serde_json::from_slice(&line)
            && level == "error"
        {
            last = Some(msg.trim().to_owned());
        }
    }
    Ok(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_wins_and_older_ones_are_left_out() {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = folder.path().join("log.json");
        assert!(last_error(&path, 0).unwrap_err().ends_with("no such file or directory"));
        let first = "{\"level\":\"error\",\"msg\":\"old\"}\n";
        std::fs::write(&path, first).unwrap();
        let mark = length(&path);
        assert_eq!(last_error(&path, 0).unwrap().unwrap(), "old");
        assert_eq!(last_error(&path, mark).unwrap(), None);
        let more = "garbage\n{\"level\":\"error\",\"msg\":\"one\"}\n{\"level\":\"warning\",\"msg\":\"w\"}\n\
                    {\"level\":\"error\",\"msg\":\" two \"}\n{\"level\":\"err";
        std::fs::write(&path, format!("{first}{more}")).unwrap();
        assert_eq!(last_error(&path, mark).unwrap().unwrap(), "two");
    }
}
