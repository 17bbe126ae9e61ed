//! Reads quoted texts with the escapes of Go.

/// The text between the quotes of `quoted`, its escapes replaced. `None` if an escape means no
/// character, or if the bytes it gives are not UTF-8.
pub(super) fn unquote(quoted: &str) -> Option<String> {
    let quote = quoted.chars().next()?;
    let inner = quoted.strip_prefix(quote)?.strip_suffix(quote)?;
    if !inner.contains('\\') {
        return Some(inner.to_owned());
    }
    let mut bytes = Vec::with_capacity(inner.len());
    let mut rest = inner.chars();
    while let Some(c) = rest.next() {
        if c != '\\' {
            push(&mut bytes, c);
            continue;
        }
        match rest.next()? {
            'a' => bytes.push(0x07),
            'b' => bytes.push(0x08),
            'f' => bytes.push(0x0c),
            'n' => bytes.push(b'\n'),
            'r' => bytes.push(b'\r'),
            't' => bytes.push(b'\t'),
            'v' => bytes.push(0x0b),
            'x' => bytes.push(u8::try_from(number(&mut rest, 0, 16, 2)?).ok()?),
            'u' => push(&mut bytes, char::from_u32(number(&mut rest, 0, 16, 4)?)?),
            'U' => push(&mut bytes, char::from_u32(number(&mut rest, 0, 16, 8)?)?),
            digit @ '0'..='7' => {
                let first = digit.to_digit(8)?;
                bytes.push(u8::try_from(number(&mut rest, first, 8, 2)?).ok()?);
            }
            '\\' => bytes.push(b'\\'),
            c if c == quote => push(&mut bytes, c),
            _ => return None,
        }
    }
    String::from_utf8(bytes).ok()
}

fn push(bytes: &mut Vec<u8>, c: char) {
    bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

/// Reads `digits` more digits behind those that gave `start`.
fn number(rest: &mut std::str::Chars<'_>, start: u32, base: u32, digits: u32) -> Option<u32> {
    (0..digits).try_fold(start, |number, _| {
        number.checked_mul(base)?.checked_add(rest.next()?.to_digit(base)?)
    })
}
