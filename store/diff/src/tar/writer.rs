//! The writer: ustar headers, with a PAX header before them where a field does not fit.

use std::io::{self, Write};

use super::header::put_octal;
use super::pax::push_record;
use super::{BLOCK, XATTR_PREFIX};

/// One entry to write.
#[derive(Clone, Debug, Default)]
pub struct WriteEntry {
    /// The name; a folder's ends with a slash.
    pub name: Vec<u8>,
    /// Target of a link.
    pub link: Vec<u8>,
    /// The type flag of ustar: `b'0'` to `b'6'`.
    pub flag: u8,
    /// Permissions with set-id and sticky bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes of data that follow.
    pub size: u64,
    /// Time of the last change, in seconds since 1970.
    pub mtime: i64,
    /// Major number of a device.
    pub major: u32,
    /// Minor number of a device.
    pub minor: u32,
    /// Extended attributes; written in the order of their names.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Writes an archive.
pub struct TarWriter<W> {
    output: W,
    /// Bytes of data that the current entry still needs.
    remaining: u64,
    padding: usize,
}

impl<W: Write> TarWriter<W> {
    /// Writes to `output`; many small writes, so give it a buffered one.
    pub fn new(output: W) -> Self {
        TarWriter { output, remaining: 0, padding: 0 }
    }

    /// Begins an entry; its data follows through [`TarWriter::data`].
    ///
    /// # Errors
    /// Those of the output, and `InvalidInput` if the entry before lacks data.
    pub fn entry(&mut self, entry: &WriteEntry) -> io::Result<()> {
        self.finish_entry()?;
        let mut records = Records::default();
        let mut block = [0; BLOCK];
        put_path(&mut block, &entry.name, &mut records);
        put_link(&mut block, &entry.link, &mut records);
        put_number(&mut block[100..108], u64::from(entry.mode), b"mode", &mut records);
        put_number(&mut block[108..116], u64::from(entry.uid), b"uid", &mut records);
        put_number(&mut block[116..124], u64::from(entry.gid), b"gid", &mut records);
        put_number(&mut block[124..136], entry.size, b"size", &mut records);
        match u64::try_from(entry.mtime) {
            Ok(mtime) => put_number(&mut block[136..148], mtime, b"mtime", &mut records),
            Err(_) => {
                put_octal(&mut block[136..148], 0);
                records.0.push((b"mtime".to_vec(), entry.mtime.to_string().into_bytes()));
            }
        }
        block[156] = entry.flag;
        block[257..265].copy_from_slice(b"ustar\x0000");
        put_octal(&mut block[329..337], u64::from(entry.major));
        put_octal(&mut block[337..345], u64::from(entry.minor));
        for (name, value) in &entry.xattrs {
            records.0.push(([XATTR_PREFIX, name].concat(), value.clone()));
        }
        if !records.0.is_empty() {
            self.pax_header(&entry.name, records)?;
        }
        put_checksum(&mut block);
        self.output.write_all(&block)?;
        self.begin_data(entry.size);
        Ok(())
    }

