//! Snapshots as image files with a file system in each, mounted through loop devices.
//!
//! ```text
//! metadata.db
//! scratch              an empty file system, the first tree of all
//! snapshots/<id>       an image; none for a view with a parent
//! snapshots/new-*      on its way
//! ```
//!
//! A snapshot is a copy of its parent's image, which shares blocks where the file system can.

use std::fs::File;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use base_errors::Result;
use base_ident::Labels;
use kernel_mount::Mount;
use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::error::{SnapshotError, failed, io_error};
use crate::folders::{Folders, Pending, make_private};
use crate::local::{Backend, Local, New, delegate};
use crate::snapshotter::{Info, Kind, Usage};
use crate::storage::{Storage, Tree};

/// The mode of an image.
const MODE: u32 = 0o644;
/// Bytes copied by one call.
const CHUNK: u64 = 64 << 20;
/// Bytes in memory where the kernel cannot copy.
const BUFFER: usize = 1 << 20;

/// How the snapshotter is set up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockfileConfig {
    /// The folder of the snapshotter.
    pub root_path: PathBuf,
    /// An image with an empty file system; may be empty if there is a scratch file already.
    pub scratch_file: PathBuf,
    /// The kind of file system in it; empty means ext4.
    pub fs_type: String,
    /// Options of each mount; `loop` is always among them.
    pub mount_options: Vec<String>,
    /// Copy the scratch file again at each start.
    pub recreate_scratch: bool,
}

/// The blockfile snapshotter. Cloning gives another handle of the same.
#[derive(Clone)]
pub struct BlockfileSnapshotter {
    local: Local<Blockfile>,
}

delegate!(BlockfileSnapshotter);

impl BlockfileSnapshotter {
    /// Opens the snapshotter in `config.root_path`, which is made if it is missing. Blocks.
    ///
    /// # Errors
    /// NotImplemented without a scratch file: then the plugin is skipped. Those of the folders and
    /// of the database.
    pub fn open(config: BlockfileConfig) -> Result<Self> {
        let root = config.root_path;
        make_private(&root)?;
        let scratch = root.join("scratch");
        let missing = match std::fs::metadata(&scratch) {
            Ok(_) => false,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => true,
            Err(error) => return Err(io_error("stat", &scratch, &error).into()),
        };
        if missing || config.recreate_scratch {
            if config.scratch_file.as_os_str().is_empty() {
                return Err(SnapshotError::Skip("no scratch file generator".to_owned()).into());
            }
            // Beside it first: a crash leaves the old one or the new one.
            let temporary = root.join("scratch.new");
            base_fs::remove_all(&temporary)?;
            copy_image(&config.scratch_file, &temporary)
                .map_err(|error| error.context("failed to generate scratch file"))?;
            std::fs::rename(&temporary, &scratch)
                .map_err(|error| io_error("rename", &scratch, &error))?;
            base_fs::fsync_dir(&root)?;
        }
        let mut options = config.mount_options;
        if !options.iter().any(|option| option == "loop") {
            options.push("loop".to_owned());
        }
        let storage = Storage::open(&root.join("metadata.db"))?;
        let folders = Folders::open(&root)?;
        let fs_type = if config.fs_type.is_empty() { "ext4".to_owned() } else { config.fs_type };
        let backend = Blockfile { scratch, folders, fs_type, options };
        Ok(BlockfileSnapshotter { local: Local::new(storage, backend) })
    }
}

struct Blockfile {
    scratch: PathBuf,
    folders: Folders,
    fs_type: String,
    options: Vec<String>,
}

impl Backend for Blockfile {
    /// None: a view shows its parent's image.
    type Draft = Option<Pending>;
    const TOTALS: bool = true;

    fn make(&self, new: &New<'_>, _labels: &mut Labels) -> Result<Self::Draft> {
        let source = match (new.parent, new.kind) {
            (Some(_), Kind::View) => return Ok(None),
            (Some((parent, _)), _) => self.folders.tree(parent),
            (None, _) => self.scratch.clone(),
        };
        let made = self.folders.begin_with(|path| copy_image(&source, path));
        Ok(Some(made.map_err(|error| error.context("failed to copy image"))?))
    }

    fn placed(&self, tree: &Tree, _labels: &Labels) -> Result<()> {
        if tree.id != tree.shown() {
            return Ok(());
        }
        // DURABILITY: the image's name, before anybody hears of it.
        base_fs::failpoint::hit("blockfile.name").map_err(failed(&self.folders.tree(tree.id)))?;
        self.folders.sync_name(tree.id)
    }

    fn mounts(&self, tree: &Tree, _labels: &Labels) -> Result<Vec<Mount>> {
        let mut options = self.options.clone();
        options.push(if tree.kind == Kind::View { "ro" } else { "rw" }.to_owned());
        Ok(vec![Mount {
            kind: self.fs_type.clone(),
            source: self.folders.tree(tree.shown()).to_string_lossy().into_owned(),
            target: String::new(),
            options,
        }])
    }

