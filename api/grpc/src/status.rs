//! Error classes to gRPC codes and back, by the table of [`api_ttrpc::code`].

use api_ttrpc::code;
use base_errors::Error;
use tonic::{Code, Status};

/// The status that a service answers with: the code of the class, the text of the error.
#[must_use]
pub fn to_status(error: Error) -> Status {
    Status::new(Code::from_i32(code::from_class(error.class())), error.to_string())
}

/// The error that a status from a server stands for. The class text at the end of the message is
/// not doubled.
#[must_use]
pub fn from_status(status: Status) -> Error {
    let message = status.message();
    Error::new(code::to_class(i32::from(status.code()), message), message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base_errors::Class;

    /// The table of containerd: class, code, message of `x`.
    const TABLE: [(Class, i32, &str); 18] = [
        (Class::Unknown, 2, "x"),
        (Class::InvalidArgument, 3, "x: invalid argument"),
        (Class::NotFound, 5, "x: not found"),
        (Class::AlreadyExists, 6, "x: already exists"),
        (Class::PermissionDenied, 7, "x: permission denied"),
        (Class::ResourceExhausted, 8, "x: resource exhausted"),
        (Class::FailedPrecondition, 9, "x: failed precondition"),
        (Class::Conflict, 9, "x: conflict"),
        (Class::NotModified, 9, "x: not modified"),
        (Class::Aborted, 10, "x: aborted"),
        (Class::OutOfRange, 11, "x: out of range"),
        (Class::NotImplemented, 12, "x: not implemented"),
        (Class::Internal, 13, "x: internal"),
        (Class::Unavailable, 14, "x: unavailable"),
        (Class::DataLoss, 15, "x: data loss"),
        (Class::Unauthenticated, 16, "x: unauthenticated"),
        (Class::Cancelled, 1, "x: context canceled"),
        (Class::DeadlineExceeded, 4, "x: context deadline exceeded"),
    ];

    #[test]
    fn each_class_goes_over_the_wire_and_back() {
        assert_eq!(TABLE.map(|(class, ..)| class), Class::ALL);
        for (class, code, message) in TABLE {
            let status = to_status(Error::new(class, "x"));
            assert_eq!((i32::from(status.code()), status.message()), (code, message));
            let error = from_status(status);
            assert_eq!((error.class(), error.to_string()), (class, message.to_owned()));
        }
    }
}
