//! Where a stream goes: a path, or a URI with a scheme.

use base_errors::{Error, Result};

/// A parsed target of output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A fifo, or an existing file.
    Path(String),
    /// A file that is made and appended to.
    File(String),
    /// A program that reads the output.
    Binary {
        /// Its path.
        program: String,
        /// Its arguments: each key of the query, followed by its value.
        arguments: Vec<String>,
        /// What its environment has beside the ids: keys of the query that begin with `env.`.
        environment: Vec<(String, String)>,
    },
}

/// Keys of the query with this beginning are variables.
const VARIABLE: &str = "env.";

impl Target {
    /// Parses a path or `fifo://`, `file://`, `binary://`.
    ///
    /// # Errors
    /// An unknown scheme, or escapes that are none.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Ok(Target::Path(text.to_owned()));
        };
        if scheme.contains('/') {
            return Ok(Target::Path(text.to_owned()));
        }
        let unable = || Error::unknown(format!("unable to parse stdout uri: {text:?}"));
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let query = query.split('#').next().unwrap_or_default();
        let path = unescape(path, false).ok_or_else(unable)?;
        // A host before the path means nothing here.
        let path = match path.find('/') {
            Some(start) => path[start..].to_owned(),
            None => return Err(unable()),
        };
        match scheme {
            "fifo" => Ok(Target::Path(path)),
            "file" => Ok(Target::File(path)),
            "binary" | "binary-v2" => {
                let mut environment = Vec::new();
                let mut keys: Vec<String> = Vec::new();
                let mut arguments = Vec::new();
                for pair in query.split('&').filter(|pair| !pair.is_empty()) {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    let key = unescape(key, true).ok_or_else(unable)?;
                    let value = unescape(value, true).ok_or_else(unable)?;
                    // COMPAT: of a key that comes twice, containerd gives the first value.
                    if keys.contains(&key) {
                        continue;
                    }
                    match key.strip_prefix(VARIABLE) {
                        Some(name) => environment.push((name.to_owned(), value)),
                        None => arguments.extend([key.clone(), value]),
                    }
                    keys.push(key);
                }
                Ok(Target::Binary { program: path, arguments, environment })
            }
            _ => Err(Error::unknown(format!("unknown STDIO scheme {scheme}"))),
        }
    }
}

/// Resolves `%xx`, and `+` in a query; `None` if an escape is damaged or the result no UTF-8.
fn unescape(text: &str, query: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            b'+' if query => b' ',
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes() {
        assert_eq!(Target::parse("/run/f").unwrap(), Target::Path("/run/f".to_owned()));
        assert_eq!(Target::parse("fifo:///run/f").unwrap(), Target::Path("/run/f".to_owned()));
        assert_eq!(Target::parse("file:///a%20b").unwrap(), Target::File("/a b".to_owned()));
        assert_eq!(
            Target::parse("binary:///bin/l?id=a%26b&flag&x=1+2&id=z&env.A=b").unwrap(),
            Target::Binary {
                program: "/bin/l".to_owned(),
                arguments: ["id", "a&b", "flag", "", "x", "1 2"].map(str::to_owned).to_vec(),
                environment: vec![("A".to_owned(), "b".to_owned())],
            }
        );
        let error = Target::parse("http://x/y").unwrap_err();
        assert_eq!(error.to_string(), "unknown STDIO scheme http");
        assert!(Target::parse("file://%zz").is_err());
        assert!(Target::parse("binary://").is_err());
    }
}
