//! The classes of errors that a client can tell apart.

use std::fmt;

/// What kind of failure an error is; containerd's sixteen classes, and the two of an ended context.
///
/// The text of a class is what clients look for at the end of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Nothing is known about the failure. It has no text of its own in a message.
    Unknown,
    /// The caller sent something that can never work.
    InvalidArgument,
    /// The object does not exist.
    NotFound,
    /// The object exists already.
    AlreadyExists,
    /// The caller may not do this.
    PermissionDenied,
    /// Space, memory or a quota has run out.
    ResourceExhausted,
    /// The object is not in the state that the call needs.
    FailedPrecondition,
    /// Two changes contradict each other.
    Conflict,
    /// Nothing was changed, as asked.
    NotModified,
    /// The operation was given up because of another one.
    Aborted,
    /// A position beyond the end.
    OutOfRange,
    /// This part is not built here.
    NotImplemented,
    /// A fault of our own.
    Internal,
    /// Not now; a later try may work.
    Unavailable,
    /// Data is lost or damaged.
    DataLoss,
    /// The caller is not known.
    Unauthenticated,
    /// The caller went away.
    Cancelled,
    /// The caller's time ran out.
    DeadlineExceeded,
}

impl Class {
    /// All classes, for tables in tests.
    pub const ALL: [Class; 18] = [
        Class::Unknown,
        Class::InvalidArgument,
        Class::NotFound,
        Class::AlreadyExists,
        Class::PermissionDenied,
        Class::ResourceExhausted,
        Class::FailedPrecondition,
        Class::Conflict,
        Class::NotModified,
        Class::Aborted,
        Class::OutOfRange,
        Class::NotImplemented,
        Class::Internal,
        Class::Unavailable,
        Class::DataLoss,
        Class::Unauthenticated,
        Class::Cancelled,
        Class::DeadlineExceeded,
    ];

    /// The text that ends a message of this class, as containerd's `errdefs` spells it.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Class::Unknown => "unknown",
            Class::InvalidArgument => "invalid argument",
            Class::NotFound => "not found",
            Class::AlreadyExists => "already exists",
            Class::PermissionDenied => "permission denied",
            Class::ResourceExhausted => "resource exhausted",
            Class::FailedPrecondition => "failed precondition",
            Class::Conflict => "conflict",
            Class::NotModified => "not modified",
            Class::Aborted => "aborted",
            Class::OutOfRange => "out of range",
            Class::NotImplemented => "not implemented",
            Class::Internal => "internal",
            Class::Unavailable => "unavailable",
            Class::DataLoss => "data loss",
            Class::Unauthenticated => "unauthenticated",
            Class::Cancelled => "context canceled",
            Class::DeadlineExceeded => "context deadline exceeded",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}
