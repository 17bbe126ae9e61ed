//! JSON with indentation, in the order of its text.

use base_errors::{Error, Result};
use serde::Serialize;

/// The JSON text with `indent` for each level, as Go indents. The order and the numbers stay as
/// they are. `json` must be valid.
pub(crate) fn indented(json: &str, indent: &str) -> String {
    let mut output = String::with_capacity(json.len() * 2);
    let mut depth = 0_usize;
    let mut letters = json.chars().peekable();
    let newline = |output: &mut String, depth: usize| {
        output.push('\n');
        for _ in 0..depth {
            output.push_str(indent);
        }
    };
    while let Some(letter) = letters.next() {
        match letter {
            '"' => {
                output.push('"');
                while let Some(letter) = letters.next() {
                    match letter {
                        '\\' => {
                            output.push('\\');
                            output.extend(letters.next());
                        }
                        // COMPAT: Go escapes what could end a script in a web page.
                        '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                            output.push_str(&format!("\\u{:04x}", u32::from(letter)));
                        }
                        '"' => {
                            output.push('"');
                            break;
                        }
                        letter => output.push(letter),
                    }
                }
            }
            '{' | '[' => {
                output.push(letter);
                while letters.next_if(char::is_ascii_whitespace).is_some() {}
                let close = if letter == '{' { '}' } else { ']' };
                if letters.next_if_eq(&close).is_some() {
                    output.push(close);
                } else {
                    depth += 1;
                    newline(&mut output, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                newline(&mut output, depth);
                output.push(letter);
            }
            ',' => {
                output.push(',');
                newline(&mut output, depth);
            }
            ':' => output.push_str(": "),
            letter if letter.is_ascii_whitespace() => {}
            letter => output.push(letter),
        }
    }
    output
}

/// Prints a value as containerd's ctr does: four spaces for each level.
pub(crate) fn print_indented(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string(value)
        .map_err(|error| Error::internal(format!("can't marshal as a JSON string: {error}")))?;
    crate::say!("{}", indented(&text, "    "));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_texts_stay() {
        let json = r#"{"b": [1, 2.50], "a":{},"c":[ ],"t":"x, {\"<\\\": ","n":null}"#;
        let expected = "{\n  \"b\": [\n    1,\n    2.50\n  ],\n  \"a\": {},\n  \"c\": [],\n  \
                        \"t\": \"x, {\\\"\\u003c\\\\\\\": \",\n  \"n\": null\n}";
        assert_eq!(indented(json, "  "), expected);
    }
}
