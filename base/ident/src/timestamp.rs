//! Times as texts: RFC 3339 with nanoseconds, as Go writes and reads them.

use std::time::SystemTime;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::identifier::IdentError;

/// `time` in UTC as Go's `RFC3339Nano`: nanoseconds without trailing zeros.
///
/// Years outside of 0 to 9999 have no such text; they give that of the Unix epoch.
#[must_use]
pub fn format(time: SystemTime) -> String {
    OffsetDateTime::from(time)
        .format(&Rfc3339)
        .unwrap_or_else(|_| "1970-01-01T00:00:00Z".to_owned())
}

/// Reads an RFC 3339 time with any offset.
///
/// # Errors
/// [`IdentError::Time`] if it is none.
pub fn parse(text: &str) -> Result<SystemTime, IdentError> {
    OffsetDateTime::parse(text, &Rfc3339)
        .map(SystemTime::from)
        .map_err(|_| IdentError::Time(text.to_owned()))
}
