//! The identifier rule: names of namespaces, containers, tasks, leases and sandboxes.

use base_errors::{Class, Coded};

/// The longest identifier, in bytes.
pub const MAX_IDENTIFIER: usize = 76;

/// The pattern, as containerd shows it in its errors.
const PATTERN: &str = "^[A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))*$";

/// Why a value is not valid.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum IdentError {
    /// An empty identifier.
    #[error("identifier must not be empty")]
    Empty,
    /// Longer than [`MAX_IDENTIFIER`].
    #[error("identifier {0:?} greater than maximum length ({MAX_IDENTIFIER} characters)")]
    TooLong(String),
    /// Outside of the pattern.
    #[error("identifier {0:?} must match {PATTERN}")]
    Pattern(String),
    /// A call that needs a namespace came without one.
    #[error("namespace is required")]
    NamespaceMissing,
    /// A label that is too large.
    #[error("label key and value length ({length} bytes) greater than maximum size ({max} bytes), key: {key}", max = crate::MAX_LABEL)]
    LabelTooLong {
        /// Length of key and value together, in bytes.
        length: usize,
        /// The key, cut to ten bytes, as containerd does.
        key: String,
    },
    /// A label without a key.
    #[error("label key must not be empty")]
    LabelKeyEmpty,
    /// Not `algorithm:hex`.
    #[error("invalid checksum digest format: {0:?}")]
    DigestFormat(String),
    /// The wrong number of hex digits for the algorithm.
    #[error("invalid checksum digest length: {0:?}")]
    DigestLength(String),
    /// An algorithm that is not known.
    #[error("unsupported digest algorithm: {0:?}")]
    DigestAlgorithm(String),
    /// A filter expression that does not parse.
    #[error("filters: parse error: {0}")]
    Filter(String),
    /// Filters beyond [`crate::filter::MAX_FILTER`] or [`crate::filter::MAX_REGEXES`].
    #[error(
        "filters: too large: at most {} bytes and {} regular expressions",
        crate::filter::MAX_FILTER,
        crate::filter::MAX_REGEXES
    )]
    FilterTooLarge,
    /// Not a time of RFC 3339.
    #[error("not an RFC 3339 time: {0:?}")]
    Time(String),
}

impl Coded for IdentError {
    fn class(&self) -> Class {
        match self {
            IdentError::NamespaceMissing => Class::FailedPrecondition,
            IdentError::Empty
            | IdentError::TooLong(_)
            | IdentError::Pattern(_)
            | IdentError::LabelTooLong { .. }
            | IdentError::LabelKeyEmpty
            | IdentError::DigestFormat(_)
            | IdentError::DigestLength(_)
            | IdentError::DigestAlgorithm(_)
            | IdentError::Filter(_)
            | IdentError::FilterTooLarge
            | IdentError::Time(_) => Class::InvalidArgument,
        }
    }
}

/// Checks the identifier rule: groups of letters and digits, joined by single `.`, `_` or `-`, at
/// most [`MAX_IDENTIFIER`] bytes.
///
/// # Errors
/// [`IdentError::Empty`], [`IdentError::TooLong`] or [`IdentError::Pattern`].
pub fn validate_identifier(value: &str) -> Result<(), IdentError> {
    if value.is_empty() {
        return Err(IdentError::Empty);
    }
    if value.len() > MAX_IDENTIFIER {
        return Err(IdentError::TooLong(value.to_owned()));
    }
    let valid = value
        .split(['.', '_', '-'])
        .all(|group| !group.is_empty() && group.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    if valid { Ok(()) } else { Err(IdentError::Pattern(value.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifier_rule() {
        for good in ["default", "k8s.io", "a", "A-1_b.c", &"x".repeat(76)] {
            assert_eq!(validate_identifier(good), Ok(()), "{good}");
        }
        for bad in ["", ".", "a..b", "-a", "a-", "a/b", "a b", "ä", &"x".repeat(77)] {
            assert!(validate_identifier(bad).is_err(), "{bad}");
        }
    }
}
