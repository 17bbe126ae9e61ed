//! Notes on the standard error output, in the form of containerd's logs.

use std::fmt::Display;
use std::io::Write as _;
use std::time::SystemTime;

use base_errors::Error;

use crate::format;

fn write(level: &str, message: impl Display, error: Option<&Error>) {
    let now = format::rfc3339_seconds(SystemTime::now());
    let message = message.to_string();
    let mut line = format!("time=\"{now}\" level={level} msg={message:?}");
    if let Some(error) = error {
        let text = format::error(error);
        line.push_str(&format!(" error={text:?}"));
    }
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Something failed; the command goes on with the next object.
pub(crate) fn error(message: impl Display, error: &Error) {
    write("error", message, Some(error));
}

/// Something is worth to be known.
pub(crate) fn warn(message: impl Display) {
    write("warning", message, None);
}
