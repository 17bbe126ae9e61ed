//! Log lines as containerd's users grep for them: `time="…" level=info msg="…" module=… key=value`,
//! or one JSON object a line with the same keys.

use std::fmt::{self, Write as _};
use std::time::SystemTime;

use time::OffsetDateTime;
use time::macros::format_description;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, MakeWriter};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Layer as _, reload};

/// The two formats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `key=value`, as logrus' text formatter without colours.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Changes the level of a running process.
pub struct LevelHandle(reload::Handle<EnvFilter, tracing_subscriber::Registry>);

impl LevelHandle {
    /// Sets the level to one of containerd's names; false if it is none.
    pub fn set(&self, level: &str) -> bool {
        parse_level(level).is_some_and(|level| self.0.reload(filter(level)).is_ok())
    }
}

/// containerd's level names: trace, debug, info, warn(ing), error, fatal, panic.
#[must_use]
pub fn parse_level(level: &str) -> Option<Level> {
    match level.to_ascii_lowercase().as_str() {
        "trace" => Some(Level::TRACE),
        "debug" => Some(Level::DEBUG),
        "info" | "" => Some(Level::INFO),
        "warn" | "warning" => Some(Level::WARN),
        "error" | "fatal" | "panic" => Some(Level::ERROR),
        _ => None,
    }
}

/// Libraries speak from one level above ours on: their debug lines are about themselves.
fn filter(level: Level) -> EnvFilter {
    let libraries = if level == Level::TRACE { "debug" } else { "warn" };
    let mut filter = EnvFilter::new(level.to_string());
    for library in ["h2", "hyper", "hyper_util", "tower", "tonic", "mio", "tokio"] {
        if let Ok(directive) = format!("{library}={libraries}").parse() {
            filter = filter.add_directive(directive);
        }
    }
    filter
}

/// Makes log lines of `level` and above go to standard error. Call it once.
///
/// A second call changes nothing and gives a handle without effect.
pub fn init(level: Level, format: Format) -> LevelHandle {
    init_with(level, format, std::io::stderr)
}

/// As [`init`], with another writer.
pub fn init_with<W>(level: Level, format: Format, writer: W) -> LevelHandle
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(filter(level));
    let lines = tracing_subscriber::fmt::layer()
        .event_format(Lines(format))
        .with_writer(writer)
        .with_filter(filter);
    let subscriber = tracing_subscriber::registry().with(lines);
    let _ = tracing::subscriber::set_global_default(subscriber);
    LevelHandle(handle)
}

/// The formatter of both formats.
struct Lines(Format);

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'l> LookupSpan<'l>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let line = line(self.0, SystemTime::now(), event.metadata(), &fields);
        writer.write_str(&line)
    }
}

/// The fields of one event.
#[derive(Default)]
struct Fields {
    message: String,
    module: Option<String>,
    others: Vec<(&'static str, String)>,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        match field.name() {
            "message" => self.message = text,
            "module" => self.module = Some(text),
            name => self.others.push((name, text)),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => value.clone_into(&mut self.message),
            "module" => self.module = Some(value.to_owned()),
            name => self.others.push((name, value.to_owned())),
        }
    }
}

/// `store_content::local` -> `store/content`: ring and crate, as the folders are named.
fn module(target: &str) -> String {
    let name = target.split("::").next().unwrap_or(target);
    match name.split_once('_') {
        Some((ring, rest)) => format!("{ring}/{}", rest.replace('_', "-")),
        None => name.to_owned(),
    }
}

/// The level as logrus calls it.
fn level(metadata: &Metadata<'_>) -> &'static str {
    match *metadata.level() {
        Level::TRACE => "trace",
        Level::DEBUG => "debug",
        Level::INFO => "info",
        Level::WARN => "warning",
        Level::ERROR => "error",
    }
}

fn line(format: Format, now: SystemTime, metadata: &Metadata<'_>, fields: &Fields) -> String {
    let module = fields.module.clone().unwrap_or_else(|| module(metadata.target()));
    let time = OffsetDateTime::from(now)
        .format(format_description!(
            "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:9]Z"
        ))
        .unwrap_or_default();
    render(format, &time, level(metadata), &module, fields)
}

fn render(format: Format, time: &str, level: &str, module: &str, fields: &Fields) -> String {
    let mut line = String::with_capacity(128);
    match format {
        Format::Text => {
            let _ = write!(line, "time=\"{time}\" level={level} msg=");
            quote_always(&mut line, &fields.message);
            for (key, value) in &fields.others {
                let _ = write!(line, " {key}=");
                quote_if_needed(&mut line, value);
            }
            line.push_str(" module=");
            quote_if_needed(&mut line, module);
        }
        Format::Json => {
            let mut object = serde_json::Map::new();
            for (key, value) in &fields.others {
                // As logrus: a field that clashes with one of its own keys is moved aside.
                let key = match *key {
                    "time" | "level" | "msg" => format!("fields.{key}"),
                    key => key.to_owned(),
                };
                object.insert(key, value.as_str().into());
            }
            object.insert("level".into(), level.into());
            object.insert("module".into(), module.into());
            object.insert("msg".into(), fields.message.as_str().into());
            object.insert("time".into(), time.into());
            line.push_str(&serde_json::Value::Object(object).to_string());
        }
    }
    line.push('\n');
    line
}

/// logrus leaves a value bare if it has only these characters.
fn is_bare(value: &str) -> bool {
    !value.is_empty()
        && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._/@^+".contains(&byte))
}

fn quote_if_needed(line: &mut String, value: &str) {
    if is_bare(value) { line.push_str(value) } else { quote_always(line, value) }
}

/// As Go's `%q`: what a log line cannot hold is escaped, so that nobody can forge lines.
fn quote_always(line: &mut String, value: &str) {
    line.push('"');
    for character in value.chars() {
        match character {
            '"' => line.push_str("\\\""),
            '\\' => line.push_str("\\\\"),
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push_str("\\t"),
            character if character.is_control() => {
                let _ = write!(line, "\\u{:04x}", u32::from(character));
            }
            character => line.push(character),
        }
    }
    line.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields() -> Fields {
        Fields {
            message: "a \"b\"\nc".to_owned(),
            module: None,
            others: vec![("id", "x y".to_owned()), ("ns", "default".to_owned())],
        }
    }

    #[test]
    fn text_lines_cannot_be_forged() {
        assert_eq!(
            render(Format::Text, "T", "info", "store/content", &fields()),
            "time=\"T\" level=info msg=\"a \\\"b\\\"\\nc\" id=\"x y\" ns=default module=store/content\n"
        );
    }

    #[test]
    fn json_lines_have_the_same_keys() {
        let line = render(Format::Json, "T", "info", "m", &fields());
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["msg"], "a \"b\"\nc");
        assert_eq!(value["level"], "info");
        assert_eq!(value["module"], "m");
        assert_eq!(value["id"], "x y");
        assert_eq!(line.matches('\n').count(), 1);
    }

    #[test]
    fn modules_are_the_folders() {
        assert_eq!(module("store_content::local"), "store/content");
        assert_eq!(module("containerd"), "containerd");
    }

    #[test]
    fn levels_by_containerds_names() {
        assert_eq!(parse_level("warn"), Some(Level::WARN));
        assert_eq!(parse_level("loud"), None);
    }
}
