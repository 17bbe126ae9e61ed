//! The differ that makes erofs images of layers, where the erofs snapshotter asks for them.

use std::fs::File;
use std::io::{self, Read, Seek as _, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicBool;

use async_trait::async_trait;
use base_errors::{Error, Result, ResultExt as _};
use base_ident::Descriptor;
use kernel_mount::Mount;

use crate::apply::{ApplyError, ApplyResult, with_inflated};
use crate::layer::{uncompressed, with_blob};
use crate::media;
use crate::processor::Processors;
use crate::{ApplyOptions, CompareOptions, Differ};

const PROGRAM: &str = "mkfs.erofs";
/// The file that says that a folder is for images.
const MARKER: &str = ".erofslayer";
/// The image of a layer.
const LAYER: &str = "layer.erofs";
/// Bytes handed to the program at once.
const CHUNK: usize = 128 << 10;
/// The most of the program's standard error that an error shows.
const SHOWN_OUTPUT: u64 = 4096;

/// Makes images of layers. Comparing is left to the next differ.
#[derive(Clone, Debug)]
pub struct ErofsDiffer {
    options: Vec<String>,
    tar_index: bool,
    processors: Processors,
}

impl ErofsDiffer {
    /// A differ that gives `options` to `mkfs.erofs`. With `tar_index` an image is an index and,
    /// behind it, the tar as it is; else the files are laid out anew.
    ///
    /// # Errors
    /// NotImplemented if the program is missing or cannot read tars: the plugin is skipped. Blocks.
    pub fn open(options: Vec<String>, tar_index: bool, processors: Processors) -> Result<Self> {
        let help = Command::new(PROGRAM).arg("--help").stdin(Stdio::null()).output();
        let help = help.map_err(|error| {
            Error::not_implemented(format!("could not check {PROGRAM} tar mode support: {error}"))
        })?;
        let text = [help.stdout, help.stderr].concat();
        if !String::from_utf8_lossy(&text).contains("--tar=") {
            return Err(Error::not_implemented(format!(
                "{PROGRAM} does not support tar mode (--tar option), disabling erofs differ"
            )));
        }
        Ok(ErofsDiffer { options, tar_index, processors })
    }
}

/// The snapshot's folder, if the erofs snapshotter made it: its mounts say where it is.
///
/// # Errors
/// NotImplemented for everything else.
fn layer_folder(mounts: &[Mount]) -> Result<PathBuf> {
    let other = |text: &str| Error::not_implemented(text.to_owned());
    let (Some(first), Some(last)) = (mounts.first(), mounts.last()) else {
        return Err(other("no mounts for erofs differ"));
    };
    let parent = |path: &str| Path::new(path).parent().map(Path::to_owned);
    let folder = if first.kind.starts_with("mkfs/") {
        parent(&first.source)
    } else {
        match kernel_mount::steps(&last.kind).1 {
            "bind" | "erofs" => parent(&last.source),
            "overlay" => {
                last.options.iter().find_map(|text| text.strip_prefix("upperdir=")).and_then(parent)
            }
            kind => {
                return Err(other(&format!("invalid filesystem type {kind:?} for erofs differ")));
            }
        }
    };
    match folder {
        Some(folder) if folder.join(MARKER).exists() => Ok(folder),
        _ => Err(other("mount layer type must be erofs-layer")),
    }
}

/// A layer that is an image already.
fn is_image(media_type: &str) -> bool {
    media_type.ends_with(".erofs") || media_type == "application/vnd.erofs.layer.v1"
}

#[async_trait]
impl Differ for ErofsDiffer {
    /// CANCEL: if the future is dropped, the program ends at its next buffer, and the image under
    /// its temporary name goes.
    async fn apply(
        &self,
        content: &dyn store_content::Store,
        descriptor: &Descriptor,
        mounts: &[Mount],
        options: ApplyOptions,
    ) -> Result<Descriptor> {
        let folder = layer_folder(mounts)?;
        let plan = match is_image(&descriptor.media_type) {
            true => None,
            false => Some(self.processors.plan(&descriptor.media_type)?),
        };
        let (given, extra, tar_index) = (descriptor.clone(), self.options.clone(), self.tar_index);
        with_blob(content, descriptor, move |source, cancel| {
            let image = Image::new(&folder)?;
            let made = match plan {
                None => {
                    image.copy(source)?;
                    given
                }
                Some(plan) => {
                    let mut stream = plan.start(source, &options.payloads)?;
                    let tar = tar_index.then(|| image.tar()).transpose()?;
                    let made = image.convert(
                        &mut stream,
                        plan.compression,
                        &extra,
                        tar.as_ref(),
                        cancel,
                    )?;
                    stream.finish()?;
                    if let Some(tar) = tar {
                        image.append(tar)?;
                    }
                    uncompressed(made)
                }
            };
            image.settle()?;
            Ok(made)
        })
        .await
    }

    async fn compare(
        &self,
        _content: &dyn store_content::Store,
        _lower: &[Mount],
        _upper: &[Mount],
        _options: CompareOptions,
    ) -> Result<Descriptor> {
        // The walking differ mounts such trees and compares them as any others.
        Err(Error::not_implemented("erofs differ does not compare"))
    }
}

/// An image on its way: it gets its name when it is whole.
struct Image {
    temporary: PathBuf,
    path: PathBuf,
    settled: bool,
}

impl Image {
    fn new(folder: &Path) -> Result<Self> {
        let path = folder.join(LAYER);
        let temporary = folder.join(format!("{LAYER}.new"));
        base_fs::remove_all(&temporary)?;
        Ok(Image { temporary, path, settled: false })
    }

    fn copy(&self, mut source: impl Read) -> Result<()> {
        let copied = std::fs::File::create_new(&self.temporary)
            .and_then(|mut file| io::copy(&mut source, &mut file));
        copied.with_context(|| format!("write {}", self.temporary.display()))?;
        Ok(())
    }

    /// A file without a name for the tar, on the file system of the image.
    fn tar(&self) -> Result<File> {
        let path = self.temporary.with_extension("tar");
        base_fs::remove_all(&path)?;
        let file = File::options().read(true).write(true).create_new(true).open(&path);
        let file = file.with_context(|| format!("create {}", path.display()))?;
        std::fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        Ok(file)
    }

    /// Puts the tar behind its index.
    fn append(&self, mut tar: File) -> Result<()> {
        tar.rewind()
            .and_then(|()| File::options().append(true).open(&self.temporary))
            .and_then(|mut image| io::copy(&mut tar, &mut image))
            .with_context(|| format!("append to {}", self.temporary.display()))?;
        Ok(())
    }

    fn convert(
        &self,
        source: impl Read + Send,
        compression: media::Compression,
        options: &[String],
        mut tar: Option<&File>,
        cancel: &AtomicBool,
    ) -> Result<ApplyResult> {
        let form: &[&str] = match tar {
            // Data can be mapped by pages.
            None => &["--tar=f", "-Enoinline_data"],
            Some(_) => &["--tar=i"],
        };
        let mut child = Command::new(PROGRAM)
            .args(form)
            // Whiteouts of layers become those of overlayfs.
            .args(["--aufs", "--quiet"])
            .args(options)
            .arg(&self.temporary)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {PROGRAM}"))?;
        let stdin = child.stdin.take();
        let stderr = child.stderr.take();
        let said = std::thread::spawn(move || {
            let mut kept = Vec::new();
            if let Some(mut stderr) = stderr {
                let _ = stderr.by_ref().take(SHOWN_OUTPUT).read_to_end(&mut kept);
                let _ = io::copy(&mut stderr, &mut io::sink());
            }
            String::from_utf8_lossy(&kept).trim().to_owned()
        });
        let mut child = Killed(child);
        let made = with_inflated(source, compression, cancel, |mut stream| {
            let mut stdin = stdin;
            let mut buffer = vec![0; CHUNK];
            loop {
                let length = stream.read(&mut buffer).map_err(crate::tar::TarError::from)?;
                if length == 0 {
                    break;
                }
                if let Some(tar) = &mut tar {
                    tar.write_all(&buffer[..length]).map_err(crate::tar::TarError::from)?;
                }
                // A program that has seen enough, or failed: its status tells. All is hashed.
                if let Some(open) = &mut stdin
                    && open.write_all(&buffer[..length]).is_err()
                {
                    stdin = None;
                }
            }
            drop(stdin);
            let (diff_id, size) = stream.finish()?;
            Ok(ApplyResult { diff_id, size })
        });
        let made = made.map_err(|error: ApplyError| Error::from(error))?;
        let status = child.0.wait().with_context(|| format!("wait for {PROGRAM}"))?;
        let said = said.join().unwrap_or_default();
        if !status.success() {
            return Err(Error::unknown(format!(
                "failed to convert erofs: erofs apply failed: {said}: {status}"
            )));
        }
        Ok(made)
    }

    fn settle(mut self) -> Result<()> {
        // DURABILITY: the image before its name; the snapshotter makes the name durable.
        base_fs::failpoint::hit("erofs.differ")
            .map_err(|errno| base_fs::Error::new("sync", &self.temporary, errno))?;
        std::fs::File::open(&self.temporary)
            .and_then(|file| file.sync_all())
            .and_then(|()| std::fs::rename(&self.temporary, &self.path))
            .with_context(|| format!("finish {}", self.path.display()))?;
        self.settled = true;
        Ok(())
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if !self.settled {
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

/// A child that does not outlive its owner.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}