    /// Data of the current entry.
    ///
    /// # Errors
    /// Those of the output, and `InvalidInput` for more than the entry's size.
    pub fn data(&mut self, data: &[u8]) -> io::Result<()> {
        let Some(remaining) = self.remaining.checked_sub(data.len() as u64) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "write too long"));
        };
        self.remaining = remaining;
        self.output.write_all(data)
    }

    /// Writes the end of the archive and gives back the output.
    ///
    /// # Errors
    /// Those of the output, and `InvalidInput` if the last entry lacks data.
    pub fn finish(mut self) -> io::Result<W> {
        self.finish_entry()?;
        self.output.write_all(&[0; 2 * BLOCK])?;
        Ok(self.output)
    }

    fn begin_data(&mut self, size: u64) {
        self.remaining = size;
        self.padding = usize::try_from(size.wrapping_neg() % BLOCK as u64).unwrap_or(0);
    }

    fn finish_entry(&mut self) -> io::Result<()> {
        if self.remaining > 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "missed writing some bytes"));
        }
        let padding = std::mem::take(&mut self.padding);
        self.output.write_all(&[0; BLOCK][..padding])
    }

    fn pax_header(&mut self, name: &[u8], mut records: Records) -> io::Result<()> {
        records.0.sort();
        let mut data = Vec::new();
        for (key, value) in &records.0 {
            push_record(&mut data, key, value);
        }
        let mut block = [0; BLOCK];
        let header_name = pax_name(name);
        let length = header_name.len().min(100);
        block[..length].copy_from_slice(&header_name[..length]);
        for field in [100..108, 108..116, 116..124, 136..148, 329..337, 337..345] {
            put_octal(&mut block[field], 0);
        }
        put_octal(&mut block[124..136], data.len() as u64);
        block[156] = b'x';
        block[257..265].copy_from_slice(b"ustar\x0000");
        put_checksum(&mut block);
        self.output.write_all(&block)?;
        self.begin_data(data.len() as u64);
        self.data(&data)?;
        self.finish_entry()
    }
}

/// PAX records of one entry.
#[derive(Default)]
struct Records(Vec<(Vec<u8>, Vec<u8>)>);

/// The name of a PAX header: that of its entry, below a folder `PaxHeaders.0`.
fn pax_name(name: &[u8]) -> Vec<u8> {
    let name: Vec<u8> = name.iter().copied().filter(u8::is_ascii).collect();
    let trimmed = name.strip_suffix(b"/").unwrap_or(&name);
    match trimmed.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => [&trimmed[..slash], b"/PaxHeaders.0/", &trimmed[slash + 1..]].concat(),
        None => [b"PaxHeaders.0/", trimmed].concat(),
    }
}

/// The name, in the name and prefix fields if it fits there.
fn put_path(block: &mut [u8; BLOCK], name: &[u8], records: &mut Records) {
    let ascii = name.iter().all(u8::is_ascii);
    if ascii && name.len() <= 100 {
        block[..name.len()].copy_from_slice(name);
        return;
    }
    if ascii && let Some(slash) = split_point(name) {
        block[345..345 + slash].copy_from_slice(&name[..slash]);
        let rest = &name[slash + 1..];
        block[..rest.len()].copy_from_slice(rest);
        return;
    }
    records.0.push((b"path".to_vec(), name.to_vec()));
    put_ascii(&mut block[..100], name);
}

/// Where to cut a name so that its head fits the prefix and its tail the name.
fn split_point(name: &[u8]) -> Option<usize> {
    let mut length = name.len();
    if length > 155 + 1 {
        length = 155 + 1;
    } else if name.ends_with(b"/") {
        length -= 1;
    }
    let slash = name[..length].iter().rposition(|byte| *byte == b'/')?;
    let tail = name.len() - slash - 1;
    (slash > 0 && tail > 0 && tail <= 100 && slash <= 155).then_some(slash)
}

fn put_link(block: &mut [u8; BLOCK], link: &[u8], records: &mut Records) {
    if link.len() > 100 || !link.iter().all(u8::is_ascii) {
        records.0.push((b"linkpath".to_vec(), link.to_vec()));
        put_ascii(&mut block[157..257], link);
    } else {
        block[157..157 + link.len()].copy_from_slice(link);
    }
}

/// As much of a text as fits, without what is not ASCII: for readers without PAX.
fn put_ascii(field: &mut [u8], text: &[u8]) {
    for (place, byte) in field.iter_mut().zip(text.iter().filter(|byte| byte.is_ascii())) {
        *place = *byte;
    }
}

fn put_number(field: &mut [u8], value: u64, key: &[u8], records: &mut Records) {
    if !put_octal(field, value) {
        records.0.push((key.to_vec(), value.to_string().into_bytes()));
    }
}

fn put_checksum(block: &mut [u8; BLOCK]) {
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    put_octal(&mut block[148..155], sum);
}
