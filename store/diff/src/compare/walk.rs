//! Two trees side by side, name by name; the upper one may be overlayfs's folder of changes.

use std::cmp::Ordering;
use std::io::Write;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Stat};
use rustix::io::Errno;

use super::error::{CompareError, shown};
use super::node::{Node, is_same, list};
use super::overlay;
use super::record::Recorder;

/// Folders within folders: two descriptors and a frame each.
pub(super) const MAX_DEPTH: usize = 400;

/// What a folder of the upper tree shows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Upper {
    /// All that is there: a name that it lacks is deleted.
    Whole,
    /// Changes, as overlayfs keeps them: a name that it lacks is as in the lower folder.
    Changes,
    /// Changes that hide the lower folder: a name that it lacks is deleted.
    Opaque,
}

/// Tells the recorder what `upper` has changed against `lower`.
pub(crate) fn walk<W: Write>(
    lower: Option<&OwnedFd>,
    upper: &OwnedFd,
    shows: Upper,
    recorder: &mut Recorder<'_, W>,
) -> Result<(), CompareError> {
    folder(lower, upper, shows, &mut Vec::new(), 0, recorder)
}

/// The names of the folder `lower` that those of the upper folder, `new`, are held against.
fn below(
    lower: &OwnedFd,
    new: &[(Vec<u8>, Stat)],
    shows: Upper,
    path: &[u8],
) -> Result<Vec<(Vec<u8>, Stat)>, CompareError> {
    if shows != Upper::Changes {
        return list(lower).map_err(CompareError::at("read", path));
    }
    let mut old = Vec::new();
    for (name, _) in new {
        match rustix::fs::statat(lower, &name[..], AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => old.push((name.clone(), stat)),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(CompareError::at("stat", path)(errno)),
        }
    }
    Ok(old)
}

fn folder<W: Write>(
    lower: Option<&OwnedFd>,
    upper: &OwnedFd,
    shows: Upper,
    path: &mut Vec<u8>,
    depth: usize,
    recorder: &mut Recorder<'_, W>,
) -> Result<(), CompareError> {
    if depth > MAX_DEPTH {
        return Err(CompareError::Levels { path: shown(path) });
    }
    let new = list(upper).map_err(CompareError::at("read", path))?;
    let old = match lower {
        Some(lower) => below(lower, &new, shows, path)?,
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
        match after.filter(|(_, stat)| shows == Upper::Whole || !overlay::is_whiteout(stat)) {
            Some(after) => {
                let before = before.and_then(|before| Some((lower?, before)));
                name(before, (upper, after), shows, path, depth, recorder)?;
            }
            // A whiteout of what was not there says nothing.
            None if before.is_some() => recorder.deleted(path)?,
            None => {}
        }
        path.truncate(length);
    }
}

/// One name of the upper tree, with what the lower has there.
fn name<W: Write>(
    before: Option<(&OwnedFd, &(Vec<u8>, Stat))>,
    (upper, (after_name, after_stat)): (&OwnedFd, &(Vec<u8>, Stat)),
    shows: Upper,
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
    let shows = match shows {
        Upper::Whole => Upper::Whole,
        Upper::Changes | Upper::Opaque => match overlay::opaque(&after) {
            Ok(None) => Upper::Changes,
            Ok(Some(_)) => Upper::Opaque,
            Err(errno) => return Err(CompareError::at("getxattr", path)(errno)),
        },
    };
    let inner = after.open_folder().map_err(CompareError::at("open", path))?;
    let below = match before.filter(Node::is_folder) {
        Some(before) => Some(before.open_folder().map_err(CompareError::at("open", path))?),
        None => None,
    };
    folder(below.as_ref(), &inner, shows, path, depth + 1, recorder)
}
