//! Flags as Go's flag package takes them, in the form that clap takes.
//!
//! COMPAT: ctr takes `-long` for `--long`, and `--flag=true` for a flag without a value.

use std::ffi::OsString;

use clap::{Arg, ArgAction, Command};

/// Rewrites the flags of `arguments` up to the first argument that is neither a flag nor a command.
pub(crate) fn as_clap(root: &Command, arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments = arguments.peekable();
    let mut result: Vec<OsString> = arguments.next().into_iter().collect();
    let mut command = root;
    while let Some(argument) = arguments.next() {
        let Some(text) = argument.to_str() else {
            result.push(argument);
            break;
        };
        let Some(flag) = text.strip_prefix('-').filter(|rest| !rest.is_empty()) else {
            let next = command.find_subcommand(text);
            result.push(argument);
            match next {
                Some(next) => command = next,
                None => break,
            }
            continue;
        };
        if flag == "-" {
            result.push(argument);
            break;
        }
        let name = flag.strip_prefix('-').unwrap_or(flag);
        let (name, value) = match name.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (name, None),
        };
        let Some(known) = find(command, name) else {
            result.push(argument);
            continue;
        };
        let dashes = if name.chars().count() == 1 { "-" } else { "--" };
        if matches!(known.get_action(), ArgAction::Set | ArgAction::Append) {
            let value = match value {
                Some(value) => Some(OsString::from(value)),
                None => arguments.next(),
            };
            let mut whole = OsString::from(format!("{dashes}{name}"));
            // Joined, a value may begin with a dash.
            if let Some(value) = value {
                whole.push("=");
                whole.push(value);
            }
            result.push(whole);
        } else if !matches!(value, Some("false" | "0" | "f" | "F" | "FALSE" | "False")) {
            result.push(OsString::from(format!("{dashes}{name}")));
        }
    }
    result.extend(arguments);
    result
}

fn find<'a>(command: &'a Command, name: &str) -> Option<&'a Arg> {
    command.get_arguments().find(|argument| {
        argument.get_long() == Some(name)
            || argument.get_all_aliases().is_some_and(|aliases| aliases.contains(&name))
            || argument.get_short().is_some_and(|short| short.to_string() == name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(line: &str) -> String {
        let command = Command::new("ctr")
            .arg(Arg::new("namespace").long("namespace").short('n').action(ArgAction::Set))
            .arg(Arg::new("debug").long("debug").action(ArgAction::SetTrue))
            .subcommand(
                Command::new("run")
                    .arg(Arg::new("rm").long("rm").action(ArgAction::SetTrue))
                    .arg(Arg::new("env").long("env").action(ArgAction::Append)),
            );
        let words = as_clap(&command, line.split(' ').map(OsString::from));
        words.into_iter().map(|word| word.into_string().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn gos_forms_are_understood() {
        assert_eq!(rewritten("ctr -namespace k run"), "ctr --namespace=k run");
        assert_eq!(rewritten("ctr -n=k --debug=true run -rm"), "ctr -n=k --debug run --rm");
        assert_eq!(rewritten("ctr -n k -debug=false run"), "ctr -n=k run");
        assert_eq!(rewritten("ctr run -env -A=1 --env B=2"), "ctr run --env=-A=1 --env=B=2");
    }

    #[test]
    fn what_follows_the_first_word_is_the_containers() {
        let line = "ctr run --rm image id sh -env -rm=false";
        assert_eq!(rewritten(line), line);
        assert_eq!(rewritten("ctr run -- -rm"), "ctr run -- -rm");
        assert_eq!(rewritten("ctr -unknown run -rm"), "ctr -unknown run --rm");
    }
}
