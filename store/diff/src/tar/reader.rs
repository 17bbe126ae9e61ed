//! The streaming reader: entries one after another, their data straight from the input's buffer.

use std::io::BufRead;

use super::error::TarError;
use super::header::Header;
use super::sparse::{self, Segment};
use super::{BLOCK, MAX_SPECIAL, XATTR_PREFIX, pax};

/// The most bytes of a name or a link: the kernel's limit for a path leaves room for prefixes.
const MAX_NAME: usize = 1 << 16;

/// A point in time: seconds since 1970, and nanoseconds forward from there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Seconds since 1970, negative before.
    pub seconds: i64,
    /// Nanoseconds, below a thousand million.
    pub nanos: u32,
}

/// What an entry is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EntryKind {
    /// A file with data.
    #[default]
    File,
    /// Another name of an entry before it.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A folder.
    Directory,
    /// A named pipe.
    Fifo,
    /// A type flag of no known meaning.
    Other(u8),
}

/// One entry of an archive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// The name, as it stands in the archive.
    pub name: Vec<u8>,
    /// Target of a link.
    pub link: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Permissions with set-id and sticky bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes of the file, holes counted.
    pub size: u64,
    /// Time of the last change.
    pub mtime: Time,
    /// Time of the last access, if the archive has it.
    pub atime: Option<Time>,
    /// Major number of a device.
    pub major: u32,
    /// Minor number of a device.
    pub minor: u32,
    /// Extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The parts with data of a sparse file; None for any other.
    pub sparse: Option<Vec<Segment>>,
}

/// PAX records that apply to the next entry.
#[derive(Default)]
struct Overrides {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<Time>,
    atime: Option<Time>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse: SparseRecords,
}

/// The `GNU.sparse.*` records of the three PAX sparse formats.
#[derive(Default)]
struct SparseRecords {
    major: Option<u64>,
    minor: Option<u64>,
    name: Option<Vec<u8>>,
    real_size: Option<u64>,
    size: Option<u64>,
    map: Option<Vec<Segment>>,
    pairs: Vec<Segment>,
    offset: Option<u64>,
}

