//! Where things are.

use std::fs;
use std::path::{Path, PathBuf};

use kernel_mount::Mount;

use super::databases::backup_path;
use crate::config::Config;

/// What the folders of snapshotters begin with; their name follows.
const SNAPSHOTTER: &str = "io.containerd.snapshotter.v1.";

/// The files and folders that recovery looks at.
#[derive(Debug)]
pub(super) struct Places {
    /// `meta.db`.
    pub(super) metadata: PathBuf,
    /// The content store.
    pub(super) content: PathBuf,
    /// Snapshotters by name, with their folders.
    pub(super) snapshotters: Vec<(String, PathBuf)>,
    /// Bundles of tasks, by namespace and id.
    pub(super) bundles: PathBuf,
    /// Where trees may be mounted.
    pub(super) temporary: PathBuf,
    /// The kind of file system in images of the blockfile snapshotter, and the options of its mounts.
    blockfile: (String, Vec<String>),
}

impl Places {
    pub(super) fn of(config: &Config) -> Places {
        let mut snapshotters = Vec::new();
        for name in names(&config.root) {
            let Some(snapshotter) = name.strip_prefix(SNAPSHOTTER) else { continue };
            let table = config.plugins.get(&name);
            let root = table.and_then(|table| table.get("root_path")?.as_str());
            let folder = match root {
                Some(path) if !path.is_empty() => path.into(),
                _ => config.root.join(&name),
            };
            snapshotters.push((snapshotter.to_owned(), folder));
        }
        Places {
            metadata: config.root.join("io.containerd.metadata.v1.bolt/meta.db"),
            content: config.root.join("io.containerd.content.v1.content"),
            snapshotters,
            bundles: config.state.join("io.containerd.runtime.v2.task"),
            temporary: config.root.join("tmpmounts"),
            blockfile: blockfile(config),
        }
    }

    /// The mount of an image of the blockfile snapshotter, to be written to.
    pub(super) fn blockfile_mount(&self, image: &Path) -> Mount {
        let (kind, options) = self.blockfile.clone();
        let source = image.display().to_string();
        Mount { kind, source, target: String::new(), options }
    }

    /// All databases that there are, be it as a backup alone; those of snapshotters first.
    pub(super) fn databases(&self) -> Vec<PathBuf> {
        let snapshotters = self.snapshotters.iter().map(|(_, folder)| folder.join("metadata.db"));
        let all = snapshotters.chain([self.metadata.clone()]);
        all.filter(|path| path.exists() || backup_path(path).exists()).collect()
    }

    /// True if there is any bundle of a task.
    pub(super) fn has_bundles(&self) -> bool {
        names(&self.bundles)
            .iter()
            .any(|namespace| !names(&self.bundles.join(namespace)).is_empty())
    }
}

/// The names in a folder, sorted; none if it cannot be read. Hidden ones are on their way out.
pub(super) fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| !name.starts_with('.'))
        .collect();
    names.sort();
    names
}

/// What the configuration says of the file systems of the blockfile snapshotter.
fn blockfile(config: &Config) -> (String, Vec<String>) {
    let table = config.plugins.get(&format!("{SNAPSHOTTER}blockfile"));
    let kind = table.and_then(|table| table.get("fs_type")?.as_str()).unwrap_or_default();
    let kind = if kind.is_empty() { "ext4" } else { kind };
    let options = table.and_then(|table| table.get("mount_options")?.as_array());
    let options = options.into_iter().flatten().filter_map(|option| option.as_str());
    let own = ["loop", "rw"];
    (
        kind.to_owned(),
        options.filter(|option| !own.contains(option)).chain(own).map(str::to_owned).collect(),
    )
}
