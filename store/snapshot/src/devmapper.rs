//! Snapshots as thin devices of a device-mapper pool.
//!
//! ```text
//! metadata.db
//! <pool>.db        the pool's devices, see `records`
//! ```
//!
//! Device `<pool>-snap-<id>` has the tree of a snapshot. A child is a snapshot of its parent's
//! device; a committed device is taken out of sight until it gets a child.

mod dmsetup;
mod pool;
mod records;

use std::path::PathBuf;

use base_errors::{Error, Result};
use base_fs::failpoint;
use base_ident::Labels;
use kernel_mount::{Mount, TempMount};

use crate::error::{SnapshotError, failed};
use crate::folders::make_private;
use crate::local::{Backend, Draft, Local, New, delegate};
use crate::program;
use crate::snapshotter::{Info, Kind, Usage};
use crate::storage::{Storage, Tree};

use pool::{Pool, Use};

/// The file system of a snapshot's device; children have their parent's.
const LABEL_FS_TYPE: &str = "containerd.io/snapshot/devmapper/fstype";
/// What devices of older daemons have, which knew no other.
const OLD_FS_TYPE: &str = "ext4";

/// How the snapshotter is set up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DevmapperConfig {
    /// The folder of the snapshotter.
    pub root_path: PathBuf,
    /// The thin pool, which exists. Without one the plugin is skipped.
    pub pool_name: String,
    /// The size of each device in bytes.
    pub base_image_size: u64,
    /// Leave devices of removed snapshots to the cleanup.
    pub async_remove: bool,
    /// Give the blocks of removed devices back to the pool's data device.
    pub discard_blocks: bool,
    /// `ext4` (also if empty), `ext2` or `xfs`.
    pub fs_type: String,
    /// Options of `mkfs`.
    pub fs_options: String,
}

/// The devmapper snapshotter. Cloning gives another handle of the same.
#[derive(Clone)]
pub struct DevmapperSnapshotter {
    local: Local<Devmapper>,
}

delegate!(DevmapperSnapshotter);

impl DevmapperSnapshotter {
    /// Opens the snapshotter in `config.root_path`, which is made if it is missing. Blocks.
    ///
    /// # Errors
    /// NotImplemented if no pool is configured: then the plugin is skipped. InvalidArgument for
    /// other settings; those of `dmsetup`, the folders and the databases.
    pub fn open(mut config: DevmapperConfig) -> Result<Self> {
        if config.pool_name.is_empty() {
            return Err(SnapshotError::Skip("devmapper not configured".to_owned()).into());
        }
        if config.base_image_size == 0 {
            return Err(SnapshotError::Config("base_image_size is required".to_owned()).into());
        }
        if config.pool_name.contains('/') {
            return Err(SnapshotError::Config(format!(
                "pool_name {:?} is no name of a device",
                config.pool_name
            ))
            .into());
        }
        if config.fs_type.is_empty() {
            OLD_FS_TYPE.clone_into(&mut config.fs_type);
        }
        if !matches!(config.fs_type.as_str(), "ext4" | "ext2" | "xfs") {
            return Err(SnapshotError::Config(format!(
                "unsupported Filesystem Type: {:?}",
                config.fs_type
            ))
            .into());
        }
        make_private(&config.root_path)?;
        let storage = Storage::open(&config.root_path.join("metadata.db"))?;
        let pool = Pool::open(&config.root_path, &config.pool_name, config.discard_blocks)?;
        let backend = Devmapper { pool, config };
        backend.settle(&storage)?;
        Ok(DevmapperSnapshotter { local: Local::new(storage, backend) })
    }
}

struct Devmapper {
    pool: Pool,
    config: DevmapperConfig,
}

impl Devmapper {
    fn device(&self, id: u64) -> String {
        format!("{}-snap-{id}", self.config.pool_name)
    }

    /// The snapshot that a device is for, if its name is one of ours.
    fn id(&self, device: &str) -> Option<u64> {
        device.strip_prefix(&self.config.pool_name)?.strip_prefix("-snap-")?.parse().ok()
    }

    /// Sets right what a crash or a reboot left. Nothing else uses the pool yet.
    fn settle(&self, storage: &Storage) -> Result<()> {
        let kinds = storage.view(|tx| tx.kinds())?;
        self.pool.settle(|device| match self.id(device) {
            None => Use::Unknown,
            Some(id) => match kinds.get(&id) {
                None => Use::None,
                Some(Kind::Committed) => Use::Data,
                Some(Kind::Active | Kind::View) => Use::Device,
            },
        })
    }

    fn mount(&self, id: u64, kind: Kind, fs_type: &str) -> Mount {
        let mut options = Vec::new();
        if fs_type == "xfs" {
            options.push("nouuid".to_owned());
        }
        if kind != Kind::Active {
            options.push("ro".to_owned());
        }
        Mount {
            kind: fs_type.to_owned(),
            source: dmsetup::path(&self.device(id)),
            target: String::new(),
            options,
        }
    }

