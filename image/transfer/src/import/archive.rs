//! The thread that reads the archive: chunks in, names and data out, without a copy in between
//! unless the stream is compressed.

use std::io::{self, BufRead, BufReader, Read};

use bytes::{Buf as _, Bytes, BytesMut};
use store_diff::media::{Compression, Format, MAGIC};
use store_diff::tar::{EntryKind, TarError, TarReader};
use tokio::sync::mpsc;

use crate::TransferError;

/// Bytes of a compressed stream inflated at once.
const INFLATED: usize = 128 << 10;

/// Part of an archive.
#[derive(Debug)]
pub(crate) enum Piece {
    /// A file begins; its data follows.
    File { name: String, size: u64 },
    /// Data of the file that began last.
    Data(Bytes),
    /// A symbolic link, its target as a path from the archive's root.
    Link { name: String, target: String },
}

/// A buffered stream whose buffer can be taken as [`Bytes`].
trait Chunks: BufRead {
    /// The first `length` bytes of the buffer; they must be there.
    fn chunk(&self, length: usize) -> Bytes;
}

/// Chunks from a channel.
struct ChannelReader {
    chunks: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
}

impl ChannelReader {
    /// The next chunk that is not empty; None at the end.
    fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            match self.chunks.blocking_recv() {
                None => return Ok(None),
                Some(Ok(chunk)) if chunk.is_empty() => {}
                Some(chunk) => return chunk.map(Some),
            }
        }
    }

    /// Has at least as much in the buffer as tells a format, if there is as much.
    fn peek(&mut self) -> io::Result<&[u8]> {
        while self.current.len() < MAGIC {
            let Some(more) = self.next()? else { break };
            let mut joined = BytesMut::from(&self.current[..]);
            joined.extend_from_slice(&more);
            self.current = joined.freeze();
        }
        Ok(&self.current)
    }
}

impl Read for ChannelReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let chunk = self.fill_buf()?;
        let length = chunk.len().min(into.len());
        into[..length].copy_from_slice(&chunk[..length]);
        self.consume(length);
        Ok(length)
    }
}

impl BufRead for ChannelReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.current.is_empty()
            && let Some(chunk) = self.next()?
        {
            self.current = chunk;
        }
        Ok(&self.current)
    }

    fn consume(&mut self, count: usize) {
        self.current.advance(count);
    }
}

impl Chunks for ChannelReader {
    fn chunk(&self, length: usize) -> Bytes {
        self.current.slice(..length)
    }
}

impl<R: Read> Chunks for BufReader<R> {
    fn chunk(&self, length: usize) -> Bytes {
        Bytes::copy_from_slice(&self.buffer()[..length])
    }
}

/// Reads an archive to its end, or until nobody takes the pieces. An error is the last piece.
pub(crate) fn read(
    chunks: mpsc::Receiver<io::Result<Bytes>>,
    pieces: &mpsc::Sender<Result<Piece, TransferError>>,
    detect: bool,
) {
    let mut source = ChannelReader { chunks, current: Bytes::new() };
    let outcome = match source.peek().map(Format::detect) {
        Err(error) => Err(TransferError::Stream(error)),
        Ok(Format::Gzip | Format::Zstd) if detect => {
            match store_diff::decompress(source, Compression::Detect) {
                Ok(plain) => read_tar(BufReader::with_capacity(INFLATED, plain), pieces),
                Err(error) => Err(TransferError::Archive(TarError::from(error))),
            }
        }
        Ok(_) => read_tar(source, pieces),
    };
    if let Err(error) = outcome {
        // Nobody listens: then nobody wants to know.
        let _ = pieces.blocking_send(Err(error));
    }
}

fn read_tar(
    source: impl Chunks,
    pieces: &mpsc::Sender<Result<Piece, TransferError>>,
) -> Result<(), TransferError> {
    let mut reader = TarReader::new(source);
    while let Some(entry) = reader.next_entry()? {
        // Names of what is meant are ASCII; others are of no file that an image has.
        let name = clean(&String::from_utf8_lossy(&entry.name));
        let piece = match entry.kind {
            EntryKind::File => Piece::File { name, size: entry.size },
            EntryKind::Symlink => {
                let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
                let target = String::from_utf8_lossy(&entry.link);
                Piece::Link { target: clean(&format!("{folder}/{target}")), name }
            }
            _ => continue,
        };
        if entry.sparse.is_some() {
            return Err(TarError::Header { reason: "a sparse file in an image archive" }.into());
        }
        if pieces.blocking_send(Ok(piece)).is_err() {
            return Ok(());
        }
        if entry.kind != EntryKind::File {
            continue;
        }
        loop {
            let length = reader.data()?.len();
            if length == 0 {
                break;
            }
            let chunk = reader.get_ref().chunk(length);
            reader.consume(length);
            if pieces.blocking_send(Ok(Piece::Data(chunk))).is_err() {
                return Ok(());
            }
        }
    }
    // The rest is read too, so that who sends it is not left with a full pipe, and a damaged end
    // of a compressed stream is noticed.
    let mut source = reader.into_inner();
    loop {
        let length = source.fill_buf().map_err(TarError::from)?.len();
        if length == 0 {
            return Ok(());
        }
        source.consume(length);
    }
}

/// A name without `.`, `..` and empty parts.
pub(super) fn clean(name: &str) -> String {
    let mut parts = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}
