//! The name of a namespace.

use std::fmt;
use std::sync::Arc;

use crate::identifier::{IdentError, validate_identifier};

/// A valid namespace name; cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Namespace(Arc<str>);

impl Namespace {
    /// Validates `name` by the identifier rule.
    ///
    /// # Errors
    /// [`IdentError::NamespaceMissing`] if it is empty, else as [`validate_identifier`].
    pub fn new(name: &str) -> Result<Self, IdentError> {
        if name.is_empty() {
            return Err(IdentError::NamespaceMissing);
        }
        validate_identifier(name)?;
        Ok(Namespace(name.into()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for Namespace {
    fn as_ref(&self) -> &str {
        &self.0
    }
}
