//! Compressing what a comparison writes.

use std::io::{self, Write};

use crate::media::Format;

/// The level of zstd: its own default.
const ZSTD_LEVEL: i32 = 3;

/// A compressing writer.
pub enum Encoder<W: Write> {
    /// As it comes.
    Plain(W),
    /// gzip at its default level, without a time stamp: the same tree gives the same bytes.
    Gzip(Box<flate2::write::GzEncoder<W>>),
    /// zstd.
    Zstd(Box<zstd::stream::write::Encoder<'static, W>>),
}

impl<W: Write> Encoder<W> {
    /// Begins a stream of this format.
    ///
    /// # Errors
    /// If the encoder gets no memory.
    pub fn new(format: Format, output: W) -> io::Result<Self> {
        Ok(match format {
            Format::Plain => Encoder::Plain(output),
            Format::Gzip => {
                let level = flate2::Compression::default();
                Encoder::Gzip(Box::new(flate2::write::GzEncoder::new(output, level)))
            }
            Format::Zstd => {
                Encoder::Zstd(Box::new(zstd::stream::write::Encoder::new(output, ZSTD_LEVEL)?))
            }
        })
    }

    /// Ends the stream and gives back the output.
    ///
    /// # Errors
    /// Those of the output.
    pub fn finish(self) -> io::Result<W> {
        match self {
            Encoder::Plain(output) => Ok(output),
            Encoder::Gzip(encoder) => encoder.finish(),
            Encoder::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self {
            Encoder::Plain(output) => output.write(data),
            Encoder::Gzip(encoder) => encoder.write(data),
            Encoder::Zstd(encoder) => encoder.write(data),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Encoder::Plain(output) => output.flush(),
            Encoder::Gzip(encoder) => encoder.flush(),
            Encoder::Zstd(encoder) => encoder.flush(),
        }
    }
}