impl Overrides {
    fn parse(&mut self, mut records: &[u8]) -> Result<(), TarError> {
        while !records.is_empty() {
            let (key, value) = pax::next_record(&mut records)?;
            self.set(key, value)?;
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarError> {
        let number = || pax::decimal(value).ok_or(TarError::header("malformed PAX number"));
        // An empty value takes a record back.
        let given = !value.is_empty();
        match key {
            b"path" => self.path = given.then(|| value.to_vec()),
            b"linkpath" => self.link = given.then(|| value.to_vec()),
            b"size" if given => self.size = Some(number()?),
            b"uid" if given => self.uid = Some(number()?),
            b"gid" if given => self.gid = Some(number()?),
            b"mtime" if given => self.mtime = Some(pax::time(value)?),
            b"atime" if given => self.atime = Some(pax::time(value)?),
            b"GNU.sparse.major" => self.sparse.major = Some(number()?),
            b"GNU.sparse.minor" => self.sparse.minor = Some(number()?),
            b"GNU.sparse.name" => self.sparse.name = Some(value.to_vec()),
            b"GNU.sparse.realsize" => self.sparse.real_size = Some(number()?),
            b"GNU.sparse.size" => self.sparse.size = Some(number()?),
            b"GNU.sparse.map" => self.sparse.map = Some(sparse::parse_list(value)?),
            b"GNU.sparse.offset" => self.sparse.offset = Some(number()?),
            b"GNU.sparse.numbytes" => {
                let offset = self.sparse.offset.take();
                let offset = offset.ok_or(TarError::header("malformed sparse map"))?;
                sparse::push(&mut self.sparse.pairs, Segment { offset, length: number()? })?;
            }
            _ => {
                if let Some(name) = key.strip_prefix(XATTR_PREFIX) {
                    self.xattrs.retain(|(known, _)| known != name);
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

/// Reads an archive from a buffered stream. Memory is flat: one entry's header at a time.
pub struct TarReader<R> {
    input: R,
    /// Bytes of the current entry's data that are still to come.
    remaining: u64,
    /// Bytes to the next block behind them.
    padding: u64,
    ended: bool,
}

impl<R: BufRead> TarReader<R> {
    /// Reads from `input`, from its present position.
    pub fn new(input: R) -> Self {
        TarReader { input, remaining: 0, padding: 0, ended: false }
    }

    /// The stream. What it buffers begins with [`TarReader::data`].
    pub fn get_ref(&self) -> &R {
        &self.input
    }

    /// Gives back the stream.
    pub fn into_inner(self) -> R {
        self.input
    }

    /// The next entry; None at the end of the archive. What is left of the last one's data is
    /// skipped.
    ///
    /// # Errors
    /// [`TarError`]; the reader must not be used after one.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        let mut overrides = Overrides::default();
        let mut pending = false;
        loop {
            self.skip_data()?;
            let mut block = [0; BLOCK];
            if self.ended || !self.next_header(&mut block)? {
                self.ended = true;
                // A PAX header or a long name describes something that does not come.
                return if pending { Err(TarError::Truncated) } else { Ok(None) };
            }
            let header = Header::parse(&block)?;
            match header.flag() {
                b'x' => {
                    let records = self.special(header.size()?)?;
                    overrides.parse(&records)?;
                    pending = true;
                }
                b'g' => {
                    // COMPAT: containerd reads global records and then ignores them.
                    let records = self.special(header.size()?)?;
                    Overrides::default().parse(&records)?;
                }
                b'L' => {
                    overrides.path = Some(until_nul(self.special(header.size()?)?));
                    pending = true;
                }
                b'K' => {
                    overrides.link = Some(until_nul(self.special(header.size()?)?));
                    pending = true;
                }
                flag => return self.entry(&header, flag, overrides).map(Some),
            }
        }
    }

    /// The data that is at hand, at most what is left of the entry; empty at its end.
    ///
    /// # Errors
    /// [`TarError`]
    pub fn data(&mut self) -> Result<&[u8], TarError> {
        if self.remaining == 0 {
            return Ok(&[]);
        }
        let chunk = self.input.fill_buf()?;
        if chunk.is_empty() {
            return Err(TarError::Truncated);
        }
        let length =
            usize::try_from(self.remaining).map_or(chunk.len(), |left| left.min(chunk.len()));
        Ok(&chunk[..length])
    }

    /// Says that `count` bytes of [`TarReader::data`] have been used.
    pub fn consume(&mut self, count: usize) {
        self.input.consume(count);
        self.remaining = self.remaining.saturating_sub(count as u64);
    }

    /// Builds the entry from its header and what came before it.
    fn entry(
        &mut self,
        header: &Header<'_>,
        flag: u8,
        mut overrides: Overrides,
    ) -> Result<Entry, TarError> {
        let mut entry = Entry::default();
        header.name(&mut entry.name);
        if let Some(path) = overrides.path.take() {
            entry.name = path;
        }
        entry.link = match overrides.link.take() {
            Some(link) => link,
            None => header.link().to_vec(),
        };
        entry.kind = match flag {
            // Before ustar a folder was a file whose name ends with a slash.
            0 if entry.name.ends_with(b"/") => EntryKind::Directory,
            0 | b'0' | b'S' => EntryKind::File,
            b'1' => EntryKind::HardLink,
            b'2' => EntryKind::Symlink,
            b'3' => EntryKind::CharDevice,
            b'4' => EntryKind::BlockDevice,
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            other => EntryKind::Other(other),
        };
        entry.mode = u32::try_from(header.mode()? & 0o7777).unwrap_or(0);
        entry.uid = owner(overrides.uid, header.uid())?;
        entry.gid = owner(overrides.gid, header.gid())?;
        entry.mtime = match overrides.mtime {
            Some(time) => time,
            None => header.mtime()?,
        };
        entry.atime = match overrides.atime {
            Some(time) => Some(time),
            None => header.atime()?,
        };
        if matches!(entry.kind, EntryKind::CharDevice | EntryKind::BlockDevice) {
            let (major, minor) = header.device()?;
            let fits =
                |number| u32::try_from(number).map_err(|_| TarError::header("device number"));
            (entry.major, entry.minor) = (fits(major)?, fits(minor)?);
        }
        entry.xattrs = std::mem::take(&mut overrides.xattrs);

        let stored = match overrides.size {
            Some(size) => size,
            None => header.size()?,
        };
        let has_data = matches!(entry.kind, EntryKind::File | EntryKind::Other(_));
        self.remaining = if has_data { stored } else { 0 };
        self.padding = padding(self.remaining);
        // No file system has larger files, and sums stay far from overflow.
        if i64::try_from(stored).is_err() {
            return Err(TarError::header("size too large"));
        }
        entry.size = self.remaining;
        if flag == b'S' {
            self.gnu_sparse(header, &mut entry)?;
        } else if has_data {
            self.pax_sparse(overrides.sparse, &mut entry)?;
        }
        if entry.name.len() > MAX_NAME || entry.link.len() > MAX_NAME {
            return Err(TarError::TooLong);
        }
        Ok(entry)
    }

    /// Reads the rest of an old GNU sparse map, which stands before the data.
    fn gnu_sparse(&mut self, header: &Header<'_>, entry: &mut Entry) -> Result<(), TarError> {
        let mut map = Vec::new();
        let (first, mut more) = header.sparse();
        sparse::push_gnu(&mut map, first)?;
        while more {
            let mut block = [0; BLOCK];
            self.read_exact(&mut block)?;
            sparse::push_gnu(&mut map, &block[..504])?;
            more = block[504] != 0;
        }
        entry.size = header.real_size()?;
        sparse::check(&map, entry.size, self.remaining)?;
        entry.sparse = Some(map);
        Ok(())
    }

    /// Turns the sparse records of PAX, formats 0.0, 0.1 and 1.0, into a map.
    fn pax_sparse(&mut self, records: SparseRecords, entry: &mut Entry) -> Result<(), TarError> {
        let SparseRecords { major, minor, name, real_size, size, map, pairs, .. } = records;
        let map = match (major, minor) {
            (Some(1), Some(0)) => self.map_in_data()?,
            (None | Some(0), None | Some(0 | 1)) => match map {
                Some(map) => map,
                None if !pairs.is_empty() || size.is_some() => pairs,
                None => return Ok(()),
            },
            _ => return Err(TarError::header("unknown sparse format")),
        };
        let real_size = real_size.or(size).ok_or(TarError::header("sparse file without size"))?;
        sparse::check(&map, real_size, self.remaining)?;
        if let Some(name) = name {
            entry.name = name;
        }
        entry.size = real_size;
        entry.sparse = Some(map);
        Ok(())
    }

    /// Reads the map of format 1.0 from the head of the data; it fills whole blocks.
    fn map_in_data(&mut self) -> Result<Vec<Segment>, TarError> {
        let mut text = Vec::new();
        loop {
            if self.remaining < BLOCK as u64 {
                return Err(TarError::header("malformed sparse map"));
            }
            if text.len() as u64 >= MAX_SPECIAL {
                return Err(TarError::TooLong);
            }
            let start = text.len();
            text.resize(start + BLOCK, 0);
            self.read_exact(&mut text[start..])?;
            self.remaining -= BLOCK as u64;
            // Only a block with the last line in it can complete the map.
            if let Some(map) = sparse::parse_lines(&text)? {
                return Ok(map);
            }
        }
    }

    /// Reads the data of a special entry whole.
    fn special(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        if size > MAX_SPECIAL {
            return Err(TarError::TooLong);
        }
        let mut data = vec![0; usize::try_from(size).map_err(|_| TarError::TooLong)?];
        self.read_exact(&mut data)?;
        self.padding = padding(size);
        Ok(data)
    }

    /// Reads a header block; false at the end of the archive, which is two empty blocks or the end
    /// of the stream.
    fn next_header(&mut self, block: &mut [u8; BLOCK]) -> Result<bool, TarError> {
        if self.input.fill_buf()?.is_empty() {
            return Ok(false);
        }
        self.read_exact(block)?;
        if block.iter().any(|byte| *byte != 0) {
            return Ok(true);
        }
        if self.input.fill_buf()?.is_empty() {
            return Ok(false);
        }
        self.read_exact(block)?;
        if block.iter().any(|byte| *byte != 0) {
            return Err(TarError::header("an empty block before the end"));
        }
        Ok(false)
    }

    /// Skips the rest of the data and its padding.
    fn skip_data(&mut self) -> Result<(), TarError> {
        while self.remaining > 0 {
            let length = self.data()?.len();
            self.consume(length);
        }
        while self.padding > 0 {
            let length = self.input.fill_buf()?.len();
            if length == 0 {
                // The last entry of a stream that was cut at its data: other readers accept it.
                self.padding = 0;
                break;
            }
            let length = usize::try_from(self.padding).map_or(length, |left| left.min(length));
            self.input.consume(length);
            self.padding -= length as u64;
        }
        Ok(())
    }

    fn read_exact(&mut self, into: &mut [u8]) -> Result<(), TarError> {
        let mut filled = 0;
        while filled < into.len() {
            let chunk = self.input.fill_buf()?;
            if chunk.is_empty() {
                return Err(TarError::Truncated);
            }
            let length = chunk.len().min(into.len() - filled);
            into[filled..filled + length].copy_from_slice(&chunk[..length]);
            self.input.consume(length);
            filled += length;
        }
        Ok(())
    }
}

/// Bytes from `size` to the next block.
fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}

fn until_nul(mut text: Vec<u8>) -> Vec<u8> {
    if let Some(end) = text.iter().position(|byte| *byte == 0) {
        text.truncate(end);
    }
    text
}

/// A user or group id. The largest number means "none" to the kernel.
fn owner(record: Option<u64>, field: Result<i64, TarError>) -> Result<u32, TarError> {
    let id = match record {
        Some(id) => i64::try_from(id).unwrap_or(i64::MAX),
        None => field?,
    };
    match u32::try_from(id) {
        Ok(id) if id != u32::MAX => Ok(id),
        _ => Err(TarError::header("owner out of range")),
    }
}
