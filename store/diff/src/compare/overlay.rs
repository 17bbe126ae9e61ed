//! A tree's changes from its upper folder: what overlayfs keeps apart needs no walk of the whole.
//!
//! The result is that of a walk of the two trees, byte for byte: the same names in the same order
//! go to the same recorder. Only the names of the upper folder are looked at, and below folders
//! that hide the ones under them, the names of the lower tree.

use std::cmp::Ordering;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use kernel_mount::Mount;
use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

use super::error::{CompareError, shown};
use super::node::{Node, is_same, list};
use super::record::Recorder;

/// Folders within folders: two descriptors and a frame each.
const MAX_DEPTH: usize = 400;

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

fn opaque(node: &Node<'_>) -> Result<Option<Vec<u8>>, Errno> {
    overlay_xattr(node, "opaque")
}

fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Tells the recorder what the upper folder `upper` changes in the tree `lower`.
pub(crate) fn walk<W: Write>(
    lower: &OwnedFd,
    upper: &OwnedFd,
    recorder: &mut Recorder<'_, W>,
) -> Result<(), CompareError> {
    folder(Some(lower), upper, false, &mut Vec::new(), 0, recorder)
}

/// One folder; `hides`: nothing of the lower one shows through.
fn folder<W: Write>(
    lower: Option<&OwnedFd>,
    upper: &OwnedFd,
    hides: bool,
    path: &mut Vec<u8>,
    depth: usize,
    recorder: &mut Recorder<'_, W>,
) -> Result<(), CompareError> {
    if depth > MAX_DEPTH {
        return Err(CompareError::Levels { path: shown(path) });
    }
    let new = list(upper).map_err(CompareError::at("read", path))?;
    let old = match lower {
        // All names: one that is not in the upper folder is gone.
        Some(lower) if hides => list(lower).map_err(CompareError::at("read", path))?,
        // The names of the upper folder alone.
        Some(lower) => {
            let mut old = Vec::new();
            for (name, _) in &new {
                match rustix::fs::statat(lower, &name[..], rustix::fs::AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => old.push((name.clone(), stat)),
                    Err(Errno::NOENT) => {}
                    Err(errno) => return Err(CompareError::at("stat", path)(errno)),
                }
            }
            old
        }
        None => Vec::new(),
    };
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    let length = path.len();
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return Ok(()),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((before, _)), Some((after, _))) => before.cmp(after),
        };
        let before = if order == Ordering::Greater { None } else { old.next() };
        let after = if order == Ordering::Less { None } else { new.next() };
        if let Some((name, _)) = before.or(after) {
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name);
        }
        match after.filter(|(_, stat)| !is_whiteout(stat)) {
            Some(after) => {
                let before = before.and_then(|before| Some((lower?, before)));
                name(before, (upper, after), path, depth, recorder)?;
            }
            // A whiteout of what was not there says nothing.
            None if before.is_some() => recorder.deleted(path)?,
            None => {}
        }
        path.truncate(length);
    }
}

/// One name of the upper folder, with what the lower tree has there.
fn name<W: Write>(
    before: Option<(&OwnedFd, &(Vec<u8>, Stat))>,
    (upper, (after_name, after_stat)): (&OwnedFd, &(Vec<u8>, Stat)),
    path: &mut Vec<u8>,
    depth: usize,
    recorder: &mut Recorder<'_, W>,
) -> Result<(), CompareError> {
    let after = Node { folder: upper, name: after_name, stat: after_stat };
    let before = before.map(|(folder, (name, stat))| Node { folder, name, stat });
    let is_unchanged = match &before {
        Some(before) => is_same(before, &after).map_err(CompareError::at("compare", path))?,
        None => false,
    };
    if !is_unchanged {
        recorder.changed(path, &after)?;
    } else if after.is_linked() {
        recorder.unchanged_link(path, &after)?;
    }
    if !after.is_folder() {
        return Ok(());
    }
    let hides = opaque(&after).map_err(CompareError::at("getxattr", path))?.is_some();
    let inner = after.open_folder().map_err(CompareError::at("open", path))?;
    let below = match before.filter(Node::is_folder) {
        Some(before) => Some(before.open_folder().map_err(CompareError::at("open", path))?),
        None => None,
    };
    folder(below.as_ref(), &inner, hides, path, depth + 1, recorder)
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
