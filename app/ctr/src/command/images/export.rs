//! `images export`.

use std::path::PathBuf;

use api_grpc::transfer_types::{ImageExportStream, ImageReference, ImageStore};
use base_errors::{Result, ResultExt as _};
use bytes::Bytes;
use client::image::Platform;

use crate::Outcome;
use crate::command::plain;
use crate::connection::Connection;

/// Bytes between the connection and the file.
const BUFFER: usize = 1 << 20;

/// Exports images to a tar archive of OCI that docker reads as well.
#[derive(Debug, clap::Args)]
pub(crate) struct Export {
    /// Do not add Docker compatible manifest.json to archive
    #[arg(long)]
    skip_manifest_json: bool,
    /// Do not add non-distributable blobs such as Windows layers to archive
    #[arg(long)]
    skip_non_distributable: bool,
    /// Pull content from a specific platform
    #[arg(long, value_name = "value")]
    platform: Vec<String>,
    /// Exports content from all platforms
    #[arg(long)]
    all_platforms: bool,
    /// The archive (`-` for the standard output), then images
    words: Vec<String>,
}

impl Export {
    pub(super) async fn run(self, connection: &Connection) -> Outcome {
        let [out, names @ ..] = &self.words[..] else {
            return Err(plain("please provide both an output filename and an image reference"));
        };
        if names.is_empty() {
            return Err(plain("please provide both an output filename and an image reference"));
        }
        let platforms: Vec<_> = self
            .platform
            .iter()
            .map(|platform| Platform::parse(platform).map(Into::into))
            .collect::<Result<_>>()?;
        let export = ImageExportStream {
            platforms,
            all_platforms: self.all_platforms,
            skip_compatibility_manifest: self.skip_manifest_json,
            skip_non_distributable: self.skip_non_distributable,
            ..ImageExportStream::default()
        };
        let references = names
            .iter()
            .map(|name| ImageReference { name: name.clone(), ..ImageReference::default() });
        let store = ImageStore { extra_references: references.collect(), ..ImageStore::default() };
        let client = connection.connect().await?;
        // An archive that is not whole never has the name that was asked for.
        let (file, place) = create(out)?;
        let exported = async {
            let (sink, source) = tokio::io::duplex(BUFFER);
            let writing = write_blocks(source, file);
            let exporting = client.export(&store, export, sink, None);
            let (written, exported) = tokio::join!(writing, exporting);
            exported?;
            written
        };
        let exported = exported.await;
        if let Some((temporary, target)) = place {
            match &exported {
                Ok(()) => std::fs::rename(&temporary, &target)
                    .with_context(|| format!("rename to {}", target.display()))?,
                Err(_) => {
                    let _ = std::fs::remove_file(&temporary);
                }
            }
        }
        exported.map(|()| 0)
    }
}

/// The file to write, and how it is named in the end.
fn create(out: &str) -> Result<(std::fs::File, Option<(PathBuf, PathBuf)>)> {
    if out == "-" {
        let stdout = rustix::stdio::stdout().try_clone_to_owned()?;
        return Ok((std::fs::File::from(stdout), None));
    }
    let target = PathBuf::from(out);
    // A device or a pipe is written as it is.
    if target.exists() && !target.is_file() {
        let file = std::fs::OpenOptions::new()
            .write(true)
            .open(&target)
            .with_context(|| format!("open {out}"))?;
        return Ok((file, None));
    }
    let mut name = std::ffi::OsString::from(".");
    name.push(target.file_name().unwrap_or_default());
    name.push(".part");
    let temporary = target.with_file_name(name);
    let file = std::fs::File::create(&temporary).with_context(|| format!("open {out}"))?;
    Ok((file, Some((temporary, target))))
}

/// Writes all that comes, on a thread that may block.
async fn write_blocks(
    mut source: impl tokio::io::AsyncRead + Unpin,
    mut file: std::fs::File,
) -> Result<()> {
    use std::io::Write as _;
    use tokio::io::AsyncReadExt as _;
    let (sender, mut blocks) = tokio::sync::mpsc::channel::<Bytes>(4);
    let writer = tokio::task::spawn_blocking(move || {
        while let Some(block) = blocks.blocking_recv() {
            file.write_all(&block)?;
        }
        file.flush()
    });
    let mut buffer = bytes::BytesMut::with_capacity(BUFFER);
    loop {
        buffer.reserve(BUFFER / 4);
        if source.read_buf(&mut buffer).await? == 0 {
            break;
        }
        if sender.send(buffer.split().freeze()).await.is_err() {
            break;
        }
    }
    drop(sender);
    match writer.await {
        Ok(written) => Ok(written?),
        Err(error) => Err(base_errors::Error::internal(error.to_string())),
    }
}
