//! Topics: `/tasks/exit` and the like.

use std::fmt;
use std::sync::Arc;

use base_ident::validate_identifier;

use crate::EventError;

/// A valid topic: a leading slash, then identifiers joined by slashes. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Topic(Arc<str>);

impl Topic {
    /// Validates `topic`.
    ///
    /// # Errors
    /// One of the topic variants of [`EventError`].
    pub fn new(topic: &str) -> Result<Self, EventError> {
        if topic.is_empty() {
            return Err(EventError::TopicEmpty);
        }
        let Some(path) = topic.strip_prefix('/') else {
            return Err(EventError::TopicRelative(topic.to_owned()));
        };
        if path.is_empty() {
            return Err(EventError::TopicRoot(topic.to_owned()));
        }
        for component in path.split('/') {
            validate_identifier(component).map_err(|source| EventError::TopicComponent {
                topic: topic.to_owned(),
                component: component.to_owned(),
                source,
            })?;
        }
        Ok(Topic(topic.into()))
    }

    /// The topic as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_paths_of_identifiers() {
        for good in ["/tasks/exit", "/a", "/tasks/exec-added", "/a/b/c.d_e"] {
            assert_eq!(Topic::new(good).unwrap().as_str(), good);
        }
        let text =
            |topic: &str| base_errors::Error::from(Topic::new(topic).unwrap_err()).to_string();
        assert_eq!(text(""), "envelope topic \"\": must not be empty: invalid argument");
        assert_eq!(text("a"), "envelope topic \"a\": must start with '/': invalid argument");
        assert_eq!(
            text("/"),
            "envelope topic \"/\": must have at least one component: invalid argument"
        );
        assert_eq!(
            text("/a//b"),
            "envelope topic \"/a//b\": failed validation on component \"\": identifier must not be \
             empty: invalid argument"
        );
        assert!(text("/a/b c").contains("component \"b c\""));
    }
}
