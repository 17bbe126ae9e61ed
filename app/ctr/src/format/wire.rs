//! Messages as JSON, in the form that Go gives to generated types: fields in the order of their
//! description, under their own names, without those that are zero.

use std::collections::BTreeMap;

use api_shim::Any;
use prost::Message as _;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint};
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};

/// How deep messages may nest; ours nest four deep.
const MAX_DEPTH: usize = 32;

/// All messages, by full name without a dot in front.
struct Schema(BTreeMap<String, DescriptorProto>);

impl Schema {
    fn load() -> Option<Schema> {
        let set = FileDescriptorSet::decode(api_grpc::EVERY_DESCRIPTOR_SET).ok()?;
        let mut messages = BTreeMap::new();
        for file in set.file {
            let package = file.package().to_owned();
            for message in file.message_type {
                add(&mut messages, &package, message);
            }
        }
        Some(Schema(messages))
    }
}

fn add(messages: &mut BTreeMap<String, DescriptorProto>, scope: &str, message: DescriptorProto) {
    let name = format!("{scope}.{}", message.name());
    for nested in message.nested_type.iter().cloned() {
        add(messages, &name, nested);
    }
    messages.insert(name, message);
}

/// The value of an `Any`: its message by our descriptions, or the JSON document that it holds.
/// `None` if it is unknown or damaged.
pub(crate) fn any_json(any: &Any) -> Option<String> {
    let name = api_shim::typeurl::name(&any.type_url);
    message_json(name, &any.value).or_else(|| {
        let text = std::str::from_utf8(&any.value).ok()?;
        serde_json::from_str::<&serde_json::value::RawValue>(text).ok()?;
        Some(text.to_owned())
    })
}

/// The message `name` as JSON.
fn message_json(name: &str, value: &[u8]) -> Option<String> {
    let schema = Schema::load()?;
    let mut output = String::new();
    write_message(&schema, name, value, &mut output, 0)?;
    Some(output)
}

/// One value on the wire.
enum Raw<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// All values of a message, by field number, in their order.
fn split(mut bytes: &[u8]) -> Option<BTreeMap<u32, Vec<Raw<'_>>>> {
    let mut fields: BTreeMap<u32, Vec<Raw<'_>>> = BTreeMap::new();
    while !bytes.is_empty() {
        let (number, wire) = decode_key(&mut bytes).ok()?;
        let value = match wire {
            WireType::Varint => Raw::Number(decode_varint(&mut bytes).ok()?),
            WireType::SixtyFourBit => {
                let (value, rest) = bytes.split_first_chunk::<8>()?;
                bytes = rest;
                Raw::Number(u64::from_le_bytes(*value))
            }
            WireType::ThirtyTwoBit => {
                let (value, rest) = bytes.split_first_chunk::<4>()?;
                bytes = rest;
                Raw::Number(u64::from(u32::from_le_bytes(*value)))
            }
            WireType::LengthDelimited => {
                let length = usize::try_from(decode_varint(&mut bytes).ok()?).ok()?;
                let (value, rest) = bytes.split_at_checked(length)?;
                bytes = rest;
                Raw::Bytes(value)
            }
            WireType::StartGroup | WireType::EndGroup => {
                prost::encoding::skip_field(wire, number, &mut bytes, DecodeContext::default())
                    .ok()?;
                continue;
            }
        };
        fields.entry(number).or_default().push(value);
    }
    Some(fields)
}

fn write_message(
    schema: &Schema,
    name: &str,
    bytes: &[u8],
    output: &mut String,
    depth: usize,
) -> Option<()> {
    let message = schema.0.get(name)?;
    if depth > MAX_DEPTH {
        return None;
    }
    let fields = split(bytes)?;
    output.push('{');
    let mut first = true;
    for field in &message.field {
        let number = u32::try_from(field.number()).ok()?;
        let Some(values) = fields.get(&number) else { continue };
        let mut value = String::new();
        if write_field(schema, field, values, &mut value, depth)?.is_empty() {
            continue;
        }
        if !std::mem::take(&mut first) {
            output.push(',');
        }
        output.push_str(&format!("{:?}:{value}", field.name()));
    }
    output.push('}');
    Some(())
}

