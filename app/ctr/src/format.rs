//! Layouts that commands share: tables, sizes, times, JSON, errors.

mod json;
mod size;
mod tab_writer;
mod time;
mod wire;

use std::collections::BTreeMap;

use base_errors::{Class, Error};

pub(crate) use json::{indented, print_indented};
pub(crate) use size::{bytes, human_size};
pub(crate) use tab_writer::TabWriter;
pub(crate) use time::{
    checkpoint_time, go_time, human_duration, local_seconds, parse_duration, rfc3339,
    rfc3339_seconds, since,
};
pub(crate) use wire::{any_json, base64};

/// The text of an error. A text that ends with its class as a word gets no second one.
pub(crate) fn error(error: &Error) -> String {
    let message = error.message();
    let ends = !message.is_empty()
        && error.class() != Class::Unknown
        && message.ends_with(&format!(" {}", error.class().text()));
    if ends { message.to_owned() } else { error.to_string() }
}

/// `key=value` pairs, sorted and joined by commas; `empty` if there are none.
pub(crate) fn labels(labels: &BTreeMap<String, String>, empty: &str) -> String {
    if labels.is_empty() {
        return empty.to_owned();
    }
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

/// Labels from words `key=value`; a word without a value means `true`.
pub(crate) fn parse_labels(words: &[String]) -> BTreeMap<String, String> {
    words
        .iter()
        .map(|word| match word.split_once('=') {
            Some((key, value)) => (key.to_owned(), value.to_owned()),
            None => (word.clone(), "true".to_owned()),
        })
        .collect()
}

/// The field paths that change just these labels.
pub(crate) fn label_paths(labels: &BTreeMap<String, String>) -> prost_types::FieldMask {
    let paths = labels.keys().map(|key| format!("labels.{key}")).collect();
    prost_types::FieldMask { paths }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_do_not_stammer() {
        let text = |message: &str| error(&Error::not_found(message));
        assert_eq!(text("task f2 not found"), "task f2 not found");
        assert_eq!(text("image \"x\""), "image \"x\": not found");
        assert_eq!(text("image \"x\": not found"), "image \"x\": not found");
        assert_eq!(text(""), "not found");
        assert_eq!(error(&Error::unknown("exit status 1")), "exit status 1");
        let io = Error::from(std::io::Error::from_raw_os_error(libc::EPIPE)).context("write");
        assert_eq!(error(&io), "write: broken pipe");
    }

    #[test]
    fn labels_of_words() {
        let words = ["a=b".to_owned(), "c".to_owned(), "d=".to_owned(), "e=f=g".to_owned()];
        let parsed = parse_labels(&words);
        assert_eq!(labels(&parsed, "-"), "a=b,c=true,d=,e=f=g");
        assert_eq!(labels(&BTreeMap::new(), "-"), "-");
        assert_eq!(label_paths(&parsed).paths[0], "labels.a");
    }
}
