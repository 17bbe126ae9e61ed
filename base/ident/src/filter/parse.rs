//! From tokens to selectors.

use regex::RegexBuilder;

use super::scan::{Kind, Scanner, Token};
use super::unquote::unquote;
use super::{MAX_REGEX, MAX_REGEXES, Selector, Test};
use crate::identifier::IdentError;

/// Parses one filter; an empty one has no selectors. `regexes` counts those of the whole request.
pub(super) fn filter(input: &str, regexes: &mut usize) -> Result<Vec<Selector>, IdentError> {
    if input.is_empty() {
        return Ok(Vec::new());
    }
    let mut parser = Parser { input, scanner: Scanner::new(input), regexes };
    let mut all = vec![parser.selector()?];
    loop {
        match parser.scanner.peek() {
            None => return Ok(all),
            Some(',') => {
                parser.scanner.scan();
                all.push(parser.selector()?);
            }
            Some(other) => {
                let at = parser.scanner.position;
                return Err(parser.fault(at, &format!("unexpected input: {other}")));
            }
        }
    }
}

struct Parser<'a, 'r> {
    input: &'a str,
    scanner: Scanner<'a>,
    regexes: &'r mut usize,
}

impl Parser<'_, '_> {
    fn selector(&mut self) -> Result<Selector, IdentError> {
        let mut path = vec![self.field()?];
        while self.scanner.peek() == Some('.') {
            self.scanner.scan();
            path.push(self.field()?);
        }
        let test = match self.scanner.peek() {
            None | Some(',') => Test::Present,
            Some(_) => self.test()?,
        };
        Ok(Selector { path, test })
    }

    fn field(&mut self) -> Result<String, IdentError> {
        let token = self.scanner.scan();
        match token.kind {
            Kind::Field => Ok(token.text.to_owned()),
            Kind::Quoted => self.unquote(token, false),
            Kind::Illegal(fault) => Err(self.fault(token.at, fault)),
            _ => Err(self.fault(token.at, "expected field or quoted")),
        }
    }

    fn test(&mut self) -> Result<Test, IdentError> {
        let token = self.scanner.scan();
        match (token.kind, token.text) {
            (Kind::Operator, "==") => Ok(Test::Equal(self.value(false)?)),
            (Kind::Operator, "!=") => Ok(Test::NotEqual(self.value(false)?)),
            (Kind::Operator, "~=") => {
                let pattern = self.value(true)?;
                self.regex(&pattern)
            }
            (Kind::Operator, other) => {
                Err(self.fault(token.at, &format!("unsupported operator {other:?}")))
            }
            (Kind::Illegal(fault), _) => Err(self.fault(token.at, fault)),
            _ => Err(self.fault(token.at, r#"expected an operator ("=="|"!="|"~=")"#)),
        }
    }

    fn value(&mut self, other_quotes: bool) -> Result<String, IdentError> {
        let token = self.scanner.scan();
        match token.kind {
            Kind::Value | Kind::Field => Ok(token.text.to_owned()),
            Kind::Quoted => self.unquote(token, other_quotes),
            Kind::Illegal(fault) => Err(self.fault(token.at, fault)),
            _ => Err(self.fault(token.at, "expected value or quoted")),
        }
    }

    fn regex(&mut self, pattern: &str) -> Result<Test, IdentError> {
        *self.regexes += 1;
        if *self.regexes > MAX_REGEXES {
            return Err(IdentError::FilterTooLarge);
        }
        let regex = RegexBuilder::new(pattern).size_limit(MAX_REGEX).build();
        Ok(regex.map_or(Test::Never, Test::Matches))
    }

    fn unquote(&self, token: Token<'_>, other_quotes: bool) -> Result<String, IdentError> {
        if !other_quotes && !token.text.starts_with('"') {
            return Err(self.fault(token.at, "invalid quote encountered"));
        }
        unquote(token.text)
            .ok_or_else(|| self.fault(token.at, "unquoting failed: quote syntax error"))
    }

    /// The error that shows `text` and the place of the fault.
    fn fault(&self, at: usize, text: &str) -> IdentError {
        let (before, rest) = self.input.split_at(at.min(self.input.len()));
        let mut rest = rest.chars();
        IdentError::Filter(match rest.next() {
            Some(place) => format!("[{before} >|{place}|< {}]: {text}", rest.as_str()),
            None => format!("[{before}]: {text}"),
        })
    }
}
