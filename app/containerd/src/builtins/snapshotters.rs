//! Snapshotters beside overlayfs and native.

use std::rc::Rc;
use std::sync::Arc;

use base_errors::{Error, Result};
use base_plugin::{Graph, PluginError, Registration, types};
use serde::{Deserialize, Serialize};
use store_snapshot::{
    BlockfileConfig, BlockfileSnapshotter, BtrfsSnapshotter, DevmapperConfig, DevmapperSnapshotter,
    ErofsConfig, ErofsSnapshotter, Snapshotter,
};

use super::stores::{LoadedSnapshotter, NativeTable, folder, skip_unsupported};
use super::{Surroundings, platform};

pub(super) const BTRFS: &str = "io.containerd.snapshotter.v1.btrfs";
pub(super) const BLOCKFILE: &str = "io.containerd.snapshotter.v1.blockfile";
pub(super) const DEVMAPPER: &str = "io.containerd.snapshotter.v1.devmapper";
pub(super) const EROFS: &str = "io.containerd.snapshotter.v1.erofs";

/// A size, as a number of bytes or as a text with a unit of 1024.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Size {
    /// Bytes.
    Bytes(u64),
    /// `10GB`.
    Text(String),
}

impl Default for Size {
    fn default() -> Self {
        Size::Text(String::new())
    }
}

impl Size {
    /// In bytes; 0 for an empty text.
    fn bytes(&self, key: &str) -> Result<u64> {
        let text = match self {
            Size::Bytes(bytes) => return Ok(*bytes),
            Size::Text(text) => text.trim(),
        };
        let invalid = || Error::invalid_argument(format!("failed to parse {key}: {text:?}"));
        if text.is_empty() {
            return Ok(0);
        }
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let unit = unit.trim().to_ascii_lowercase();
        let shift = match unit.trim_end_matches('b').trim_end_matches('i') {
            "" => 0,
            "k" => 10,
            "m" => 20,
            "g" => 30,
            "t" => 40,
            _ => return Err(invalid()),
        };
        let number: u64 = number.parse().map_err(|_| invalid())?;
        number.checked_mul(1 << shift).ok_or_else(invalid)
    }
}

/// `[plugins."io.containerd.snapshotter.v1.blockfile"]`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BlockfileTable {
    /// Another folder than the plugin's own.
    pub root_path: String,
    /// An image with an empty file system.
    pub scratch_file: String,
    /// The kind of file system in it; empty means ext4.
    pub fs_type: String,
    /// Options of each mount.
    pub mount_options: Vec<String>,
    /// Copy the scratch file at each start.
    pub recreate_scratch: bool,
}

/// `[plugins."io.containerd.snapshotter.v1.devmapper"]`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DevmapperTable {
    /// Another folder than the plugin's own.
    pub root_path: String,
    /// The thin pool.
    pub pool_name: String,
    /// The size of each device.
    pub base_image_size: Size,
    /// Leave removed devices to the cleanup.
    pub async_remove: bool,
    /// Give blocks of removed devices back.
    pub discard_blocks: bool,
    /// `ext4`, `ext2` or `xfs`; empty means ext4.
    pub fs_type: String,
    /// Options of `mkfs`.
    pub fs_options: String,
}

/// `[plugins."io.containerd.snapshotter.v1.erofs"]`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ErofsTable {
    /// Another folder than the plugin's own.
    pub root_path: String,
    /// More options of overlay mounts.
    pub ovl_mount_options: Vec<String>,
    /// Protect images by fs-verity.
    pub enable_fsverity: bool,
    /// Protect images by the flag that forbids changes.
    pub set_immutable: bool,
    /// Size of the image that a snapshot is written to; 0 is a folder without a bound.
    pub default_size: Size,
    /// `auto`, `on` or `off`.
    pub dmverity_mode: String,
}

