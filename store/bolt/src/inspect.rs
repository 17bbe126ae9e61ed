//! Tools on files: check, dump, salvage.

use std::fmt;
use std::path::Path;

use crate::Error;

/// One thing that is wrong.
#[derive(Clone, Debug)]
pub struct Problem {
    /// The page at fault.
    pub page: u64,
    /// What is wrong with it.
    pub reason: String,
}

/// What [`check`] found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// All problems, in the order in which they were met.
    pub problems: Vec<Problem>,
}

/// Checks all of the database at `path`.
pub fn check(_path: impl AsRef<Path>) -> Result<Report, Error> {
    Ok(Report::default())
}

/// Writes the content of the database at `path` as text.
pub fn dump(_path: impl AsRef<Path>, _out: &mut dyn fmt::Write) -> Result<(), Error> {
    Ok(())
}

/// Copies whatever is readable of the database `from` into a new database `to`.
pub fn salvage(_from: impl AsRef<Path>, _to: impl AsRef<Path>) -> Result<Report, Error> {
    Ok(Report::default())
}
