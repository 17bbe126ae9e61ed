//! Paths of field masks: which fields of an object an Update request changes.

use crate::labels::Labels;

/// One path of a field mask: a field, or one entry of a field that is a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldPath<'a> {
    /// The whole field: `labels`.
    Whole(&'a str),
    /// One entry: `labels.a.b` is the entry `a.b` of `labels`.
    Entry(&'a str, &'a str),
}

impl<'a> FieldPath<'a> {
    /// Splits `path` at its first dot; everything behind it is the key, dots and all.
    #[must_use]
    pub fn parse(path: &'a str) -> Self {
        match path.split_once('.') {
            Some((field, key)) => FieldPath::Entry(field, key),
            None => FieldPath::Whole(path),
        }
    }
}

/// Takes `key` of `labels` over from `changes`: an empty or absent value removes it.
pub fn apply_label(labels: &mut Labels, key: &str, changes: &Labels) {
    match changes.get(key) {
        Some(value) if !value.is_empty() => {
            labels.insert(key.to_owned(), value.clone());
        }
        _ => {
            labels.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_split_at_the_first_dot() {
        assert_eq!(FieldPath::parse("labels"), FieldPath::Whole("labels"));
        assert_eq!(FieldPath::parse("labels.a.b"), FieldPath::Entry("labels", "a.b"));
        assert_eq!(FieldPath::parse("labels."), FieldPath::Entry("labels", ""));
    }

    #[test]
    fn an_empty_value_removes_the_label() {
        let mut labels = Labels::from([("a".to_owned(), "1".to_owned())]);
        let changes =
            Labels::from([("b".to_owned(), "2".to_owned()), ("a".to_owned(), String::new())]);
        apply_label(&mut labels, "b", &changes);
        assert_eq!(labels.len(), 2);
        apply_label(&mut labels, "a", &changes);
        apply_label(&mut labels, "c", &changes);
        assert_eq!(labels, Labels::from([("b".to_owned(), "2".to_owned())]));
    }
}
