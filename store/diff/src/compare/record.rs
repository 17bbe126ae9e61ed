//! From changes to entries of a layer.

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{AtFlags, FileType};

use super::TreeOptions;
use super::error::{CompareError, shown};
use super::node::{Node, read_full};
use crate::tar::{TarWriter, WriteEntry};

/// Bytes of a file read at once.
const CHUNK: usize = 128 << 10;

/// Writes changes as entries. Folders on the way to an entry are written before it, so that the
/// layer says their owner and mode wherever it is applied.
pub(crate) struct Recorder<'a, W: Write> {
    writer: TarWriter<W>,
    root: &'a OwnedFd,
    options: TreeOptions,
    /// Folders that have an entry.
    folders: HashSet<Vec<u8>>,
    /// Files with several names that have an entry, by device and inode: under which name.
    sources: HashMap<(u64, u64), Vec<u8>>,
    /// Unchanged names of such files. They matter if another name of the same file has changed,
    /// which shows later.
    unchanged: HashMap<(u64, u64), Vec<Vec<u8>>>,
    buffer: Vec<u8>,
}

impl<'a, W: Write> Recorder<'a, W> {
    pub(crate) fn new(output: W, root: &'a OwnedFd, options: TreeOptions) -> Self {
        Recorder {
            writer: TarWriter::new(output),
            root,
            options,
            folders: HashSet::new(),
            sources: HashMap::new(),
            unchanged: HashMap::new(),
            buffer: vec![0; CHUNK],
        }
    }

    pub(crate) fn finish(self) -> Result<W, CompareError> {
        self.writer.finish().map_err(CompareError::Write)
    }

    /// A name that is gone.
    pub(crate) fn deleted(&mut self, path: &[u8]) -> Result<(), CompareError> {
        self.parents(path)?;
        let slash = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        let entry = WriteEntry {
            name: [&path[..slash], b".wh.", &path[slash..]].concat(),
            flag: b'0',
            // A deletion has no time of its own; a fixed one keeps layers reproducible.
            mtime: self.options.source_date_epoch.unwrap_or(0),
            ..WriteEntry::default()
        };
        self.writer.entry(&entry).map_err(CompareError::Write)
    }

    /// A name that has not changed, of a file with others.
    pub(crate) fn unchanged_link(
        &mut self,
        path: &[u8],
        node: &Node<'_>,
    ) -> Result<(), CompareError> {
        let inode = (node.stat.st_dev, node.stat.st_ino);
        if self.sources.contains_key(&inode) {
            return self.changed(path, node);
        }
        self.unchanged.entry(inode).or_default().push(path.to_vec());
        Ok(())
    }

    /// A name that is new or different.
    pub(crate) fn changed(&mut self, path: &[u8], node: &Node<'_>) -> Result<(), CompareError> {
        let kind = node.kind();
        let mut entry = self.header(path, node);
        let mut links = Vec::new();
        match kind {
            FileType::RegularFile => {
                entry.flag = b'0';
                entry.size = u64::try_from(node.stat.st_size).unwrap_or(0);
            }
            FileType::Directory => {
                entry.flag = b'5';
                entry.name.push(b'/');
                if !self.folders.insert(path.to_vec()) {
                    return Ok(());
                }
            }
            FileType::Symlink => {
                entry.flag = b'2';
                entry.link = node.link_target().map_err(CompareError::at("readlink", path))?;
            }
            FileType::CharacterDevice | FileType::BlockDevice => {
                entry.flag = if kind == FileType::BlockDevice { b'4' } else { b'3' };
                entry.major = rustix::fs::major(node.stat.st_rdev);
                entry.minor = rustix::fs::minor(node.stat.st_rdev);
            }
            FileType::Fifo => entry.flag = b'6',
            // Sockets are made by who listens on them.
            _ => return Ok(()),
        }
        if node.is_linked() {
            let inode = (node.stat.st_dev, node.stat.st_ino);
            match self.sources.get(&inode) {
                Some(source) => {
                    entry.flag = b'1';
                    entry.link = source.clone();
                    entry.size = 0;
                }
                None => {
                    self.sources.insert(inode, path.to_vec());
                    links = self.unchanged.remove(&inode).unwrap_or_default();
                }
            }
        }
        entry.xattrs = node.xattrs().map_err(CompareError::at("getxattr", path))?;
        self.parents(path)?;
        self.writer.entry(&entry).map_err(CompareError::Write)?;
        if entry.flag == b'0' && entry.size > 0 {
            self.data(path, node, entry.size)?;
        }
        for link in links {
            self.parents(&link)?;
            let again = WriteEntry {
                name: link,
                link: path.to_vec(),
                flag: b'1',
                size: 0,
                ..entry.clone()
            };
            self.writer.entry(&again).map_err(CompareError::Write)?;
        }
        Ok(())
    }

    /// What every entry has.
    fn header(&self, path: &[u8], node: &Node<'_>) -> WriteEntry {
        let mtime = node.stat.st_mtime;
        WriteEntry {
            name: path.to_vec(),
            mode: node.stat.st_mode & 0o7777,
            uid: node.stat.st_uid,
            gid: node.stat.st_gid,
            // COMPAT: whole seconds, for readers of ustar.
            mtime: self.options.source_date_epoch.map_or(mtime, |epoch| mtime.min(epoch)),
            ..WriteEntry::default()
        }
    }

    /// Writes the folders on the way to `path` that have no entry yet.
    fn parents(&mut self, path: &[u8]) -> Result<(), CompareError> {
        for (end, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
            let parent = &path[..end];
            if self.folders.contains(parent) {
                continue;
            }
            let failed = CompareError::at("stat", parent);
            let (above, name) = match parent.iter().rposition(|byte| *byte == b'/') {
                Some(slash) => (&parent[..slash], &parent[slash + 1..]),
                None => (&b"."[..], parent),
            };
            let folder = crate::apply::open_below(self.root.as_fd(), above).map_err(&failed)?;
            let stat =
                rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW).map_err(&failed)?;
            self.changed(parent, &Node { folder: &folder, name, stat: &stat })?;
        }
        Ok(())
    }

    fn data(&mut self, path: &[u8], node: &Node<'_>, size: u64) -> Result<(), CompareError> {
        let file = node.open_file().map_err(CompareError::at("open", path))?;
        let mut left = size;
        while left > 0 {
            let want = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
            let length = read_full(&file, &mut self.buffer[..want])
                .map_err(CompareError::at("read", path))?;
            if length < want {
                return Err(CompareError::Short { path: shown(path) });
            }
            self.writer.data(&self.buffer[..length]).map_err(CompareError::Write)?;
            left -= length as u64;
        }
        Ok(())
    }
}
