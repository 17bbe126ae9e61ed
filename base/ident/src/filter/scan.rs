//! Cuts a filter into tokens.

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    End,
    Quoted,
    Value,
    Field,
    Separator,
    Operator,
    Illegal(&'static str),
    /// A character that begins no token.
    Other,
}

/// A token: where it begins, what it is, its text with quotes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token<'a> {
    pub(super) at: usize,
    pub(super) kind: Kind,
    pub(super) text: &'a str,
}

/// Reads tokens from the front. Behind an operator a value is expected, in which more characters
/// are allowed than in a field.
pub(super) struct Scanner<'a> {
    input: &'a str,
    /// The next byte to be read.
    pub(super) position: usize,
    value: bool,
}

const NULL: &str = "unexpected null";

impl<'a> Scanner<'a> {
    pub(super) fn new(input: &'a str) -> Self {
        Scanner { input, position: 0, value: false }
    }

    /// The next character, without taking it.
    pub(super) fn peek(&self) -> Option<char> {
        self.input[self.position..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.position += next.len_utf8();
        Some(next)
    }

    fn skip_while(&mut self, wanted: impl Fn(char) -> bool) {
        while self.peek().is_some_and(&wanted) {
            self.next();
        }
    }

    /// Takes the next token. White space before it is skipped.
    pub(super) fn scan(&mut self) -> Token<'a> {
        self.skip_while(char::is_whitespace);
        let at = self.position;
        let kind = match self.next() {
            None => Kind::End,
            Some('\0') => Kind::Illegal(NULL),
            Some(quote @ ('"' | '/' | '|')) => match self.quoted(quote) {
                Ok(()) => Kind::Quoted,
                Err(fault) => Kind::Illegal(fault),
            },
            Some(',' | '.') => {
                self.value = false;
                Kind::Separator
            }
            Some('=' | '!' | '~') => {
                self.skip_while(|c| matches!(c, '=' | '!' | '~'));
                self.value = true;
                Kind::Operator
            }
            Some(_) if self.value => {
                self.skip_while(|c| c != ',' && !c.is_whitespace() && !c.is_control());
                self.value = false;
                Kind::Value
            }
            Some(c) if is_field(c) => {
                self.skip_while(is_field);
                Kind::Field
            }
            Some(_) => Kind::Other,
        };
        Token { at, kind, text: &self.input[at..self.position] }
    }

    /// Takes the rest of a quoted text, up to its end quote.
    fn quoted(&mut self, quote: char) -> Result<(), &'static str> {
        const OPEN: &str = "quoted literal not terminated";
        let mut fault = None;
        loop {
            match self.next() {
                None | Some('\n') => return Err(OPEN),
                Some('\0') => return Err(NULL),
                Some('\\') => {
                    if let Err(text) = self.escape(quote) {
                        fault = Some(text);
                    }
                }
                Some(c) if c == quote => break,
                Some(_) => {}
            }
        }
        fault.map_or(Ok(()), Err)
    }

    /// Takes an escape behind its backslash.
    fn escape(&mut self, quote: char) -> Result<(), &'static str> {
        let (base, digits) = match self.peek() {
            Some('a' | 'b' | 'f' | 'n' | 'r' | 't' | 'v' | '\\') => (0, 0),
            Some(c) if c == quote => (0, 0),
            Some('0'..='7') => (8, 3),
            Some('x') => (16, 2),
            Some('u') => (16, 4),
            Some('U') => (16, 8),
            _ => return Err("illegal escape sequence"),
        };
        if base != 8 {
            self.next();
        }
        for _ in 0..digits {
            if !self.peek().is_some_and(|c| c.is_digit(base)) {
                return Err("illegal numeric escape sequence");
            }
            self.next();
        }
        Ok(())
    }
}

fn is_field(c: char) -> bool {
    c == '_' || c.is_ascii_alphanumeric()
}
