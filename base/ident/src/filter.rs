//! The filter language of List and Subscribe requests.
//!
//! ```text
//! filter    = selector { "," selector }            all selectors must match
//! selector  = fieldpath [ operator value ]         without an operator: the field is present
//! fieldpath = field { "." field }
//! field     = [A-Za-z0-9_]+ | quoted
//! operator  = "==" | "!=" | "~="                   "~=" takes a regular expression
//! value     = run of visible characters without "," | quoted
//! quoted    = "…" with the escapes of Go; behind "~=" also /…/ and |…|
//! ```
//!
//! A request has a list of filters, of which one must match; an empty list matches everything, and
//! so does an empty filter. Grammar and error texts are those of containerd's `filters` package.

mod parse;
mod scan;
mod unquote;

use std::collections::BTreeMap;

use regex::Regex;

use crate::identifier::IdentError;

/// The most bytes that all filters of a request may have together: far beyond any client's use, and
/// small enough that parsing stays in the microseconds.
pub const MAX_FILTER: usize = 256 << 10;

/// The most regular expressions in one request; each may take [`MAX_REGEX`] bytes when compiled.
pub const MAX_REGEXES: usize = 64;

/// The most bytes of one compiled regular expression.
pub const MAX_REGEX: usize = 1 << 20;

/// An object that filters can look into.
pub trait Adaptor {
    /// The value at a field path such as `["labels", "a", "b"]`; `None` if it is not present.
    ///
    /// Fields below a map arrive as the parts that the filter had; a map joins them with `.`, as
    /// [`map_field`] does.
    fn field(&self, path: &[&str]) -> Option<String>;
}

/// Adaptors from closures, for events and tests.
impl<F: Fn(&[&str]) -> Option<String>> Adaptor for F {
    fn field(&self, path: &[&str]) -> Option<String> {
        self(path)
    }
}

/// The value that a map (labels, annotations) has for the parts of a path behind its own name.
///
/// The parts are joined with `.`, so that `labels.a.b` and `labels."a.b"` are the same label.
#[must_use]
pub fn map_field(map: &BTreeMap<String, String>, parts: &[&str]) -> Option<String> {
    match parts {
        [] => None,
        [key] => map.get(*key).cloned(),
        parts => map.get(&parts.join(".")).cloned(),
    }
}

/// A parsed list of filters: matches if any of them does, or if there is none.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    any: Vec<Vec<Selector>>,
}

/// One condition on one field.
#[derive(Clone, Debug)]
struct Selector {
    path: Vec<String>,
    test: Test,
}

/// What a selector asks of the field's value.
#[derive(Clone, Debug)]
enum Test {
    Present,
    Equal(String),
    NotEqual(String),
    Matches(Regex),
    /// COMPAT: a regular expression that does not compile matches nothing and is no error.
    Never,
}

impl Filter {
    /// Parses the filters of a List or Subscribe request.
    ///
    /// # Errors
    /// [`IdentError::Filter`] with the position of the fault, [`IdentError::FilterTooLarge`] beyond
    /// [`MAX_FILTER`] or [`MAX_REGEXES`].
    pub fn parse_all<S: AsRef<str>>(expressions: &[S]) -> Result<Self, IdentError> {
        // Each filter costs one byte more, so that empty ones are bounded as well.
        let size: usize = expressions.iter().map(|text| text.as_ref().len() + 1).sum();
        if size > MAX_FILTER {
            return Err(IdentError::FilterTooLarge);
        }
        let mut regexes = 0;
        let any = expressions
            .iter()
            .map(|text| parse::filter(text.as_ref(), &mut regexes))
            .collect::<Result<_, _>>()?;
        Ok(Filter { any })
    }

    /// True if `object` matches any filter, or there is none.
    #[must_use]
    pub fn matches(&self, object: &dyn Adaptor) -> bool {
        self.any.is_empty()
            || self.any.iter().any(|all| all.iter().all(|selector| selector.matches(object)))
    }

    /// True if there is nothing that an object could fail, so that it need not be looked at.
    #[must_use]
    pub fn matches_all(&self) -> bool {
        self.any.is_empty() || self.any.iter().any(Vec::is_empty)
    }
}