/// Registers a snapshotter without capabilities that opens in its folder.
fn local(
    graph: &mut Graph,
    id: &'static str,
    open: impl FnOnce(&std::path::Path) -> Result<(String, Arc<dyn Snapshotter>), PluginError> + 'static,
) {
    graph.register(Registration::new(types::SNAPSHOTTER, id, &[], move |context| {
        context.platforms.push(platform());
        let (root, snapshotter) = open(&context.root)?;
        context.exports.insert("root".to_owned(), root);
        Ok(LoadedSnapshotter { snapshotter, capabilities: Vec::new() })
    }));
}

pub(super) fn register(graph: &mut Graph, surroundings: &Rc<Surroundings>) {
    let around = Rc::clone(surroundings);
    local(graph, "btrfs", move |own| {
        let table: NativeTable = around.tables.take(BTRFS)?;
        let root = folder(&table.root_path, own);
        let opened = BtrfsSnapshotter::open(&root).map_err(skip_unsupported)?;
        Ok((root.display().to_string(), Arc::new(opened)))
    });
    let around = Rc::clone(surroundings);
    local(graph, "blockfile", move |own| {
        let table: BlockfileTable = around.tables.take(BLOCKFILE)?;
        let root = folder(&table.root_path, own);
        let config = BlockfileConfig {
            root_path: root.clone(),
            scratch_file: table.scratch_file.into(),
            fs_type: table.fs_type,
            mount_options: table.mount_options,
            recreate_scratch: table.recreate_scratch,
        };
        let opened = BlockfileSnapshotter::open(config).map_err(skip_unsupported)?;
        Ok((root.display().to_string(), Arc::new(opened)))
    });
    let around = Rc::clone(surroundings);
    local(graph, "devmapper", move |own| {
        let table: DevmapperTable = around.tables.take(DEVMAPPER)?;
        let root = folder(&table.root_path, own);
        let config = DevmapperConfig {
            root_path: root.clone(),
            pool_name: table.pool_name,
            base_image_size: table.base_image_size.bytes("base image size")?,
            async_remove: table.async_remove,
            discard_blocks: table.discard_blocks,
            fs_type: table.fs_type,
            fs_options: table.fs_options,
        };
        let opened = DevmapperSnapshotter::open(config).map_err(skip_unsupported)?;
        Ok((root.display().to_string(), Arc::new(opened)))
    });
    let around = Rc::clone(surroundings);
    graph.register(Registration::new(types::SNAPSHOTTER, "erofs", &[], move |context| {
        let table: ErofsTable = around.tables.take(EROFS)?;
        context.platforms.push(platform());
        let root = folder(&table.root_path, &context.root);
        context.exports.insert("root".to_owned(), root.display().to_string());
        let snapshotter = ErofsSnapshotter::open(ErofsConfig {
            root_path: root,
            ovl_mount_options: table.ovl_mount_options,
            enable_fsverity: table.enable_fsverity,
            set_immutable: table.set_immutable,
            default_size: table.default_size.bytes("default_size")?,
            dmverity_mode: table.dmverity_mode,
        })
        .map_err(skip_unsupported)?;
        let capabilities: Vec<String> =
            snapshotter.capabilities().into_iter().map(str::to_owned).collect();
        context.capabilities.clone_from(&capabilities);
        Ok(LoadedSnapshotter { snapshotter: Arc::new(snapshotter), capabilities })
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_numbers_or_texts() {
        let text = |text: &str| Size::Text(text.to_owned()).bytes("size");
        assert_eq!(Size::Bytes(7).bytes("size").expect("bytes"), 7);
        assert_eq!(text("").expect("empty"), 0);
        assert_eq!(text("10GB").expect("unit"), 10 << 30);
        assert_eq!(text("64 MiB").expect("unit"), 64 << 20);
        for bad in ["x", "1x", "-1", "99999999999TB"] {
            assert!(text(bad).is_err(), "{bad}");
        }
    }
}
