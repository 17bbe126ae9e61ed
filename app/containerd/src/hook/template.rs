//! The part of Go's text templates that hooks use.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;

use anyhow::{Result, bail};

/// What templates can name.
#[derive(Debug, Default)]
pub struct Values {
    /// The container.
    pub id: String,
    /// Its bundle.
    pub bundle: OsString,
    /// Its root file system, absolute if the bundle is.
    pub rootfs: OsString,
    /// Its process; 0 if there is none.
    pub pid: i64,
    /// Its state in the runtime's words.
    pub status: String,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
}

/// A part of what stands between the braces.
#[derive(Debug, PartialEq)]
enum Token {
    Name(String),
    Text(Vec<u8>),
    Pipe,
}

/// Replaces what stands between `{{` and `}}`.
///
/// # Errors
///
/// What is no template, or not one of those that hooks use.
pub fn fill(source: &[u8], values: &Values) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = find(rest, b"{{") {
        let (before, action) = (&rest[..at], &rest[at + 2..]);
        let (trims_left, action) = match action {
            [b'-', space, ..] if space.is_ascii_whitespace() => (true, &action[2..]),
            _ => (false, action),
        };
        out.extend_from_slice(if trims_left { before.trim_ascii_end() } else { before });
        let (tokens, after) = tokens(action)?;
        out.extend_from_slice(&value(&tokens, values)?);
        rest = after;
    }
    out.extend_from_slice(rest);
    Ok(out)
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

/// The tokens up to the closing braces; gives what follows those. None for a comment.
fn tokens(action: &[u8]) -> Result<(Option<Vec<Token>>, &[u8])> {
    let mut tokens = Vec::new();
    let mut rest = action.trim_ascii_start();
    if rest.starts_with(b"/*") {
        let Some(end) = find(rest, b"*/") else { bail!("unclosed comment") };
        return match closing(rest[end + 2..].trim_ascii_start(), true) {
            Some(after) => Ok((None, after)),
            None => bail!("comment ends before closing delimiter"),
        };
    }
    loop {
        let spaced = rest.first().is_some_and(u8::is_ascii_whitespace) || tokens.is_empty();
        let trimmed = rest.trim_ascii_start();
        if let Some(after) = closing(trimmed, spaced) {
            return Ok((Some(tokens), after));
        }
        rest = match trimmed {
            [] => bail!("unclosed action"),
            [b'|', after @ ..] => {
                tokens.push(Token::Pipe);
                after
            }
            [b'"', after @ ..] => {
                let (text, after) = quoted(after)?;
                tokens.push(Token::Text(text));
                after
            }
            [b'`', after @ ..] => {
                let Some(end) = after.iter().position(|byte| *byte == b'`') else {
                    bail!("unterminated raw quoted string");
                };
                tokens.push(Token::Text(after[..end].to_vec()));
                &after[end + 1..]
            }
            [first, ..] if first.is_ascii_alphabetic() || *first == b'_' => {
                let word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
                let end = trimmed.iter().position(|byte| !word(byte)).unwrap_or(trimmed.len());
                tokens.push(Token::Name(String::from_utf8_lossy(&trimmed[..end]).into_owned()));
                &trimmed[end..]
            }
            [other, ..] => bail!("unexpected {:?} in command", char::from(*other)),
        };
    }
}

/// What follows the closing braces, if `text` begins with them; ` -}}` also takes the space there.
fn closing(text: &[u8], spaced: bool) -> Option<&[u8]> {
    match text {
        [b'}', b'}', after @ ..] => Some(after),
        [b'-', b'}', b'}', after @ ..] if spaced => Some(after.trim_ascii_start()),
        _ => None,
    }
}

/// A text up to its closing quote.
fn quoted(text: &[u8]) -> Result<(Vec<u8>, &[u8])> {
    let mut out = Vec::new();
    let mut bytes = text.iter().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => return Ok((out, &text[at + 1..])),
            b'\n' => break,
            b'\\' => out.push(match bytes.next() {
                Some((_, b'n')) => b'\n',
                Some((_, b't')) => b'\t',
                Some((_, escaped @ (b'"' | b'\\'))) => *escaped,
                _ => bail!("unsupported escape in quoted string"),
            }),
            byte => out.push(*byte),
        }
    }
    bail!("unterminated quoted string")
}

