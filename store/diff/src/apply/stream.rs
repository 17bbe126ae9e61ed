//! From compressed bytes to a buffered stream of plain ones, with the digest of all that passes.
//!
//! Two threads and a fixed set of buffers that go round between them: one fills, the other hashes
//! a buffer when it arrives, while it is in the cache, and then unpacks from it without a copy.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use base_ident::{Algorithm, Digest};
use sha2::{Digest as _, Sha256};

use super::error::ApplyError;
use crate::media::{Compression, Format, MAGIC};
use crate::tar::TarError;

/// Bytes of one buffer: enough to make the hand-over cheap, small enough for the second-level cache.
const BUFFER: usize = 128 << 10;

/// Buffers of one layer in flight: 1 MiB, so that neither thread waits for a short stall.
const BUFFERS: usize = 8;

/// Bytes read from the source at once.
const INPUT: usize = 64 << 10;

/// The most memory that a zstd stream may ask for as its window: 2^27 bytes, the decoder's own
/// default, said here because it is a bound.
const ZSTD_WINDOW_LOG: u32 = 27;

/// A filled buffer, or why there is none.
type Filled = io::Result<Vec<u8>>;

/// Inflates `source` on a thread of its own while `work` reads the result.
pub(crate) fn with_inflated<T>(
    source: impl Read + Send,
    compression: Compression,
    cancel: &AtomicBool,
    work: impl FnOnce(Inflated<'_>) -> Result<T, ApplyError>,
) -> Result<T, ApplyError> {
    let (filled_sender, filled) = sync_channel::<Filled>(BUFFERS);
    let (empty_sender, empty) = sync_channel::<Vec<u8>>(BUFFERS);
    for _ in 0..BUFFERS {
        // The channel has room for all of them, and its receiver is alive.
        let _ = empty_sender.try_send(Vec::new());
    }
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("inflate".to_owned())
            .spawn_scoped(scope, move || inflate(source, compression, &empty, &filled_sender))
            .map_err(ApplyError::Thread)?;
        // When `work` returns, both channels close, and the thread ends at its next buffer.
        work(Inflated {
            filled,
            empty: empty_sender,
            cancel,
            buffer: Vec::new(),
            position: 0,
            ended: false,
            hasher: Sha256::new(),
            size: 0,
        })
    })
}

/// The inflating thread. It ends with the stream, with an error, or when nobody listens.
fn inflate(
    source: impl Read,
    compression: Compression,
    empty: &Receiver<Vec<u8>>,
    filled: &SyncSender<Filled>,
) {
    let outcome = decompress(source, compression).and_then(|mut decoder| {
        while let Ok(mut buffer) = empty.recv() {
            buffer.resize(BUFFER, 0);
            let (length, error) = fill(&mut *decoder, &mut buffer);
            buffer.truncate(length);
            let at_end = length < BUFFER;
            if length > 0 && filled.send(Ok(buffer)).is_err() {
                break;
            }
            if let Some(error) = error {
                return Err(error);
            }
            if at_end {
                break;
            }
        }
        Ok(())
    });
    if let Err(error) = outcome {
        let _ = filled.send(Err(error));
    }
}

/// Fills `buffer` as far as the stream goes; gives the length, and the error that ended it.
fn fill(decoder: &mut dyn Read, buffer: &mut [u8]) -> (usize, Option<io::Error>) {
    let mut length = 0;
    while length < buffer.len() {
        match decoder.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (length, Some(error)),
        }
    }
    (length, None)
}

/// The plain bytes of a stream, by a decoder that its first bytes ask for.
///
/// # Errors
/// Those of reading the first bytes. Damaged data gives errors while it is read.
pub fn decompress<'a>(
    source: impl Read + 'a,
    compression: Compression,
) -> io::Result<Box<dyn Read + 'a>> {
    if compression == Compression::None {
        return Ok(Box::new(source));
    }
    let mut source = source;
    let mut head = [0; MAGIC];
    let (length, error) = fill(&mut source, &mut head);
    if let Some(error) = error {
        return Err(error);
    }
    let format = Format::detect(&head[..length]);
    let whole = io::Cursor::new(head).take(length as u64).chain(source);
    Ok(match format {
        Format::Plain => Box::new(whole),
        Format::Gzip => {
            Box::new(flate2::bufread::MultiGzDecoder::new(BufReader::with_capacity(INPUT, whole)))
        }
        Format::Zstd => {
            let mut decoder =
                zstd::stream::read::Decoder::with_buffer(BufReader::with_capacity(INPUT, whole))?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            Box::new(decoder)
        }
    })
}

/// The plain stream, as the unpacking thread reads it.
pub(crate) struct Inflated<'a> {
    filled: Receiver<Filled>,
    empty: SyncSender<Vec<u8>>,
    cancel: &'a AtomicBool,
    buffer: Vec<u8>,
    position: usize,
    ended: bool,
    hasher: Sha256,
    size: u64,
}

impl Inflated<'_> {
    /// Reads to the end.
    pub(crate) fn drain(&mut self) -> Result<(), ApplyError> {
        loop {
            let length = self.fill_buf().map_err(TarError::from)?.len();
            if length == 0 {
                return Ok(());
            }
            self.consume(length);
        }
    }

    /// Digest and length of all that was read.
    pub(crate) fn finish(self) -> Result<(Digest, u64), ApplyError> {
        let digest = Digest::from_bytes(Algorithm::Sha256, &self.hasher.finalize());
        // The hash has the algorithm's length.
        let digest = digest.map_err(|error| TarError::Read(io::Error::other(error.to_string())))?;
        Ok((digest, self.size))
    }
}

impl Read for Inflated<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let chunk = self.fill_buf()?;
        let length = chunk.len().min(into.len());
        into[..length].copy_from_slice(&chunk[..length]);
        self.consume(length);
        Ok(length)
    }
}

impl BufRead for Inflated<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.position == self.buffer.len() && !self.ended {
            if self.cancel.load(Ordering::Relaxed) {
                return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "cancelled"));
            }
            let used = std::mem::take(&mut self.buffer);
            self.position = 0;
            if used.capacity() > 0 {
                // There is room for every buffer; if the thread has ended nobody needs it.
                let _ = self.empty.try_send(used);
            }
            match self.filled.recv() {
                Ok(Ok(buffer)) => {
                    self.hasher.update(&buffer);
                    self.size += buffer.len() as u64;
                    self.buffer = buffer;
                }
                Ok(Err(error)) => {
                    self.ended = true;
                    return Err(error);
                }
                Err(_) => self.ended = true,
            }
        }
        Ok(&self.buffer[self.position..])
    }

    fn consume(&mut self, count: usize) {
        self.position = (self.position + count).min(self.buffer.len());
    }
}
