//! Two trees side by side, name by name.

use std::cmp::Ordering;
use std::io::Write;
use std::os::fd::OwnedFd;

use rustix::fs::Stat;

use super::error::{CompareError, shown};
use super::node::{Node, is_same, list};
use super::record::Recorder;

/// Folders within folders: two descriptors and a frame each.
const MAX_DEPTH: usize = 400;

/// Tells the recorder what `upper` has changed against `lower`.
pub(crate) fn walk<W: Write>(
    lower: Option<&OwnedFd>,
    upper: &OwnedFd,
    recorder: &mut Recorder<'_, W>,
) -> Result<(), CompareError> {
    folder(lower, upper, &mut Vec::new(), 0, recorder)
}

fn folder<W: Write>(
    lower: Option<&OwnedFd>,
    upper: &OwnedFd,
    path: &mut Vec<u8>,
    depth: usize,
    recorder: &mut Recorder<'_, W>,
) -> Result<(), CompareError> {
    if depth > MAX_DEPTH {
        return Err(CompareError::Levels { path: shown(path) });
    }
    let old = match lower {
        Some(lower) => list(lower).map_err(CompareError::at("read", path))?,
        None => Vec::new(),
    };
    let new = list(upper).map_err(CompareError::at("read", path))?;
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
        match after {
            None => recorder.deleted(path)?,
            Some(after) => {
                let before = before.and_then(|before| Some((lower?, before)));
                name(before, (upper, after), path, depth, recorder)?;
            }
        }
        path.truncate(length);
    }
}

/// One name of the upper tree, with what the lower has there.
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
    let inner = after.open_folder().map_err(CompareError::at("open", path))?;
    let below = match before.filter(Node::is_folder) {
        Some(before) => Some(before.open_folder().map_err(CompareError::at("open", path))?),
        None => None,
    };
    folder(below.as_ref(), &inner, path, depth + 1, recorder)
}
