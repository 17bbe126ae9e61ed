//! Fields inside the known event types, read straight from the wire for filters.
//!
//! Only strings, string maps, booleans and messages below them can be named in a filter, as in
//! containerd: numbers and times are never present.

use prost_types::Any;

/// What a field holds.
#[derive(Clone, Copy)]
enum Kind {
    /// A string; present if not empty.
    Text,
    /// A boolean; always present.
    Flag,
    /// A map of strings; the rest of the path, joined by `.`, is the key.
    Map,
    /// A message with fields of its own.
    Message(Table),
}

/// Names, numbers and kinds of a message's fields.
type Table = &'static [(&'static str, u64, Kind)];

use Kind::{Flag, Map, Message, Text};

const ID: Table = &[("id", 1, Text)];
const NAME: Table = &[("name", 1, Text)];
const NAME_LABELS: Table = &[("name", 1, Text), ("labels", 2, Map)];
const DIGEST: Table = &[("digest", 1, Text)];
const SANDBOX: Table = &[("sandbox_id", 1, Text)];
const TASK: Table = &[("container_id", 1, Text)];
const TASK_EXEC: Table = &[("container_id", 1, Text), ("exec_id", 2, Text)];
const TASK_IO: Table =
    &[("stdin", 1, Text), ("stdout", 2, Text), ("stderr", 3, Text), ("terminal", 4, Flag)];

/// The fields of each event type, by the part of its name after `containerd.`.
const TYPES: &[(&str, Table)] = &[
    (
        "events.ContainerCreate",
        &[("id", 1, Text), ("image", 2, Text), ("runtime", 3, Message(NAME))],
    ),
    (
        "events.ContainerUpdate",
        &[("id", 1, Text), ("image", 2, Text), ("labels", 3, Map), ("snapshot_key", 4, Text)],
    ),
    ("events.ContainerDelete", ID),
    ("events.ContentCreate", DIGEST),
    ("events.ContentDelete", DIGEST),
    ("services.images.v1.ImageCreate", NAME_LABELS),
    ("services.images.v1.ImageUpdate", NAME_LABELS),
    ("services.images.v1.ImageDelete", NAME),
    ("events.ImageCreate", NAME_LABELS),
    ("events.ImageUpdate", NAME_LABELS),
    ("events.ImageDelete", NAME),
    ("events.NamespaceCreate", NAME_LABELS),
    ("events.NamespaceUpdate", NAME_LABELS),
    ("events.NamespaceDelete", NAME),
    ("events.SandboxCreate", SANDBOX),
    ("events.SandboxStart", SANDBOX),
    ("events.SandboxExit", SANDBOX),
    ("events.SnapshotPrepare", &[("key", 1, Text), ("parent", 2, Text), ("snapshotter", 5, Text)]),
    ("events.SnapshotCommit", &[("key", 1, Text), ("name", 2, Text), ("snapshotter", 5, Text)]),
    ("events.SnapshotRemove", &[("key", 1, Text), ("snapshotter", 5, Text)]),
    (
        "events.TaskCreate",
        &[
            ("container_id", 1, Text),
            ("bundle", 2, Text),
            ("io", 4, Message(TASK_IO)),
            ("checkpoint", 5, Text),
        ],
    ),
    ("events.TaskStart", TASK),
    ("events.TaskDelete", &[("container_id", 1, Text), ("id", 5, Text)]),
    ("events.TaskExit", &[("container_id", 1, Text), ("id", 2, Text)]),
    ("events.TaskOOM", TASK),
    ("events.TaskExecAdded", TASK_EXEC),
    ("events.TaskExecStarted", TASK_EXEC),
    ("events.TaskPaused", TASK),
    ("events.TaskResumed", TASK),
    ("events.TaskCheckpointed", &[("container_id", 1, Text), ("checkpoint", 2, Text)]),
];

/// The value at `path` inside `event`, if its type is known and the field is present.
pub(crate) fn lookup(event: &Any, path: &[&str]) -> Option<String> {
    let name = event.type_url.rsplit('/').next()?.strip_prefix("containerd.")?;
    let (_, table) = TYPES.iter().find(|(known, _)| *known == name)?;
    find(table, &event.value, path)
}

