//! The labels that the collector reads.
//!
//! ```text
//! containerd.io/gc.ref.content[.x]                digest      needs that blob
//! containerd.io/gc.ref.image[.x]                  name        needs that image
//! containerd.io/gc.ref.snapshot.<snapshotter>[/x] key         needs that snapshot
//! containerd.io/gc.bref.{container,content,image}[.x], .snapshot.<snapshotter>[/x]
//!                                                 name        lives as long as that one
//! containerd.io/gc.root                           any         is a root
//! containerd.io/gc.cond.snapshot.<snapshotter>[/x]  conditions|key
//!                                                 lives as long as that snapshot, while a
//!                                                 condition on the snapshot's values holds
//! containerd.io/gc.cond.value-usedat              RFC 3339    the snapshot's value `usedat`
//! ```
//!
//! A suffix `x` begins with `.` or `/` and only makes keys differ.

use std::time::{Duration, SystemTime};

use base_ident::timestamp;
use store_bolt::{Bucket, Entry};

use super::mark::{Kind, Node};
use crate::Result;
use crate::schema::LABELS;

const PREFIX: &[u8] = b"containerd.io/gc.";

/// What a label says of its object, which is in `namespace`.
pub(super) enum Label<'a> {
    /// The object needs the node.
    Needs(Node<'a>),
    /// The object lives as long as the node.
    LivesWith(Node<'a>),
    /// The object is a root.
    Root,
    /// The object lives as long as the snapshot, while its value `usedat` meets the condition.
    LivesWhile(Node<'a>, UsedAt),
    /// The object's value `usedat`.
    Used(SystemTime),
}

/// A condition on how long ago a snapshot was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UsedAt {
    /// True for `<`, false for `>`.
    less: bool,
    nanos: i128,
}

impl UsedAt {
    /// Whether the condition holds `now` for something used at `used`.
    pub(super) fn holds(self, used: SystemTime, now: SystemTime) -> bool {
        let nanos = |duration: Duration| i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX);
        let age = match now.duration_since(used) {
            Ok(age) => nanos(age),
            Err(ahead) => -nanos(ahead.duration()),
        };
        if self.less { age < self.nanos } else { age > self.nanos }
    }
}

/// Hands the collector's labels of the object in `object` to `take`.
pub(super) fn scan<'a>(
    namespace: &'a [u8],
    object: Bucket<'a>,
    mut take: impl FnMut(Label<'a>),
) -> Result<()> {
    let Some(labels) = object.bucket(LABELS)? else { return Ok(()) };
    for entry in labels.range_from(PREFIX) {
        let (key, entry) = entry?;
        let Some(name) = key.strip_prefix(PREFIX) else { break };
        if let Entry::Value(value) = entry {
            parse(namespace, name, value, &mut take);
        }
    }
    Ok(())
}

/// The text behind `prefix`, if it is empty or a suffix.
fn named(name: &[u8], prefix: &[u8]) -> bool {
    name.strip_prefix(prefix).is_some_and(|rest| matches!(rest.first(), None | Some(b'.' | b'/')))
}

/// A snapshotter's name, without the suffix.
fn snapshotter(rest: &[u8]) -> &[u8] {
    rest.split(|byte| *byte == b'/').next().unwrap_or_default()
}