    /// Makes the file system of a tree without a parent.
    fn format(&self, id: u64) -> Result<()> {
        let device = dmsetup::path(&self.device(id));
        let fs_type = self.config.fs_type.as_str();
        let options = match (fs_type, self.config.fs_options.as_str()) {
            // The thin device gives zeroes at once, so writing tables now costs next to nothing.
            ("ext4", "") => "nodiscard,lazy_itable_init=0,lazy_journal_init=0",
            (_, options) => options,
        };
        let mut arguments = Vec::new();
        if fs_type != "xfs" && !options.is_empty() {
            arguments.extend(["-E", options]);
        }
        arguments.push(&device);
        program::run(&format!("mkfs.{fs_type}"), &arguments).map_err(|error| {
            Error::from(error).context(format!("couldn't initialize {device:?}"))
        })?;
        // What no image expects.
        let mounted = TempMount::new(&[self.mount(id, Kind::Active, fs_type)], None)?;
        let _ = std::fs::remove_dir(mounted.path().join("lost+found"));
        mounted.close()?;
        Ok(())
    }
}

/// A device on its way to a record.
pub(crate) struct Device {
    pool: Pool,
    name: String,
    settled: bool,
}

impl Draft for Device {
    fn place(&mut self, _id: u64) -> Result<()> {
        // It has its name from the beginning.
        Ok(())
    }

    fn settle(mut self) {
        self.settled = true;
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if !self.settled
            && let Err(error) = self.pool.remove(&self.name)
        {
            tracing::warn!(device = self.name, %error, "failed to remove device");
        }
    }
}

impl Backend for Devmapper {
    type Draft = Device;
    const NEEDS_ID: bool = true;
    const TOTALS: bool = true;
    const OWN_LABEL: Option<&'static str> = Some(LABEL_FS_TYPE);

    fn make(&self, new: &New<'_>, labels: &mut Labels) -> Result<Device> {
        let id = new.id.ok_or_else(|| Error::internal("a device needs an id"))?;
        let name = self.device(id);
        let device = |name| Device { pool: self.pool.clone(), name, settled: false };
        let (fs_type, made) = match new.parent {
            None => {
                self.pool.create(&name, self.config.base_image_size)?;
                let made = device(name);
                self.format(id)?;
                (self.config.fs_type.clone(), made)
            }
            Some((parent, above)) => {
                let size = self.config.base_image_size;
                self.pool.snapshot(&self.device(parent), &name, size)?;
                let fs_type = above.get(LABEL_FS_TYPE).filter(|fs_type| !fs_type.is_empty());
                (fs_type.map_or(OLD_FS_TYPE, String::as_str).to_owned(), device(name))
            }
        };
        labels.insert(LABEL_FS_TYPE.to_owned(), fs_type);
        Ok(made)
    }

    fn mounts(&self, tree: &Tree, labels: &Labels) -> Result<Vec<Mount>> {
        let fs_type = labels.get(LABEL_FS_TYPE).map_or(OLD_FS_TYPE, String::as_str);
        Ok(vec![self.mount(tree.id, tree.kind, fs_type)])
    }

    fn measure(&self, id: u64, _parent: Option<u64>) -> Result<Usage> {
        Ok(Usage { inodes: 0, size: self.pool.usage(&self.device(id))? })
    }

    fn seal(
        &self,
        id: u64,
        parent: Option<u64>,
        before: &Info,
        labels: &mut Labels,
    ) -> Result<(Usage, Box<dyn Send>)> {
        if let Some(fs_type) = before.labels.get(LABEL_FS_TYPE) {
            labels.insert(LABEL_FS_TYPE.to_owned(), fs_type.clone());
        }
        let name = self.device(id);
        // DURABILITY: suspending writes out what the device still has in memory; the pool commits
        // its tables with it.
        let path = self.config.root_path.join(&name);
        failpoint::hit("devmapper.seal").map_err(failed(&path))?;
        self.pool.suspend(&name)?;
        let stopped = failpoint::hit("devmapper.sealed").map_err(failed(&path));
        self.pool.resume(&name)?;
        stopped?;
        Ok((self.measure(id, parent)?, Box::new(())))
    }

    fn sealed(&self, id: u64) {
        // Out of the sight of tools that look at every device; the next child needs only its data.
        if let Err(error) = self.pool.deactivate(&self.device(id), true) {
            tracing::warn!(id, %error, "failed to deactivate device");
        }
    }

    fn removed(&self, id: u64, _kind: Kind, _labels: &Labels) -> Result<()> {
        let name = self.device(id);
        if self.config.async_remove {
            return self.pool.mark_removed(&name);
        }
        self.pool.remove(&name).or_else(|error| {
            tracing::warn!(device = name, %error, "device is left to the cleanup");
            self.pool.mark_removed(&name)
        })
    }

    fn cleanup(&self, storage: &Storage) -> Result<()> {
        // The order matters, as with folders: a device that is seen here has a record by now, or
        // is marked, or belongs to a call on its way; those are not touched.
        let devices = self.pool.devices()?;
        let ids = storage.view(|tx| tx.ids())?;
        for device in devices {
            let known = self.id(&device.name).is_some_and(|id| ids.contains(&id));
            if known || !device.is_garbage() {
                continue;
            }
            if let Err(error) = self.pool.remove(&device.name) {
                tracing::warn!(device = device.name, %error, "failed to remove device");
            }
        }
        Ok(())
    }
}