fn find(table: Table, bytes: &[u8], path: &[&str]) -> Option<String> {
    let (first, rest) = path.split_first()?;
    let (_, number, kind) = table.iter().find(|(name, ..)| name == first)?;
    match kind {
        Text if rest.is_empty() => {
            let value = last(bytes, *number)?.bytes()?;
            let text = std::str::from_utf8(value).ok()?;
            (!text.is_empty()).then(|| text.to_owned())
        }
        Flag if rest.is_empty() => {
            let set = matches!(last(bytes, *number), Some(Value::Number(value)) if value != 0);
            Some(set.to_string())
        }
        Map => {
            let key = rest.join(".");
            // The last entry of a key wins, as for every field.
            let entry = Fields(bytes)
                .filter(|(field, _)| field == number)
                .filter_map(|(_, value)| value.bytes())
                .filter(|entry| last(entry, 1).and_then(Value::bytes) == Some(key.as_bytes()))
                .last()?;
            let value = last(entry, 2).and_then(Value::bytes).unwrap_or_default();
            std::str::from_utf8(value).ok().map(str::to_owned)
        }
        Message(inner) => find(inner, last(bytes, *number)?.bytes()?, rest),
        Text | Flag => None,
    }
}

fn last(bytes: &[u8], number: u64) -> Option<Value<'_>> {
    Fields(bytes).filter(|(field, _)| *field == number).last().map(|(_, value)| value)
}

/// A field's value on the wire; fixed-size values have no use here.
#[derive(Clone, Copy)]
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Fixed,
}

impl<'a> Value<'a> {
    fn bytes(self) -> Option<&'a [u8]> {
        match self {
            Value::Bytes(bytes) => Some(bytes),
            Value::Number(_) | Value::Fixed => None,
        }
    }
}

/// The fields of a protobuf message in their order; ends at the first byte that makes no sense.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(head)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = (u64, Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Number(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed)?,
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Value::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Value::Fixed)?,
            _ => return None,
        };
        Some((key >> 3, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A field of length-delimited bytes.
    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, u8::try_from(bytes.len()).unwrap()];
        out.extend_from_slice(bytes);
        out
    }

    fn any(name: &str, value: Vec<u8>) -> Any {
        Any { type_url: name.to_owned(), value }
    }

    #[test]
    fn strings_flags_and_messages_are_found() {
        let mut io = field(2, b"/fifo/out");
        io.extend([4 << 3, 1]);
        let mut create = field(1, b"c1");
        create.extend([6 << 3, 0x96, 0x01]);
        create.extend(field(4, &io));
        let event = any("containerd.events.TaskCreate", create);
        assert_eq!(lookup(&event, &["container_id"]).as_deref(), Some("c1"));
        assert_eq!(lookup(&event, &["io", "stdout"]).as_deref(), Some("/fifo/out"));
        assert_eq!(lookup(&event, &["io", "terminal"]).as_deref(), Some("true"));
        assert_eq!(lookup(&event, &["io", "stdin"]), None, "empty is absent");
        assert_eq!(lookup(&event, &["pid"]), None, "numbers are never present");
        assert_eq!(lookup(&event, &["container_id", "x"]), None);
        assert_eq!(lookup(&event, &[]), None);
    }

    #[test]
    fn label_keys_may_have_dots() {
        let entry = [field(1, b"a.b"), field(2, b"v")].concat();
        let update = [field(1, b"img"), field(2, &entry)].concat();
        let event = any("types/containerd.services.images.v1.ImageUpdate", update);
        assert_eq!(lookup(&event, &["labels", "a", "b"]).as_deref(), Some("v"));
        assert_eq!(lookup(&event, &["labels", "a.b"]).as_deref(), Some("v"));
        assert_eq!(lookup(&event, &["labels", "a"]), None);
    }

    #[test]
    fn garbage_and_unknown_types_have_no_fields() {
        assert_eq!(
            lookup(&any("containerd.events.TaskOOM", vec![10, 200, 1]), &["container_id"]),
            None
        );
        assert_eq!(
            lookup(&any("containerd.events.TaskOOM", vec![0xff; 12]), &["container_id"]),
            None
        );
        assert_eq!(lookup(&any("example.Other", field(1, b"x")), &["id"]), None);
    }
}
