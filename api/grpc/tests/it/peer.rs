//! Our descriptions against those that a real containerd carries in its program file: each
//! message, field number, enum value and method of theirs must be ours as well.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use prost::Message;
use prost::encoding::decode_varint;
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet};

/// Ours, everything.
const EVERY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/every.bin"));

/// Packages that are compared.
const PACKAGES: [&str; 3] = ["containerd.", "io.containerd.cgroups.", "runtimeoptions."];

/// Theirs, and not on any wire that we speak: options for Go's code generator, and the messages of
/// task v2, which we take from v3 because their bodies are equal (checked under v3's name).
const ABSENT: [&str; 1] = ["containerd.types.fieldpath"];

#[test]
fn numbers_and_methods_are_those_of_containerd() {
    let Some(peers) = std::env::var_os("IRONHULL_PEERS") else {
        println!("skipped: IRONHULL_PEERS is not set, no containerd to compare with");
        return;
    };
    let program = Path::new(&peers).join("forky/usr/bin/containerd");
    let Ok(bytes) = std::fs::read(&program) else {
        println!("skipped: no {}", program.display());
        return;
    };
    let theirs = facts(descriptors(&bytes).iter());
    let ours = FileDescriptorSet::decode(EVERY).unwrap();
    let ours = facts(ours.file.iter());
    assert!(theirs.len() > 800, "only {} facts found in {}", theirs.len(), program.display());

    let mut wrong = BTreeSet::new();
    for (name, fact) in &theirs {
        if ABSENT.iter().any(|absent| name.starts_with(absent)) {
            continue;
        }
        // The messages of v2 are those of v3 here.
        let same = |name: &str| name.replace("containerd.task.v2.", "containerd.task.v3.");
        let found = ours.get(name).or_else(|| ours.get(&same(name)));
        if found.map(|found| same(found)) != Some(same(fact)) {
            wrong.insert(format!("{name}: theirs {fact}, ours {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// One line for each field, enum value and method, by full name.
fn facts<'a>(files: impl Iterator<Item = &'a FileDescriptorProto>) -> BTreeMap<String, String> {
    let mut facts = BTreeMap::new();
    for file in files {
        let package = file.package();
        if !PACKAGES.iter().any(|known| package.starts_with(known)) {
            continue;
        }
        for message in &file.message_type {
            message_facts(package, message, &mut facts);
        }
        for item in &file.enum_type {
            enum_facts(package, item, &mut facts);
        }
        for service in &file.service {
            for method in &service.method {
                facts.insert(
                    format!("{package}.{}/{}", service.name(), method.name()),
                    format!(
                        "{} {} -> {} {}",
                        method.client_streaming(),
                        method.input_type(),
                        method.server_streaming(),
                        method.output_type()
                    ),
                );
            }
        }
    }
    facts
}

fn message_facts(scope: &str, message: &DescriptorProto, facts: &mut BTreeMap<String, String>) {
    let scope = format!("{scope}.{}", message.name());
    facts.insert(scope.clone(), "message".to_owned());
    for field in &message.field {
        facts.insert(
            format!("{scope}.{}", field.name()),
            format!(
                "{} {:?} {:?} {}",
                field.number(),
                field.label(),
                field.r#type(),
                field.type_name()
            ),
        );
    }
    for nested in &message.nested_type {
        message_facts(&scope, nested, facts);
    }
    for item in &message.enum_type {
        enum_facts(&scope, item, facts);
    }
}

fn enum_facts(scope: &str, item: &EnumDescriptorProto, facts: &mut BTreeMap<String, String>) {
    for value in &item.value {
        facts.insert(
            format!("{scope}.{}.{}", item.name(), value.name()),
            value.number().to_string(),
        );
    }
}

/// All file descriptors in a Go program: they lie there encoded, one after the name of its file,
/// and end with their syntax.
fn descriptors(program: &[u8]) -> Vec<FileDescriptorProto> {
    const SUFFIX: &[u8] = b".proto";
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    for (end, _) in program.windows(SUFFIX.len()).enumerate().filter(|(_, w)| *w == SUFFIX) {
        let end = end + SUFFIX.len();
        // The name is a field of its own: tag 0x0a, length, text.
        let Some(start) = (3..=127).map(|length| end.saturating_sub(length)).find(|start| {
            *start >= 2
                && program[start - 2] == 0x0a
                && usize::from(program[start - 1]) == end - start
        }) else {
            continue;
        };
        let Some(length) = descriptor_length(&program[start - 2..]) else { continue };
        let bytes = &program[start - 2..start - 2 + length];
        if let Ok(file) = FileDescriptorProto::decode(bytes)
            && seen.insert(file.name().to_owned())
        {
            found.push(file);
        }
    }
    found
}

/// Length of the file descriptor that begins here: up to its syntax, field 12. `None` if it is
/// proto2, which has no such field: then the name of another file follows.
fn descriptor_length(bytes: &[u8]) -> Option<usize> {
    let mut rest = bytes;
    loop {
        let tag = decode_varint(&mut rest).ok()?;
        let again = tag >> 3 == 1 && bytes.len() - rest.len() > 1;
        if tag & 7 != 2 || again {
            return None;
        }
        let length = usize::try_from(decode_varint(&mut rest).ok()?).ok()?;
        rest = rest.get(length..)?;
        if tag >> 3 == 12 {
            return Some(bytes.len() - rest.len());
        }
    }
}
