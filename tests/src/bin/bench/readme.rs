//! The table in README.md.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

/// Above the table.
const BEGIN: &str = "<!-- bench:begin -->";
/// Below it.
const END: &str = "<!-- bench:end -->";

/// Replaces what is between the marks.
///
/// # Errors
///
/// There is no such file, or it lacks a mark.
pub fn write(table: &str) -> Result<()> {
    // Cargo tells a program that it runs where its package is.
    let folder = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(PathBuf::new, |package| PathBuf::from(package).join(".."));
    let path = folder.join("README.md");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let text = replace(&text, table)?;
    let part = path.with_extension("md.part");
    fs::write(&part, text)?;
    fs::rename(&part, &path)?;
    Ok(())
}

fn replace(text: &str, table: &str) -> Result<String> {
    let (before, rest) = text.split_once(BEGIN).with_context(|| format!("no line {BEGIN}"))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("no line {END}"))?;
    Ok(format!("{before}{BEGIN}\n\n{}\n\n{END}{after}", table.trim()))
}

#[cfg(test)]
mod tests {
    use super::replace;

    #[test]
    fn what_is_between_the_marks_is_replaced() {
        let text = "a\n<!-- bench:begin -->\nold\n<!-- bench:end -->\nb\n";
        let new = replace(text, "new\n").unwrap();
        assert_eq!(new, "a\n<!-- bench:begin -->\n\nnew\n\n<!-- bench:end -->\nb\n");
        assert_eq!(replace(&new, "new\n").unwrap(), new);
        assert!(replace("a", "new").is_err());
        assert!(replace("<!-- bench:begin -->", "new").is_err());
    }
}
