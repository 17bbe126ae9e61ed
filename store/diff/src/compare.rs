//! Comparing two trees: what the upper one has changed, as a layer.

mod error;
mod node;
mod overlay;
mod record;
mod walk;

use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;

pub use error::CompareError;
pub(crate) use overlay::changes;
use walk::Upper;

fn open(path: &Path) -> Result<OwnedFd, CompareError> {
    node::open_root(path).map_err(CompareError::at("open", path.as_os_str().as_encoded_bytes()))
}

/// How a tree is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TreeOptions {
    /// Seconds since 1970: no entry is newer, and deletions have this time.
    pub source_date_epoch: Option<i64>,
}

/// Writes what the tree `upper` has changed against `lower` as a tar; everything, without a lower.
/// Entries come in the order of their names, folder by folder, so that the same trees give the
/// same bytes. Sockets are left out, as no archive can hold them.
///
/// # Errors
/// [`CompareError`]
pub fn write_diff<W: Write>(
    output: W,
    lower: Option<&Path>,
    upper: &Path,
    options: TreeOptions,
) -> Result<W, CompareError> {
    let lower = lower.map(open).transpose()?;
    let upper = open(upper)?;
    let mut recorder = record::Recorder::new(output, &upper, options);
    walk::walk(lower.as_ref(), &upper, Upper::Whole, &mut recorder)?;
    recorder.finish()
}

/// As [`write_diff`], from the folder of an overlay that holds all changes against the tree
/// `lower`; the result is the same. The output comes back unused, as the inner error, if entries of the folder
/// mean more than they show: then the trees have to be compared.
///
/// # Errors
/// [`CompareError`]
pub fn write_overlay_diff<W: Write>(
    output: W,
    lower: &Path,
    changes: &Path,
    options: TreeOptions,
) -> Result<Result<W, W>, CompareError> {
    let (lower, upper) = (open(lower)?, open(changes)?);
    if !overlay::is_plain(&upper)? {
        return Ok(Err(output));
    }
    let mut recorder = record::Recorder::new(output, &upper, options);
    walk::walk(Some(&lower), &upper, Upper::Changes, &mut recorder)?;
    recorder.finish().map(Ok)
}