    fn measure(&self, id: u64, _parent: Option<u64>) -> Result<Usage> {
        let path = self.folders.tree(id);
        let metadata = std::fs::metadata(&path).map_err(|error| io_error("stat", &path, &error))?;
        // COMPAT: the image's length, however much of it is there.
        Ok(Usage { inodes: 1, size: metadata.size() })
    }

    fn seal(
        &self,
        id: u64,
        parent: Option<u64>,
        _before: &Info,
        _labels: &mut Labels,
    ) -> Result<(Usage, Box<dyn Send>)> {
        let path = self.folders.tree(id);
        // DURABILITY: what the loop device wrote is on the disk before the record says so.
        base_fs::failpoint::hit("blockfile.seal").map_err(failed(&path))?;
        File::open(&path)
            .and_then(|file| file.sync_all())
            .map_err(|error| io_error("sync", &path, &error))?;
        Ok((self.measure(id, parent)?, Box::new(())))
    }

    fn removed(&self, id: u64, _kind: Kind, _labels: &Labels) -> Result<()> {
        self.folders.remove(id)
    }

    fn cleanup(&self, storage: &Storage) -> Result<()> {
        self.folders.cleanup(storage)
    }
}

/// Copies an image, durably: by sharing its blocks, or else its data without its holes. Blocks.
///
/// # Errors
/// Those of the files; the target must not be there.
pub fn copy_image(source: &Path, target: &Path) -> Result<()> {
    let from = File::open(source).map_err(|error| io_error("open", source, &error))?;
    let to = File::options()
        .write(true)
        .create_new(true)
        .mode(MODE)
        .open(target)
        .map_err(|error| io_error("create", target, &error))?;
    let fail = |errno| base_fs::Error::new("copy", target, errno);
    if rustix::fs::ioctl_ficlone(&to, &from).is_err() {
        copy_data(&from, &to).map_err(fail)?;
    }
    // DURABILITY: the image, before the record that names it.
    base_fs::failpoint::hit("blockfile.copy").map_err(failed(target))?;
    to.sync_all().map_err(|error| io_error("sync", target, &error))?;
    Ok(())
}

fn copy_data(from: &File, to: &File) -> Result<(), Errno> {
    let length = u64::try_from(rustix::fs::fstat(from)?.st_size).unwrap_or(0);
    rustix::fs::ftruncate(to, length)?;
    let mut at = 0;
    while at < length {
        let start = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(start) => start,
            // A hole to the end.
            Err(Errno::NXIO) => break,
            Err(errno) => return Err(errno),
        };
        let end = rustix::fs::seek(from, SeekFrom::Hole(start))?;
        let (mut read, mut written) = (start, start);
        while read < end {
            let chunk = usize::try_from((end - read).min(CHUNK)).unwrap_or(usize::MAX);
            match rustix::fs::copy_file_range(from, Some(&mut read), to, Some(&mut written), chunk)
            {
                Ok(0) => return Err(Errno::IO),
                Ok(_) => {}
                // Between file systems, or where one of them does not know how.
                Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                    copy_bytes(from, to, read, end)?;
                    break;
                }
                Err(errno) => return Err(errno),
            }
        }
        at = end;
    }
    Ok(())
}

/// Copies the bytes from `at` to `end` through memory.
fn copy_bytes(from: &File, to: &File, mut at: u64, end: u64) -> Result<(), Errno> {
    let mut buffer = vec![0; BUFFER];
    let errno = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    while at < end {
        let wanted = usize::try_from(end - at).unwrap_or(BUFFER).min(BUFFER);
        let read = from.read_at(&mut buffer[..wanted], at).map_err(errno)?;
        if read == 0 {
            return Err(Errno::IO);
        }
        to.write_all_at(&buffer[..read], at).map_err(errno)?;
        at += u64::try_from(read).unwrap_or(0);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_keeps_data_and_holes() {
        let folder = tempfile::tempdir_in("/dev/shm").expect("folder");
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        let file = File::create(&a).expect("file");
        file.set_len(64 << 20).expect("length");
        file.write_all_at(b"begin", 4096).expect("write");
        file.write_all_at(b"middle", 33 << 20).expect("write");
        copy_image(&a, &b).expect("copy");
        assert!(std::fs::read(&a).expect("a") == std::fs::read(&b).expect("b"));
        assert!(std::fs::metadata(&b).expect("metadata").blocks() < 100, "holes stay");
        assert!(copy_image(&a, &b).is_err(), "nothing is written over");
        // As between file systems.
        let c = File::create_new(folder.path().join("c")).expect("file");
        copy_bytes(&File::open(&a).expect("a"), &c, 0, 64 << 20).expect("copy");
        assert!(
            std::fs::read(&a).expect("a") == std::fs::read(folder.path().join("c")).expect("c")
        );
    }
}