impl Selector {
    fn matches(&self, object: &dyn Adaptor) -> bool {
        if matches!(self.test, Test::Never) {
            return false;
        }
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        let value = object.field(&path);
        match &self.test {
            Test::Never => false,
            Test::Present => value.is_some(),
            Test::Equal(wanted) => value.as_deref() == Some(wanted),
            // COMPAT: an absent field counts as empty for `!=` and `~=`.
            Test::NotEqual(unwanted) => value.unwrap_or_default() != *unwanted,
            Test::Matches(regex) => regex.is_match(&value.unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn object(path: &[&str]) -> Option<String> {
        let labels = BTreeMap::from([
            ("a.b".to_owned(), "dotted".to_owned()),
            ("env".to_owned(), "prod,east".to_owned()),
            ("empty".to_owned(), String::new()),
            ("io.x/y-z".to_owned(), "1".to_owned()),
        ]);
        match path {
            ["name"] => Some("docker.io/library/alpine:3.20".to_owned()),
            ["labels", parts @ ..] => map_field(&labels, parts),
            _ => None,
        }
    }

    fn matches(filters: &[&str]) -> bool {
        Filter::parse_all(filters).expect("filter").matches(&object)
    }

    fn fault(filter: &str) -> String {
        Filter::parse_all(&[filter]).expect_err(filter).to_string()
    }

    #[test]
    fn no_filter_matches_everything() {
        assert!(matches(&[]));
        assert!(matches(&[""]));
        assert!(Filter::parse_all(&["", "name==x"]).expect("filter").matches_all());
        assert!(!Filter::parse_all(&["name==x"]).expect("filter").matches_all());
    }

    #[test]
    fn presence() {
        assert!(matches(&["name"]));
        assert!(matches(&["labels.empty"]));
        assert!(!matches(&["labels.absent"]));
        assert!(!matches(&["labels"]));
        assert!(!matches(&["other"]));
    }

    #[test]
    fn operators() {
        assert!(matches(&["name==docker.io/library/alpine:3.20"]));
        assert!(!matches(&["name==docker.io"]));
        assert!(matches(&["name!=x"]));
        assert!(!matches(&["name!=docker.io/library/alpine:3.20"]));
        assert!(matches(&["labels.absent!=x"]));
        assert!(!matches(&[r#"labels.absent=="""#]));
        assert!(matches(&[r#"labels.empty=="""#]));
        assert!(matches(&["name~=alpine"]));
        assert!(matches(&["name~=^docker.*[0-9]+$"]));
        assert!(matches(&["labels.absent~=^$"]));
    }

    #[test]
    fn quotes() {
        assert!(matches(&[r#"labels.env=="prod,east""#]));
        assert!(matches(&[r#"labels."a.b"==dotted"#]));
        assert!(matches(&["labels.a.b==dotted"]));
        assert!(matches(&[r#"labels."io.x/y-z"==1"#]));
        assert!(matches(&[r#"labels.env=="\x70rod\u002ceast""#]));
        assert!(matches(&["labels.env~=/prod,(east|west)/"]));
        assert!(matches(&["labels.env~=|prod,e|"]));
        assert!(matches(&[r"name~=/library\/al/"]));
        assert!(matches(&[r"name~=/alpine:3\\.20/"]));
    }

    #[test]
    fn all_of_a_filter_any_of_a_list() {
        assert!(matches(&["name,labels.env"]));
        assert!(!matches(&["name,labels.absent"]));
        assert!(matches(&["labels.absent", "name"]));
        assert!(matches(&["name == docker.io/library/alpine:3.20, labels.env"]));
    }

    #[test]
    fn a_broken_regular_expression_matches_nothing() {
        assert!(!matches(&["name~=("]));
        assert!(matches(&["name~=(", "name"]));
    }

    #[test]
    fn faults_show_their_place() {
        assert_eq!(
            fault("name=x"),
            r#"filters: parse error: [name >|=|< x]: unsupported operator "=""#
        );
        assert_eq!(fault("name,"), "filters: parse error: [name,]: expected field or quoted");
        assert_eq!(fault("-name"), "filters: parse error: [ >|-|< name]: expected field or quoted");
        assert_eq!(
            fault("name==/x/"),
            "filters: parse error: [name== >|/|< x/]: invalid quote encountered"
        );
        assert_eq!(
            fault(r#"name=="x"#),
            r#"filters: parse error: [name== >|"|< x]: quoted literal not terminated"#
        );
        assert_eq!(
            fault(r#"name=="\q""#),
            r#"filters: parse error: [name== >|"|< \q"]: illegal escape sequence"#
        );
        assert_eq!(
            fault("name foo"),
            r#"filters: parse error: [name  >|f|< oo]: expected an operator ("=="|"!="|"~=")"#
        );
        assert_eq!(fault("name\u{0}"), "filters: parse error: [name >|\u{0}|< ]: unexpected null");
    }

    #[test]
    fn bounded() {
        let long = "a,".repeat(MAX_FILTER);
        assert_eq!(Filter::parse_all(&[long]).expect_err("long"), IdentError::FilterTooLarge);
        let many = vec!["name~=a"; MAX_REGEXES + 1];
        assert_eq!(Filter::parse_all(&many).expect_err("many"), IdentError::FilterTooLarge);
        let empty = vec![""; MAX_FILTER + 1];
        assert_eq!(Filter::parse_all(&empty).expect_err("empty"), IdentError::FilterTooLarge);
        let deep = format!("name~=\"{}\"", "(".repeat(10_000));
        assert!(!matches(&[&deep]));
        assert!(!matches(&["name~=((a{1000}){1000}){1000}"]));
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,40}") {
            let _ = Filter::parse_all(&[text]).map(|filter| filter.matches(&object));
        }

        #[test]
        fn never_panics_on_near_filters(text in "[a\"/|\\\\.,=!~x0-9 \n\u{0}é]{0,24}") {
            let _ = Filter::parse_all(&[text]).map(|filter| filter.matches(&object));
        }

        #[test]
        fn a_quoted_value_is_read_back(value in "\\PC{0,20}") {
            let quoted: String = value.chars().map(|c| match c {
                '"' | '\\' => format!("\\{c}"),
                c if c.is_ascii() => c.to_string(),
                c => format!("\\U{:08x}", u32::from(c)),
            }).collect();
            let filter = Filter::parse_all(&[format!("x==\"{quoted}\"")]).expect("filter");
            prop_assert!(filter.matches(&|_: &[&str]| Some(value.clone())));
        }
    }
}
