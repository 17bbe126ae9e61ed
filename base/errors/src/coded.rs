//! How an error enum tells its class.

use crate::Class;

/// An error that belongs to a [`Class`]. Implemented by an exhaustive `match` in each enum.
///
/// The `Display` text of a `Coded` error does not end with the class text; [`crate::Error`]
/// appends it once.
pub trait Coded: std::error::Error {
    /// The class that a transport turns into its code.
    fn class(&self) -> Class;

    /// Advice for the person who reads the error, if there is any; never part of the message.
    fn hint(&self) -> Option<String> {
        None
    }
}

/// Input and output errors of the system, by their kind.
impl Coded for std::io::Error {
    fn class(&self) -> Class {
        use std::io::ErrorKind;
        match self.kind() {
            ErrorKind::NotFound => Class::NotFound,
            ErrorKind::AlreadyExists => Class::AlreadyExists,
            ErrorKind::PermissionDenied => Class::PermissionDenied,
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::OutOfMemory => {
                Class::ResourceExhausted
            }
            ErrorKind::InvalidInput => Class::InvalidArgument,
            ErrorKind::TimedOut => Class::DeadlineExceeded,
            ErrorKind::Unsupported => Class::NotImplemented,
            _ => Class::Unknown,
        }
    }
}
