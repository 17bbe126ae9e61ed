//! Archives made by hand, entry by entry.

use store_diff::tar::{TarWriter, WriteEntry};

/// Entries in their order.
#[derive(Default)]
pub(crate) struct Archive(Vec<(WriteEntry, Vec<u8>)>);

impl Archive {
    pub(crate) fn entry(mut self, flag: u8, name: &str, link: &str, data: &[u8]) -> Self {
        let entry = WriteEntry {
            name: name.as_bytes().to_vec(),
            link: link.as_bytes().to_vec(),
            flag,
            mode: if flag == b'5' { 0o755 } else { 0o644 },
            size: data.len() as u64,
            mtime: 1_600_000_000,
            ..WriteEntry::default()
        };
        self.0.push((entry, data.to_vec()));
        self
    }

    pub(crate) fn file(self, name: &str, data: &str) -> Self {
        self.entry(b'0', name, "", data.as_bytes())
    }

    pub(crate) fn folder(self, name: &str) -> Self {
        self.entry(b'5', name, "", b"")
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(b'2', name, target, b"")
    }

    pub(crate) fn hard_link(self, name: &str, target: &str) -> Self {
        self.entry(b'1', name, target, b"")
    }

    pub(crate) fn device(mut self, name: &str, major: u32, minor: u32) -> Self {
        self = self.entry(b'3', name, "", b"");
        let (entry, _) = self.0.last_mut().unwrap();
        (entry.major, entry.minor) = (major, minor);
        self
    }

    /// Changes the last entry.
    pub(crate) fn with(mut self, change: impl FnOnce(&mut WriteEntry)) -> Self {
        change(&mut self.0.last_mut().unwrap().0);
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut writer = TarWriter::new(Vec::new());
        for (entry, data) in &self.0 {
            writer.entry(entry).unwrap();
            writer.data(data).unwrap();
        }
        writer.finish().unwrap()
    }
}
