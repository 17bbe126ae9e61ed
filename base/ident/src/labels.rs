//! Labels and their limit.

use std::collections::BTreeMap;

use crate::identifier::IdentError;

/// Labels of an object, in the order of their keys.
pub type Labels = BTreeMap<String, String>;

/// The most bytes that a label's key and value may have together.
pub const MAX_LABEL: usize = 4096;

/// How much of an oversize key an error shows, in bytes; as containerd.
const SHOWN_KEY: usize = 10;

/// Checks one label.
///
/// # Errors
/// [`IdentError::LabelTooLong`] if key and value exceed [`MAX_LABEL`] bytes together.
pub fn validate_label(key: &str, value: &str) -> Result<(), IdentError> {
    let length = key.len() + value.len();
    if length <= MAX_LABEL {
        return Ok(());
    }
    let mut shown = SHOWN_KEY.min(key.len());
    while !key.is_char_boundary(shown) {
        shown -= 1;
    }
    Err(IdentError::LabelTooLong { length, key: key[..shown].to_owned() })
}

/// Checks all labels by [`validate_label`].
///
/// # Errors
/// That of the first label that is not valid.
pub fn validate_labels(labels: &Labels) -> Result<(), IdentError> {
    labels.iter().try_for_each(|(key, value)| validate_label(key, value))
}