/// What a field holds.
enum Content {
    Empty,
    Some,
}

impl Content {
    fn is_empty(&self) -> bool {
        matches!(self, Content::Empty)
    }
}

fn write_field(
    schema: &Schema,
    field: &FieldDescriptorProto,
    values: &[Raw<'_>],
    output: &mut String,
    depth: usize,
) -> Option<Content> {
    let type_name = field.type_name().trim_start_matches('.');
    if field.label() != Label::Repeated {
        return write_value(schema, field, values.last()?, output, depth);
    }
    let is_map = schema
        .0
        .get(type_name)
        .is_some_and(|message| message.options.as_ref().is_some_and(|options| options.map_entry()));
    if is_map {
        return write_map(schema, type_name, values, output, depth);
    }
    let mut parts = Vec::new();
    for value in values {
        match value {
            Raw::Bytes(packed) if is_packed(field.r#type()) => {
                let mut packed = *packed;
                while !packed.is_empty() {
                    let number = match width(field.r#type()) {
                        None => decode_varint(&mut packed).ok()?,
                        Some(width) => {
                            let (number, rest) = packed.split_at_checked(width)?;
                            packed = rest;
                            let mut whole = [0_u8; 8];
                            whole[..width].copy_from_slice(number);
                            u64::from_le_bytes(whole)
                        }
                    };
                    let mut part = String::new();
                    write_value(schema, field, &Raw::Number(number), &mut part, depth)?;
                    parts.push(part);
                }
            }
            value => {
                let mut part = String::new();
                write_value(schema, field, value, &mut part, depth)?;
                parts.push(part);
            }
        }
    }
    output.push_str(&format!("[{}]", parts.join(",")));
    Some(if parts.is_empty() { Content::Empty } else { Content::Some })
}

/// A map is an object, sorted by key.
fn write_map(
    schema: &Schema,
    entry: &str,
    values: &[Raw<'_>],
    output: &mut String,
    depth: usize,
) -> Option<Content> {
    let [key_field, value_field] = &schema.0.get(entry)?.field[..] else { return None };
    let mut entries = BTreeMap::new();
    for value in values {
        let Raw::Bytes(bytes) = value else { return None };
        let fields = split(bytes)?;
        let part = |field: &FieldDescriptorProto, number: u32| {
            let mut text = String::new();
            let absent = match field.r#type() {
                Type::Message | Type::String | Type::Bytes => Raw::Bytes(&[]),
                _ => Raw::Number(0),
            };
            let value = fields.get(&number).and_then(|values| values.last()).unwrap_or(&absent);
            write_value(schema, field, value, &mut text, depth)?;
            Some(text)
        };
        let key = part(key_field, 1)?;
        let key = if key.starts_with('"') { key } else { format!("\"{key}\"") };
        entries.insert(key, part(value_field, 2)?);
    }
    let parts: Vec<_> = entries.iter().map(|(key, value)| format!("{key}:{value}")).collect();
    output.push_str(&format!("{{{}}}", parts.join(",")));
    Some(Content::Some)
}

fn is_packed(kind: Type) -> bool {
    !matches!(kind, Type::String | Type::Bytes | Type::Message | Type::Group)
}

fn width(kind: Type) -> Option<usize> {
    match kind {
        Type::Fixed32 | Type::Sfixed32 | Type::Float => Some(4),
        Type::Fixed64 | Type::Sfixed64 | Type::Double => Some(8),
        _ => None,
    }
}

fn write_value(
    schema: &Schema,
    field: &FieldDescriptorProto,
    value: &Raw<'_>,
    output: &mut String,
    depth: usize,
) -> Option<Content> {
    let empty = match value {
        Raw::Number(number) => *number == 0,
        Raw::Bytes(bytes) => bytes.is_empty() && field.r#type() != Type::Message,
    };
    match (field.r#type(), value) {
        (Type::Message, Raw::Bytes(bytes)) => {
            let name = field.type_name().trim_start_matches('.');
            write_message(schema, name, bytes, output, depth + 1)?;
        }
        (Type::String, Raw::Bytes(bytes)) => {
            let text = std::str::from_utf8(bytes).ok()?;
            output.push_str(&serde_json::to_string(text).ok()?);
        }
        (Type::Bytes, Raw::Bytes(bytes)) => output.push_str(&format!("\"{}\"", base64(bytes))),
        (Type::Bool, Raw::Number(number)) => {
            output.push_str(if *number == 0 { "false" } else { "true" });
        }
        (Type::Int32 | Type::Int64 | Type::Enum | Type::Sfixed64, Raw::Number(number)) => {
            output.push_str(&number.cast_signed().to_string());
        }
        (Type::Sint32 | Type::Sint64, Raw::Number(number)) => {
            let number = (number >> 1).cast_signed() ^ -(number & 1).cast_signed();
            output.push_str(&number.to_string());
        }
        (Type::Double, Raw::Number(number)) => {
            output.push_str(&f64::from_bits(*number).to_string());
        }
        (_, Raw::Number(number)) => output.push_str(&number.to_string()),
        (_, Raw::Bytes(_)) => return None,
    }
    Some(if empty { Content::Empty } else { Content::Some })
}

/// Base64 with padding, as Go writes bytes.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for block in bytes.chunks(3) {
        let byte = |index: usize| u32::from(block.get(index).copied().unwrap_or(0));
        let whole = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4_usize {
            if place > block.len() {
                text.push('=');
            } else {
                let index = usize::try_from(whole >> (18 - 6 * place) & 63).unwrap_or(0);
                text.push(char::from(LETTERS[index]));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use api_shim::{cgroups, events, types, typeurl};

    #[test]
    fn events_as_go_writes_them() {
        let exit = events::TaskExit {
            container_id: "c<\"".to_owned(),
            id: "x".to_owned(),
            pid: 0,
            exit_status: 137,
            exited_at: Some(prost_types::Timestamp { seconds: 5, nanos: 0 }),
        };
        assert_eq!(
            any_json(&typeurl::encode(&exit)).unwrap(),
            r#"{"container_id":"c<\"","id":"x","exit_status":137,"exited_at":{"seconds":5}}"#
        );
        let update = events::ContainerUpdate {
            id: "f".to_owned(),
            labels: [("b".to_owned(), String::new()), ("a".to_owned(), "1".to_owned())].into(),
            ..events::ContainerUpdate::default()
        };
        assert_eq!(
            any_json(&typeurl::encode(&update)).unwrap(),
            r#"{"id":"f","labels":{"a":"1","b":""}}"#
        );
        let create = events::TaskCreate {
            rootfs: vec![types::Mount {
                r#type: "bind".to_owned(),
                options: vec!["ro".to_owned(), "x".to_owned()],
                ..types::Mount::default()
            }],
            ..events::TaskCreate::default()
        };
        assert_eq!(
            any_json(&typeurl::encode(&create)).unwrap(),
            r#"{"rootfs":[{"type":"bind","options":["ro","x"]}]}"#
        );
    }

    #[test]
    fn metrics_keep_packed_numbers_and_empty_messages() {
        let metrics = cgroups::v1::Metrics {
            cpu: Some(cgroups::v1::CpuStat {
                usage: Some(cgroups::v1::CpuUsage {
                    total: 300,
                    per_cpu: vec![1, 299],
                    ..cgroups::v1::CpuUsage::default()
                }),
                throttling: Some(cgroups::v1::Throttle::default()),
            }),
            ..cgroups::v1::Metrics::default()
        };
        assert_eq!(
            any_json(&typeurl::encode(&metrics)).unwrap(),
            r#"{"cpu":{"usage":{"total":300,"per_cpu":[1,299]},"throttling":{}}}"#
        );
    }

    #[test]
    fn damage_is_no_panic() {
        let any = |value: &[u8]| Any {
            type_url: "containerd.events.TaskExit".to_owned(),
            value: value.to_vec(),
        };
        for bad in [&b"\x0a\xff"[..], b"\x0a\x05a", b"\xff", b"\x0b"] {
            assert!(any_json(&any(bad)).is_none());
        }
        let json = Any { type_url: "x/Spec".to_owned(), value: b"{\"a\":1}".to_vec() };
        assert_eq!(any_json(&json).unwrap(), "{\"a\":1}");
    }

    #[test]
    fn base64_is_padded() {
        let table =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")];
        for (bytes, text) in table {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }
}
