//! The answer to a call that failed: `google.rpc.Status`.

use std::fmt;

use base_errors::{Class, Coded};
use prost_types::Any;

use crate::code;

/// A code, a message and details; on the wire `google.rpc.Status`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Status {
    /// One of [`crate::code`].
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// For people; it ends with the text of the class.
    #[prost(string, tag = "2")]
    pub message: String,
    /// Whatever the server adds for programs.
    #[prost(message, repeated, tag = "3")]
    pub details: Vec<Any>,
}

impl prost::Name for Status {
    const NAME: &'static str = "Status";
    const PACKAGE: &'static str = "google.rpc";
}

impl Status {
    /// A status without details.
    #[must_use]
    pub fn new(code: i32, message: impl Into<String>) -> Self {
        Status { code, message: message.into(), details: Vec::new() }
    }

    /// The method or service is not there.
    #[must_use]
    pub fn unimplemented(message: impl Into<String>) -> Self {
        Status::new(code::UNIMPLEMENTED, message)
    }

    /// The request can never work.
    #[must_use]
    pub fn invalid_argument(message: impl Into<String>) -> Self {
        Status::new(code::INVALID_ARGUMENT, message)
    }

    /// The object does not exist.
    #[must_use]
    pub fn not_found(message: impl Into<String>) -> Self {
        Status::new(code::NOT_FOUND, message)
    }

    /// The connection has ended; the text is Go's.
    #[must_use]
    pub fn closed() -> Self {
        Status::new(code::UNAVAILABLE, "ttrpc: closed")
    }

    /// The caller's time ran out; the text is Go's.
    #[must_use]
    pub fn deadline_exceeded() -> Self {
        Status::new(code::DEADLINE_EXCEEDED, Class::DeadlineExceeded.text())
    }

    /// The class of the error, from the code and the end of the message.
    #[must_use]
    pub fn class(&self) -> Class {
        code::to_class(self.code, &self.message)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.message.is_empty() {
            f.write_str(self.class().text())
        } else {
            f.write_str(&self.message)
        }
    }
}

impl std::error::Error for Status {}

/// Makes `?` and `From` turn a status into a [`base_errors::Error`] of the same class and text.
impl Coded for Status {
    fn class(&self) -> Class {
        Status::class(self)
    }
}

impl From<base_errors::Error> for Status {
    fn from(error: base_errors::Error) -> Self {
        Status::new(code::from_class(error.class()), error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_survive_the_wire() {
        for class in Class::ALL {
            for text in ["", "container \"x\""] {
                let error = base_errors::Error::new(class, text);
                let status = Status::from(error);
                let back = base_errors::Error::from(status.clone());
                assert_eq!(back.class(), class);
                assert_eq!(back.to_string(), status.message);
            }
        }
    }
}
