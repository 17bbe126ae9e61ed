//! The command line, in the manner of Go's `flag` package: one dash or two, `-flag value` or
//! `-flag=value`.

/// The name under which daemons look for this shim.
pub const PROGRAM: &str = "containerd-shim-runc-v2";

/// What the shim was asked to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Action {
    /// `start`: begin to serve in the background and tell the address.
    Start,
    /// `delete`: remove what a dead shim has left.
    Delete,
    /// Nothing: serve in the foreground.
    #[default]
    Serve,
}

/// The command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    /// `-namespace`: the containerd namespace.
    pub namespace: String,
    /// `-id`: the container, or the sandbox.
    pub id: String,
    /// `-address`: the daemon's gRPC socket.
    pub address: String,
    /// `-publish-binary`: the daemon's program. Accepted; events go over ttrpc.
    pub publish_binary: String,
    /// `-bundle`: the bundle, told to `delete` alone; `start` runs inside of it.
    pub bundle: String,
    /// `-socket`: where to listen when serving in the foreground.
    pub socket: String,
    /// `-debug`: log more.
    pub debug: bool,
    /// `-v`: print versions.
    pub version: bool,
    /// `-info`: print a `RuntimeInfo`.
    pub info: bool,
    /// The command.
    pub action: Action,
}

/// A command line that makes no sense.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ArgumentError {
    /// No such flag.
    #[error("flag provided but not defined: -{0}")]
    Unknown(String),
    /// A flag at the end, without its value.
    #[error("flag needs an argument: -{0}")]
    Value(String),
    /// Neither true nor false.
    #[error("invalid boolean value {value:?} for -{flag}")]
    Boolean {
        /// The flag.
        flag: String,
        /// What it was given.
        value: String,
    },
    /// No such command.
    #[error("unknown command {0:?}: expected start or delete")]
    Action(String),
}

impl Arguments {
    /// Reads the words after the program's name.
    ///
    /// # Errors
    /// [`ArgumentError`]; nothing is guessed.
    pub fn parse(words: impl IntoIterator<Item = String>) -> Result<Self, ArgumentError> {
        let mut arguments = Arguments::default();
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let name = word.strip_prefix("--").or_else(|| word.strip_prefix('-'));
            let Some(name) = name.filter(|name| !name.is_empty()) else {
                arguments.action = match word.as_str() {
                    "start" => Action::Start,
                    "delete" => Action::Delete,
                    // COMPAT: containerd ignores an empty word.
                    "" => continue,
                    _ => return Err(ArgumentError::Action(word)),
                };
                continue;
            };
            let (name, value) = match name.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (name, None),
            };
            if let Some(switch) = arguments.switch(name) {
                *switch = match value.as_deref() {
                    None | Some("true" | "1" | "t" | "T" | "TRUE" | "True") => true,
                    Some("false" | "0" | "f" | "F" | "FALSE" | "False") => false,
                    Some(value) => {
                        let (flag, value) = (name.to_owned(), value.to_owned());
                        return Err(ArgumentError::Boolean { flag, value });
                    }
                };
                continue;
            }
            let Some(text) = arguments.text(name) else {
                return Err(ArgumentError::Unknown(name.to_owned()));
            };
            match value.or_else(|| words.next()) {
                Some(value) => *text = value,
                None => return Err(ArgumentError::Value(name.to_owned())),
            }
        }
        Ok(arguments)
    }

    fn switch(&mut self, name: &str) -> Option<&mut bool> {
        match name {
            "debug" => Some(&mut self.debug),
            "v" | "version" => Some(&mut self.version),
            "info" => Some(&mut self.info),
            _ => None,
        }
    }

    fn text(&mut self, name: &str) -> Option<&mut String> {
        match name {
            "namespace" => Some(&mut self.namespace),
            "id" => Some(&mut self.id),
            "address" => Some(&mut self.address),
            "publish-binary" => Some(&mut self.publish_binary),
            "bundle" => Some(&mut self.bundle),
            "socket" => Some(&mut self.socket),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, ArgumentError> {
        Arguments::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn the_line_that_daemons_write() {
        let arguments = parse(
            "-namespace k8s.io -address /run/c.sock -publish-binary /usr/bin/containerd -id a1 \
             -bundle /run/b -debug delete",
        )
        .unwrap();
        assert_eq!(arguments.namespace, "k8s.io");
        assert_eq!(arguments.address, "/run/c.sock");
        assert_eq!(arguments.publish_binary, "/usr/bin/containerd");
        assert_eq!(arguments.id, "a1");
        assert_eq!(arguments.bundle, "/run/b");
        assert!(arguments.debug);
        assert_eq!(arguments.action, Action::Delete);
    }

    #[test]
    fn go_spellings() {
        assert!(parse("--debug=true -v").unwrap().debug);
        assert!(!parse("-debug=false").unwrap().debug);
        assert_eq!(parse("--id=x start").unwrap().id, "x");
        assert_eq!(parse("-id").unwrap_err(), ArgumentError::Value("id".to_owned()));
        assert_eq!(parse("-nope").unwrap_err(), ArgumentError::Unknown("nope".to_owned()));
        assert_eq!(parse("stop").unwrap_err(), ArgumentError::Action("stop".to_owned()));
        assert!(matches!(parse("-debug=maybe"), Err(ArgumentError::Boolean { .. })));
    }
}
