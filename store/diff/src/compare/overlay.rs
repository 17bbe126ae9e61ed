//! A tree's changes from its upper folder: what overlayfs keeps apart needs no walk of the whole.
//!
//! The result is that of a walk of the two trees, byte for byte, and it is the same walk. Only the
//! names of the upper folder are looked at, and below folders that hide the ones under them, the
//! names of the lower tree.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use kernel_mount::Mount;
use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

use super::error::{CompareError, shown};
use super::node::{Node, list};
use super::walk::MAX_DEPTH;

/// The attributes of overlayfs have one of these before their name.
const PREFIXES: [&str; 2] = ["trusted.overlay.", "user.overlay."];
/// Attributes that make an entry mean more than it shows.
const INDIRECT: [&str; 3] = ["redirect", "metacopy", "whiteout"];

/// The folder with all that `upper` has changed against `lower`, if the mounts say so: both are
/// made of the same layers, and `upper` has one more on top.
pub(crate) fn changes(lower: &[Mount], upper: &[Mount]) -> Option<PathBuf> {
    let upper = layers(upper)?;
    let lower = layers(lower)?;
    let (top, rest) = upper.split_first()?;
    (!rest.is_empty() && *rest == lower[..]).then(|| PathBuf::from(top))
}

/// The folders that a tree is made of, the topmost first.
fn layers(mounts: &[Mount]) -> Option<Vec<String>> {
    let [mount] = mounts else { return None };
    let options = &mount.options;
    let is_mapped =
        options.iter().any(|option| option.starts_with("uidmap=") || option.starts_with("gidmap="));
    if is_mapped || !mount.target.is_empty() {
        return None;
    }
    match mount.kind.as_str() {
        "bind" => Some(vec![mount.source.clone()]),
        "overlay" => {
            let value = |key: &str| options.iter().rev().find_map(|text| text.strip_prefix(key));
            let lower = value("lowerdir=")?;
            // An escaped colon in a name, and folders with data alone, are left to the kernel.
            if lower.contains('\\') || lower.contains("::") {
                return None;
            }
            let upper = value("upperdir=").map(str::to_owned);
            Some(upper.into_iter().chain(lower.split(':').map(str::to_owned)).collect())
        }
        _ => None,
    }
}

/// True if every entry below `folder` is what it shows. Otherwise the trees have to be walked.
pub(crate) fn is_plain(folder: &OwnedFd) -> Result<bool, CompareError> {
    plain(folder, &mut Vec::new(), 0)
}

fn plain(folder: &OwnedFd, path: &mut Vec<u8>, depth: usize) -> Result<bool, CompareError> {
    if depth > MAX_DEPTH {
        return Err(CompareError::Levels { path: shown(path) });
    }
    for (name, stat) in list(folder).map_err(CompareError::at("read", path))? {
        let node = Node { folder, name: &name, stat: &stat };
        if !matches!(node.kind(), FileType::RegularFile | FileType::Directory) {
            continue;
        }
        for attribute in INDIRECT {
            if overlay_xattr(&node, attribute)
                .map_err(CompareError::at("getxattr", path))?
                .is_some()
            {
                return Ok(false);
            }
        }
        if node.is_folder() {
            // "x" says that whiteouts in it are attributes.
            let opaque = opaque(&node).map_err(CompareError::at("getxattr", path))?;
            if opaque.is_some_and(|value| value != b"y") {
                return Ok(false);
            }
            let inner = node.open_folder().map_err(CompareError::at("open", path))?;
            let length = path.len();
            path.push(b'/');
            path.extend_from_slice(&name);
            if !plain(&inner, path, depth + 1)? {
                return Ok(false);
            }
            path.truncate(length);
        }
    }
    Ok(true)
}

fn overlay_xattr(node: &Node<'_>, name: &str) -> Result<Option<Vec<u8>>, Errno> {
    for prefix in PREFIXES {
        if let Some(value) = node.xattr(format!("{prefix}{name}").as_bytes())? {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

/// Says that a folder hides the one under it, if it is there.
pub(super) fn opaque(node: &Node<'_>) -> Result<Option<Vec<u8>>, Errno> {
    overlay_xattr(node, "opaque")
}

/// True for what says that a name of the lower tree is gone.
pub(super) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlay(options: &[&str]) -> Vec<Mount> {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        vec![Mount { kind: "overlay".to_owned(), options, ..Mount::default() }]
    }

    fn bind(source: &str) -> Vec<Mount> {
        let (kind, source) = ("bind".to_owned(), source.to_owned());
        vec![Mount { kind, source, ..Mount::default() }]
    }

    #[test]
    fn mounts_tell_the_folder_of_changes() {
        let active = overlay(&["workdir=/w", "upperdir=/u", "lowerdir=/2:/1", "index=off"]);
        let found = |lower: &[Mount], upper: &[Mount]| changes(lower, upper);
        assert_eq!(found(&overlay(&["lowerdir=/2:/1"]), &active), Some("/u".into()));
        let one = overlay(&["upperdir=/u", "workdir=/w", "lowerdir=/1"]);
        assert_eq!(found(&bind("/1"), &one), Some("/u".into()));
        // A committed layer, seen by a view.
        let view = overlay(&["lowerdir=/3:/2:/1"]);
        assert_eq!(found(&overlay(&["lowerdir=/2:/1"]), &view), Some("/3".into()));
        for (lower, upper) in [
            (overlay(&["lowerdir=/1:/2"]), active.clone()),
            (bind("/2"), active.clone()),
            (Vec::new(), active.clone()),
            (bind("/1"), bind("/2")),
            (
                overlay(&["lowerdir=/2:/1"]),
                overlay(&["upperdir=/u", "lowerdir=/2:/1", "uidmap=0:1:2"]),
            ),
        ] {
            assert_eq!(found(&lower, &upper), None, "{lower:?} {upper:?}");
        }
    }
}
