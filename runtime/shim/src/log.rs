//! The shim's log: lines as the daemon's own, into the bundle's `log` fifo, which the daemon copies
//! to its standard error.
//!
//! A full fifo that nobody reads loses lines; the shim never waits for its log.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Mutex;

use time::OffsetDateTime;
use time::macros::format_description;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::lock;

/// The name of the fifo in the bundle.
const FIFO: &str = "log";

/// The longest line: a pipe takes that much at once, so lines of several shims never mix.
const MAX_LINE: usize = 4096;

/// Sends everything that is traced to the bundle's fifo. Without a fifo, nothing is logged.
pub(crate) fn install(bundle: &Path, debug: bool, namespace: &str, id: &str) {
    let path = bundle.join(FIFO);
    let is_fifo = std::fs::metadata(&path).is_ok_and(|found| found.file_type().is_fifo());
    if !is_fifo {
        return;
    }
    // Both ends are opened, so that the daemon may come and go.
    let nonblock = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
    let opened = File::options().read(true).write(true).custom_flags(nonblock).open(&path);
    let Ok(file) = opened else { return };
    let level = if debug { Level::DEBUG } else { Level::INFO };
    let suffix = format!(" id={} namespace={}", quoted(id), quoted(namespace));
    // Fails only if there is a log already.
    let _ = tracing::subscriber::set_global_default(Log { file: Mutex::new(file), level, suffix });
}

struct Log {
    file: Mutex<File>,
    level: Level,
    /// The fields of every line.
    suffix: String,
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let mut line = line(OffsetDateTime::now_utc(), *event.metadata().level(), &fields);
        line.push_str(&self.suffix);
        line.truncate(line.floor_char_boundary(MAX_LINE - 1));
        line.push('\n');
        // A full pipe: the line is lost.
        let _ = lock(&self.file).write(line.as_bytes());
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, String)>,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let text = format!("{value:?}");
        if field.name() == "message" {
            self.message = text;
        } else {
            self.others.push((field.name(), text));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message = value.to_owned();
        } else {
            self.others.push((field.name(), value.to_owned()));
        }
    }
}

/// One line without its end: time, level, message, fields.
fn line(time: OffsetDateTime, level: Level, fields: &Fields) -> String {
    let format =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:9]Z");
    let time = time.format(format).unwrap_or_default();
    let level = match level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    };
    let mut line = format!("time=\"{time}\" level={level} msg={}", quoted(&fields.message));
    for (name, value) in &fields.others {
        // Writing to a String cannot fail.
        let _ = write!(line, " {name}={}", quoted(value));
    }
    line
}

/// The text, in quotes unless it is a plain word.
fn quoted(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._/@^+".contains(&byte);
    if !text.is_empty() && text.bytes().all(plain) { text.to_owned() } else { format!("{text:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_look_like_the_daemons() {
        let time = OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap();
        let fields = Fields {
            message: "failed to \"x\"".to_owned(),
            others: vec![("error", "a b".to_owned()), ("pid", "7".to_owned())],
        };
        assert_eq!(
            line(time, Level::WARN, &fields),
            "time=\"2023-11-14T22:13:20.000000000Z\" level=warning msg=\"failed to \\\"x\\\"\" \
             error=\"a b\" pid=7"
        );
    }
}