fn parse<'a>(
    namespace: &'a [u8],
    name: &'a [u8],
    value: &'a [u8],
    take: &mut impl FnMut(Label<'a>),
) {
    let node = |kind| Node { kind, namespace, snapshotter: b"", key: value };
    let snapshot =
        |rest, key| Node { kind: Kind::Snapshot, namespace, snapshotter: snapshotter(rest), key };
    if let Some(reference) = name.strip_prefix(b"ref.") {
        if named(reference, b"content") {
            take(Label::Needs(node(Kind::Content)));
        } else if named(reference, b"image") {
            take(Label::Needs(node(Kind::Image)));
        } else if let Some(rest) = reference.strip_prefix(b"snapshot.") {
            take(Label::Needs(snapshot(rest, value)));
        }
    } else if let Some(reference) = name.strip_prefix(b"bref.") {
        if named(reference, b"container") {
            take(Label::LivesWith(node(Kind::Container)));
        } else if named(reference, b"content") {
            take(Label::LivesWith(node(Kind::Content)));
        } else if named(reference, b"image") {
            take(Label::LivesWith(node(Kind::Image)));
        } else if let Some(rest) = reference.strip_prefix(b"snapshot.") {
            take(Label::LivesWith(snapshot(rest, value)));
        }
    } else if name.starts_with(b"root") {
        take(Label::Root);
    } else if let Some(rest) = name.strip_prefix(b"cond.snapshot") {
        let start = rest.iter().position(|byte| !matches!(byte, b'.' | b'/'));
        let rest = start.map_or(&b""[..], |start| &rest[start..]);
        let Some(bar) = value.iter().position(|byte| *byte == b'|') else { return };
        let on = snapshot(rest, &value[bar + 1..]);
        for condition in value[..bar].split(|byte| *byte == b',') {
            if let Some(condition) = used_at(condition) {
                take(Label::LivesWhile(on, condition));
            }
        }
    } else if name.starts_with(b"cond.value-usedat")
        && let Ok(text) = std::str::from_utf8(value)
        && let Ok(time) = timestamp::parse(text)
    {
        take(Label::Used(time));
    }
}

/// Reads `usedat<5m`; other conditions are ignored.
fn used_at(condition: &[u8]) -> Option<UsedAt> {
    let text = std::str::from_utf8(condition).ok()?;
    let at = text.find(['<', '>', '='])?;
    let (name, rest) = text.split_at(at);
    let less = match (name, rest.as_bytes().first()?) {
        ("usedat", b'<') => true,
        ("usedat", b'>') => false,
        _ => return None,
    };
    Some(UsedAt { less, nanos: duration(&rest[1..])? })
}

/// Reads a duration as Go writes it: `1h30m`, `1.5s`, `-2us`.
fn duration(text: &str) -> Option<i128> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut nanos = 0i128;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let unit = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let mut value = 0i128;
        for digit in whole.bytes() {
            value = value.checked_mul(10)?.checked_add(i128::from(digit.checked_sub(b'0')?))?;
        }
        nanos = nanos.checked_add(value.checked_mul(unit)?)?;
        let mut scale = unit;
        for digit in fraction.bytes() {
            scale /= 10;
            nanos = nanos
                .checked_add(i128::from(digit.checked_sub(b'0').filter(|d| *d < 10)?) * scale)?;
        }
        rest = tail;
    }
    // Go's durations end at the range of 64 bits.
    i64::try_from(nanos).ok()?;
    Some(if negative { -nanos } else { nanos })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_of_go() {
        assert_eq!(duration("5m"), Some(300_000_000_000));
        assert_eq!(duration("1h30m"), Some(5_400_000_000_000));
        assert_eq!(duration("1.5s"), Some(1_500_000_000));
        assert_eq!(duration(".5s"), Some(500_000_000));
        assert_eq!(duration("-2us"), Some(-2_000));
        assert_eq!(duration("0"), Some(0));
        for bad in ["", "5", "m", "-", "1.2.3s", ".s", "99999999999h", "1x"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn conditions() {
        assert_eq!(used_at(b"usedat<5m"), Some(UsedAt { less: true, nanos: 300_000_000_000 }));
        assert_eq!(used_at(b"usedat=5m"), None);
        assert_eq!(used_at(b"size<5m"), None);
        assert_eq!(used_at(b"usedat<x"), None);
        let now = SystemTime::now();
        let before = now - Duration::from_secs(60);
        let less = used_at(b"usedat<5m").expect("condition");
        assert!(less.holds(before, now));
        assert!(!less.holds(now - Duration::from_secs(600), now));
        assert!(!used_at(b"usedat>5m").expect("condition").holds(before, now));
    }

    proptest! {
        #[test]
        fn never_panics(text in "[-+0-9.hmsnuµ<>=usedat]{0,12}") {
            let _ = duration(&text);
            let _ = used_at(text.as_bytes());
        }
    }
}
