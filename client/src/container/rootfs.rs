//! A folder with a container's `etc`, to look users up.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use api_shim::types;
use base_errors::Result;
use kernel_mount::{Mount, TempMount};

/// The files that are looked up.
const FILES: [&str; 2] = ["passwd", "group"];

/// Options of an overlay under which its layers do not show what the merged tree holds.
const OPAQUE_OPTIONS: [&str; 5] =
    ["redirect_dir=on", "metacopy=on", "userxattr", "uidmap=", "gidmap="];

/// Where the tree can be read.
pub(super) enum Rootfs {
    /// One layer has all that is asked for: nothing needs to be mounted.
    Layer(PathBuf),
    /// The tree, mounted for the while.
    Mounted(TempMount),
}

impl Rootfs {
    /// Finds `etc` in the tree that `mounts` make.
    pub(super) fn of(mounts: &[types::Mount]) -> Result<Rootfs> {
        if let [mount] = mounts
            && let Some(layer) = one_layer(mount)
        {
            return Ok(Rootfs::Layer(layer));
        }
        let mounts: Vec<Mount> = mounts.iter().map(mount_of).collect();
        Ok(Rootfs::Mounted(TempMount::with_readonly_temp(&mounts, None)?))
    }

    pub(super) fn path(&self) -> &Path {
        match self {
            Rootfs::Layer(path) => path,
            Rootfs::Mounted(mounted) => mounted.path(),
        }
    }

    pub(super) fn close(self) -> Result<()> {
        match self {
            Rootfs::Layer(_) => Ok(()),
            Rootfs::Mounted(mounted) => Ok(mounted.close()?),
        }
    }
}

pub(super) fn mount_of(mount: &types::Mount) -> Mount {
    Mount {
        kind: mount.r#type.clone(),
        source: mount.source.clone(),
        target: mount.target.clone(),
        options: mount.options.clone(),
    }
}

/// The folder that shows the same `etc/passwd` and `etc/group` as the mounted tree, if a look at
/// the layers tells it without doubt.
fn one_layer(mount: &types::Mount) -> Option<PathBuf> {
    if mount
        .options
        .iter()
        .any(|option| OPAQUE_OPTIONS.iter().any(|opaque| option.starts_with(opaque)))
    {
        return None;
    }
    if mount.r#type == "bind" {
        let path = PathBuf::from(&mount.source);
        return path.is_dir().then_some(path);
    }
    if mount.r#type != "overlay" {
        return None;
    }
    let option = |key: &str| mount.options.iter().find_map(|option| option.strip_prefix(key));
    let lower = option("lowerdir=")?;
    if lower.contains('\\') || lower.contains("::") {
        return None;
    }
    let layers: Vec<&Path> =
        option("upperdir=").into_iter().chain(lower.split(':')).map(Path::new).collect();
    for layer in &layers {
        let etc = layer.join("etc");
        match std::fs::symlink_metadata(&etc) {
            Ok(metadata) if metadata.is_dir() => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && layer.is_dir() => {
                continue;
            }
            _ => return None,
        }
        let found = FILES.map(|file| std::fs::symlink_metadata(etc.join(file)));
        if found.iter().all(|found| found.as_ref().is_ok_and(std::fs::Metadata::is_file)) {
            return Some(layer.to_path_buf());
        }
        let absent = found.iter().all(|found| {
            found.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
        });
        if !absent || hides_lower_layers(&etc) {
            return None;
        }
    }
    // Nobody has them: any layer shows that.
    layers.last().map(|layer| layer.to_path_buf())
}

/// True if an overlay shows nothing of the layers below this folder, or if that is not known.
fn hides_lower_layers(folder: &Path) -> bool {
    let mut value = [0_u8; 8];
    match rustix::fs::lgetxattr(
        folder.as_os_str().as_bytes(),
        "trusted.overlay.opaque",
        value.as_mut_slice(),
    ) {
        Ok(_) => true,
        Err(errno) => errno != rustix::io::Errno::NODATA && errno != rustix::io::Errno::OPNOTSUPP,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn overlay(folder: &Path, layers: &[&str]) -> types::Mount {
        let lower: Vec<_> =
            layers.iter().map(|layer| folder.join(layer).display().to_string()).collect();
        types::Mount {
            r#type: "overlay".to_owned(),
            options: vec![format!("lowerdir={}", lower.join(":"))],
            ..types::Mount::default()
        }
    }

    #[test]
    fn the_layer_that_decides_is_found() {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = |name: &str| folder.path().join(name);
        for layer in ["top/etc", "both/etc", "half/etc", "none", "link"] {
            fs::create_dir_all(path(layer)).unwrap();
        }
        for file in ["both/etc/passwd", "both/etc/group", "half/etc/group"] {
            fs::write(path(file), "").unwrap();
        }
        std::os::unix::fs::symlink("/etc", path("link/etc")).unwrap();
        let layer = |layers: &[&str]| one_layer(&overlay(folder.path(), layers));
        assert_eq!(layer(&["top", "none", "both"]), Some(path("both")));
        assert_eq!(layer(&["both", "half"]), Some(path("both")));
        assert_eq!(layer(&["half", "both"]), None);
        assert_eq!(layer(&["link", "both"]), None);
        assert_eq!(layer(&["absent", "both"]), None);
        assert_eq!(layer(&["top", "none"]), Some(path("none")));
        fs::remove_file(path("half/etc/group")).unwrap();
        rustix::fs::setxattr(
            path("half/etc"),
            "trusted.overlay.opaque",
            b"y",
            rustix::fs::XattrFlags::empty(),
        )
        .unwrap();
        assert_eq!(layer(&["half", "both"]), None);
    }
}
