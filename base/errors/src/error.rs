//! The error where families meet: a class, a text, an optional hint and the source.

use std::fmt;

use crate::{Class, Coded, system};

/// A result whose error is an [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A classed error with its chain of context, ready for a transport or a log.
///
/// `Display` gives the whole chain, outer context first, and ends with the class text, which is
/// not doubled when the text ends with it already.
pub struct Error(Box<Inner>);

struct Inner {
    class: Class,
    /// The text without the class at its end.
    message: String,
    hint: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $class:ident;)*) => {
        impl Error {
            $($(#[$doc])*
            #[must_use]
            pub fn $name(message: impl Into<String>) -> Self {
                Self::new(Class::$class, message)
            })*
        }
    };
}

constructors! {
    /// An error of class [`Class::Unknown`]: its message stands alone.
    unknown => Unknown;
    /// An error of class [`Class::InvalidArgument`].
    invalid_argument => InvalidArgument;
    /// An error of class [`Class::NotFound`].
    not_found => NotFound;
    /// An error of class [`Class::AlreadyExists`].
    already_exists => AlreadyExists;
    /// An error of class [`Class::FailedPrecondition`].
    failed_precondition => FailedPrecondition;
    /// An error of class [`Class::Aborted`].
    aborted => Aborted;
    /// An error of class [`Class::OutOfRange`].
    out_of_range => OutOfRange;
    /// An error of class [`Class::NotImplemented`].
    not_implemented => NotImplemented;
    /// An error of class [`Class::Internal`].
    internal => Internal;
    /// An error of class [`Class::Unavailable`].
    unavailable => Unavailable;
    /// An error of class [`Class::DeadlineExceeded`].
    deadline_exceeded => DeadlineExceeded;
    /// An error of class [`Class::ResourceExhausted`].
    resource_exhausted => ResourceExhausted;
    /// An error of class [`Class::DataLoss`].
    data_loss => DataLoss;
}

impl Error {
    /// An error of `class`. `message` may be empty: then the class text alone is the message.
    #[must_use]
    pub fn new(class: Class, message: impl Into<String>) -> Self {
        let mut message = system::translate(message.into());
        if class != Class::Unknown {
            // Keep the text without the class, so that it is appended exactly once.
            if message == class.text() {
                message.clear();
            } else if let Some(stem) = message.strip_suffix(class.text())
                && let Some(stem) = stem.strip_suffix(": ")
            {
                message.truncate(stem.len());
            }
        }
        Error(Box::new(Inner { class, message, hint: None, source: None }))
    }

    /// The class of the innermost cause.
    #[must_use]
    pub fn class(&self) -> Class {
        self.0.class
    }

    /// Advice for the reader, if there is any.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// The text without the class at its end.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The same error with `context` before its text: `context: text: class`.
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.0.message = if self.0.message.is_empty() {
            context.to_string()
        } else {
            format!("{context}: {}", self.0.message)
        };
        self
    }

    /// The same error with advice for the reader.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// The same error under another class; the old class text stays in the message.
    #[must_use]
    pub fn with_class(self, class: Class) -> Self {
        let hint = self.0.hint.clone();
        let mut error = Error::new(class, self.to_string());
        error.0.hint = hint;
        error.0.source = self.0.source;
        error
    }

    /// The leaf error of type `E`, if that is what this error was made from.
    #[must_use]
    pub fn downcast_ref<E: std::error::Error + 'static>(&self) -> Option<&E> {
        self.0.source.as_deref().and_then(|source| source.downcast_ref())
    }

    /// True if the class is [`Class::NotFound`].
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.class() == Class::NotFound
    }

    /// True if the class is [`Class::AlreadyExists`].
    #[must_use]
    pub fn is_already_exists(&self) -> bool {
        self.class() == Class::AlreadyExists
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { class, message, .. } = &*self.0;
        match (message.is_empty(), *class) {
            (true, class) => f.write_str(class.text()),
            (false, Class::Unknown) => f.write_str(message),
            (false, class) => write!(f, "{message}: {class}"),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} ({:?}", self.0.class)?;
        if let Some(hint) = &self.0.hint {
            write!(f, "; hint: {hint}")?;
        }
        f.write_str(")")
    }
}

/// Any coded error becomes an [`Error`] by `?`. [`Error`] itself is deliberately not
/// `std::error::Error`, as in `anyhow`, so that this conversion can exist.
impl<E> From<E> for Error
where
    E: Coded + Send + Sync + 'static,
{
    fn from(source: E) -> Self {
        let mut message = source.to_string();
        let mut cause = std::error::Error::source(&source);
        while let Some(inner) = cause {
            let text = inner.to_string();
            // `#[error("…: {source}")]` variants show their source themselves.
            if !message.ends_with(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            cause = inner.source();
        }
        let mut error = Error::new(source.class(), message);
        error.0.hint = source.hint();
        error.0.source = Some(Box::new(source));
        error
    }
}

impl From<Error> for Box<dyn std::error::Error + Send + Sync> {
    fn from(error: Error) -> Self {
        Box::new(Boxed(error))
    }
}

/// An [`Error`] as a `std::error::Error`, for `anyhow` and the like.
#[derive(Debug)]
struct Boxed(Error);

impl fmt::Display for Boxed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Boxed {}

/// Context for results, as the errors' own [`Error::context`].
pub trait ResultExt<T> {
    /// Puts `context` before the error's text.
    ///
    /// # Errors
    /// The same error, with the context.
    fn context(self, context: impl fmt::Display) -> Result<T>;

    /// As [`ResultExt::context`], made only when there is an error.
    ///
    /// # Errors
    /// The same error, with the context.
    fn with_context<D: fmt::Display>(self, context: impl FnOnce() -> D) -> Result<T>;
}

impl<T, E: Into<Error>> ResultExt<T> for std::result::Result<T, E> {
    fn context(self, context: impl fmt::Display) -> Result<T> {
        self.map_err(|error| error.into().context(context))
    }

    fn with_context<D: fmt::Display>(self, context: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|error| error.into().context(context()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn class_text_stands_once_at_the_end() {
        assert_eq!(Error::not_found("image \"x\"").to_string(), "image \"x\": not found");
        assert_eq!(
            Error::not_found("image \"x\": not found").to_string(),
            "image \"x\": not found"
        );
        assert_eq!(Error::not_found("").to_string(), "not found");
        assert_eq!(Error::unknown("exit status 1").to_string(), "exit status 1");
        assert_eq!(
            Error::not_found("blob").context("image \"x\"").to_string(),
            "image \"x\": blob: not found"
        );
    }

    #[test]
    fn another_class_keeps_the_old_text() {
        let error = Error::not_found("blob").with_class(Class::Unavailable);
        assert_eq!(error.to_string(), "blob: not found: unavailable");
    }

    #[test]
    fn a_coded_source_gives_class_and_text() {
        let io = std::io::Error::from(std::io::ErrorKind::NotFound);
        let error = Error::from(io).context("open /x");
        assert_eq!(error.class(), Class::NotFound);
        assert!(error.to_string().starts_with("open /x: "));
        assert!(error.downcast_ref::<std::io::Error>().is_some());
    }
}
