//! Numeric status codes, shared by ttrpc and gRPC, and the one table from classes to codes.

use base_errors::Class;

/// No error.
pub const OK: i32 = 0;
/// The caller went away.
pub const CANCELLED: i32 = 1;
/// No class is known.
pub const UNKNOWN: i32 = 2;
/// The request can never work.
pub const INVALID_ARGUMENT: i32 = 3;
/// The caller's time ran out.
pub const DEADLINE_EXCEEDED: i32 = 4;
/// The object does not exist.
pub const NOT_FOUND: i32 = 5;
/// The object exists already.
pub const ALREADY_EXISTS: i32 = 6;
/// The caller may not do this.
pub const PERMISSION_DENIED: i32 = 7;
/// Space, memory or a quota has run out; also a message that is too large.
pub const RESOURCE_EXHAUSTED: i32 = 8;
/// The state of the object forbids the call.
pub const FAILED_PRECONDITION: i32 = 9;
/// Given up because of another operation.
pub const ABORTED: i32 = 10;
/// A position beyond the end.
pub const OUT_OF_RANGE: i32 = 11;
/// The service or method is not there.
pub const UNIMPLEMENTED: i32 = 12;
/// A fault of the server.
pub const INTERNAL: i32 = 13;
/// Not now; a later try may work.
pub const UNAVAILABLE: i32 = 14;
/// Data is lost or damaged.
pub const DATA_LOSS: i32 = 15;
/// The caller is not known.
pub const UNAUTHENTICATED: i32 = 16;

/// The code of a class.
///
/// COMPAT: conflict and "not modified" share the code of a failed precondition; the text at the
/// end of the message tells them apart, as in containerd.
#[must_use]
pub const fn from_class(class: Class) -> i32 {
    match class {
        Class::Unknown => UNKNOWN,
        Class::InvalidArgument => INVALID_ARGUMENT,
        Class::NotFound => NOT_FOUND,
        Class::AlreadyExists => ALREADY_EXISTS,
        Class::PermissionDenied => PERMISSION_DENIED,
        Class::ResourceExhausted => RESOURCE_EXHAUSTED,
        Class::FailedPrecondition | Class::Conflict | Class::NotModified => FAILED_PRECONDITION,
        Class::Aborted => ABORTED,
        Class::OutOfRange => OUT_OF_RANGE,
        Class::NotImplemented => UNIMPLEMENTED,
        Class::Internal => INTERNAL,
        Class::Unavailable => UNAVAILABLE,
        Class::DataLoss => DATA_LOSS,
        Class::Unauthenticated => UNAUTHENTICATED,
        Class::Cancelled => CANCELLED,
        Class::DeadlineExceeded => DEADLINE_EXCEEDED,
    }
}

/// The class of a code and its message. A code out of the table is of class unknown.
#[must_use]
pub fn to_class(code: i32, message: &str) -> Class {
    match code {
        INVALID_ARGUMENT => Class::InvalidArgument,
        NOT_FOUND => Class::NotFound,
        ALREADY_EXISTS => Class::AlreadyExists,
        PERMISSION_DENIED => Class::PermissionDenied,
        RESOURCE_EXHAUSTED => Class::ResourceExhausted,
        FAILED_PRECONDITION => [Class::Conflict, Class::NotModified]
            .into_iter()
            .find(|class| ends_with_class(message, *class))
            .unwrap_or(Class::FailedPrecondition),
        ABORTED => Class::Aborted,
        OUT_OF_RANGE => Class::OutOfRange,
        UNIMPLEMENTED => Class::NotImplemented,
        INTERNAL => Class::Internal,
        UNAVAILABLE => Class::Unavailable,
        DATA_LOSS => Class::DataLoss,
        UNAUTHENTICATED => Class::Unauthenticated,
        CANCELLED => Class::Cancelled,
        DEADLINE_EXCEEDED => Class::DeadlineExceeded,
        _ => Class::Unknown,
    }
}

/// True if the message is the class text, or ends with `: ` and the class text.
fn ends_with_class(message: &str, class: Class) -> bool {
    message.strip_suffix(class.text()).is_some_and(|stem| stem.is_empty() || stem.ends_with(": "))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers are the wire's; written out here a second time on purpose.
    #[test]
    fn each_class_has_its_code() {
        let table = [2, 3, 5, 6, 7, 8, 9, 9, 9, 10, 11, 12, 13, 14, 15, 16, 1, 4];
        for (class, code) in Class::ALL.into_iter().zip(table) {
            assert_eq!(from_class(class), code, "{class:?}");
        }
    }

    #[test]
    fn each_class_comes_back() {
        for class in Class::ALL {
            let error = base_errors::Error::new(class, "image \"x\"");
            assert_eq!(to_class(from_class(class), &error.to_string()), class);
            let bare = base_errors::Error::new(class, "");
            assert_eq!(to_class(from_class(class), &bare.to_string()), class);
        }
    }

    #[test]
    fn a_word_in_the_message_is_not_a_class() {
        assert_eq!(to_class(9, "port conflict"), Class::FailedPrecondition);
        assert_eq!(to_class(9, "port: conflict"), Class::Conflict);
        assert_eq!(to_class(99, ""), Class::Unknown);
    }
}