/// What an action stands for.
fn value(tokens: &Option<Vec<Token>>, values: &Values) -> Result<Vec<u8>> {
    let Some(tokens) = tokens else { return Ok(Vec::new()) };
    let mut last: Option<Vec<u8>> = None;
    for command in tokens.split(|token| *token == Token::Pipe) {
        last = Some(call(command, last, values)?);
    }
    last.ok_or_else(|| anyhow::anyhow!("missing value for command"))
}

/// One command of a pipeline; the value before it is its last argument.
fn call(command: &[Token], piped: Option<Vec<u8>>, values: &Values) -> Result<Vec<u8>> {
    let (name, arguments) = match command {
        [] => bail!("missing value for command"),
        [Token::Text(text)] if piped.is_none() => return Ok(text.clone()),
        [Token::Name(name), arguments @ ..] => (name.as_str(), arguments),
        _ => bail!("can't give argument to non-function"),
    };
    let mut texts = Vec::new();
    for argument in arguments {
        match argument {
            Token::Text(text) => texts.push(text.clone()),
            Token::Name(_) => texts.push(call(std::slice::from_ref(argument), None, values)?),
            Token::Pipe => {}
        }
    }
    texts.extend(piped);
    let wanted = usize::from(name == "annotation");
    let found = match name {
        "id" => values.id.clone().into_bytes(),
        "bundle" => values.bundle.as_bytes().to_vec(),
        "rootfs" => values.rootfs.as_bytes().to_vec(),
        "pid" => values.pid.to_string().into_bytes(),
        "status" => values.status.clone().into_bytes(),
        "annotation" => {
            let key = texts.first().map(|key| String::from_utf8_lossy(key));
            let value = key.and_then(|key| values.annotations.get(&*key));
            value.cloned().unwrap_or_default().into_bytes()
        }
        _ => bail!("function {name:?} not defined"),
    };
    if texts.len() != wanted {
        bail!("wrong number of args for {name}: want {wanted} got {}", texts.len());
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(source: &str) -> Result<String> {
        let values = Values {
            id: "one".to_owned(),
            bundle: "/run/b".into(),
            rootfs: "/run/b/rootfs".into(),
            pid: 42,
            status: "created".to_owned(),
            annotations: BTreeMap::from([("a.b/c".to_owned(), "d e".to_owned())]),
        };
        Ok(String::from_utf8(fill(source.as_bytes(), &values)?)?)
    }

    #[test]
    fn templates_are_filled() {
        for (source, expected) in [
            ("", ""),
            ("plain } text {", "plain } text {"),
            ("{{id}}", "one"),
            ("--pid={{ pid }}/{{status}}.", "--pid=42/created."),
            ("{{bundle}}:{{rootfs}}", "/run/b:/run/b/rootfs"),
            ("{{annotation \"a.b/c\"}}|{{annotation `none`}}|", "d e||"),
            ("{{\"a.b/c\" | annotation}}", "d e"),
            ("{{\"a \\\"b\\\\\"}}", "a \"b\\"),
            ("a {{- id -}} b", "aoneb"),
            ("a {{/* nothing */}} b", "a  b"),
            ("a {{- /* nothing */ -}} b", "ab"),
        ] {
            assert_eq!(filled(source).unwrap(), expected, "{source}");
        }
    }

    #[test]
    fn what_is_no_template_is_refused() {
        for (source, text) in [
            ("{{", "unclosed action"),
            ("{{id", "unclosed action"),
            ("{{}}", "missing value for command"),
            ("{{id | }}", "missing value for command"),
            ("{{name}}", "function \"name\" not defined"),
            ("{{annotation}}", "wrong number of args for annotation: want 1 got 0"),
            ("{{id \"x\"}}", "wrong number of args for id: want 0 got 1"),
            ("{{\"x}}", "unterminated quoted string"),
            ("{{`x}}", "unterminated raw quoted string"),
            ("{{.ID}}", "unexpected '.' in command"),
            ("{{/* x }}", "unclosed comment"),
        ] {
            assert_eq!(filled(source).unwrap_err().to_string(), text, "{source}");
        }
    }
}
