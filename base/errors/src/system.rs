//! The texts of the system's errors, as Go writes them: clients know no others.

/// How the standard library marks the number at the end of such a text.
const MARK: &str = " (os error ";

/// The system's text of an error number in lower case: `no such file or directory`.
#[must_use]
pub fn errno_text(number: i32) -> String {
    let full = std::io::Error::from_raw_os_error(number).to_string();
    let text = full.split(MARK).next().unwrap_or(&full);
    // "RPC struct is bad" and the like keep their capitals.
    let second_is_lower = text.chars().nth(1).is_some_and(char::is_lowercase);
    match text.chars().next() {
        Some(first) if second_is_lower => {
            first.to_lowercase().chain(text.chars().skip(1)).collect()
        }
        _ => text.to_owned(),
    }
}

/// Replaces what the standard library says about error numbers in `message`.
pub(crate) fn translate(mut message: String) -> String {
    let mut from = 0;
    while let Some(mark) = message[from..].find(MARK).map(|at| from + at) {
        let rest = &message[mark + MARK.len()..];
        let number = rest.split_once(')').and_then(|(number, _)| number.parse::<i32>().ok());
        let theirs = number.map(|number| std::io::Error::from_raw_os_error(number).to_string());
        let (Some(number), Some(theirs)) = (number, theirs) else {
            from = mark + MARK.len();
            continue;
        };
        let end = message.len() - rest.len() + rest.find(')').map_or(0, |at| at + 1);
        let text = errno_text(number);
        // Only a text that is the number's own.
        let begin = end.saturating_sub(theirs.len());
        if message.get(begin..end) == Some(theirs.as_str()) {
            message.replace_range(begin..end, &text);
            from = begin + text.len();
        } else {
            from = end;
        }
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_texts() {
        assert_eq!(errno_text(2), "no such file or directory");
        assert_eq!(errno_text(28), "no space left on device");
    }

    #[test]
    fn texts_are_found_wherever_they_stand() {
        let said = |number| std::io::Error::from_raw_os_error(number).to_string();
        let text = format!("open /a: {}, stat /b: {}: more", said(2), said(13));
        assert_eq!(
            translate(text),
            "open /a: no such file or directory, stat /b: permission denied: more"
        );
        for text in [
            "",
            "x (os error 2)",
            "(os error",
            " (os error ",
            "a (os error x)",
            "\u{e4} (os error 2)",
        ] {
            assert_eq!(translate(text.to_owned()), text);
        }
    }
}
