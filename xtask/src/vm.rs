//! `cargo xtask vm`: a machine with nothing but version 2 of control groups, and with systemd.
//!
//! Machines that build are often of the hybrid kind, or have no systemd. User Mode Linux is a kernel
//! that runs as an ordinary process and needs no help from the machine's own: it boots from
//! packages of Debian and sees folders of ours at the paths that they have here.

mod image;
mod machine;
mod root;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::command::{cargo, output, repository, say, target_dir};
use crate::{build, host, peers};
use machine::{Job, Machine};

/// How long a command given by hand may take.
const LIMIT: Duration = Duration::from_secs(3600);

/// How long the tests may take: they need a minute or two, and machines may be busy.
const TESTS_LIMIT: Duration = Duration::from_secs(900);

/// Tells tests that they run in the machine, where none of its own may be skipped.
const VARIABLE: &str = "IRONHULL_MACHINE";

/// The tests that are for such a machine.
const TESTS: &str = "cgroup_v2::";

/// What to run.
#[derive(clap::Args)]
pub struct Options {
    /// Another folder that the command shall see, at the same path; the repository and what cargo
    /// builds are seen anyway.
    #[arg(long)]
    share: Vec<PathBuf>,
    /// The command and its arguments; a single one is a script for the shell.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    command: Vec<String>,
}

/// Runs a command in the machine; gives its exit status.
pub fn run(options: &Options) -> Result<u8> {
    host::require_root()?;
    let machine = Machine::get()?;
    let command = match &options.command[..] {
        [script] => script.clone(),
        words => words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "),
    };
    let here = std::env::current_dir()?;
    let mut shared = vec![repository(), target_dir(), here.clone()];
    shared.extend(options.share.iter().cloned());
    let script = format!("cd {}\n{command}\n", quoted(&here.display().to_string()));
    machine.run(&Job { script, shared, limit: LIMIT })
}

/// Runs the tests that need such a machine, with the programs in `binaries`.
pub fn tests(binaries: &Path, peers: &Path) -> Result<()> {
    if std::env::consts::ARCH != "x86_64" {
        say("skipped the tests on version 2 of control groups: User Mode Linux is for x86-64");
        return Ok(());
    }
    let machine = match Machine::get() {
        Ok(machine) => machine,
        Err(error) => {
            say(&format!("skipped the tests on version 2 of control groups: {error:#}"));
            return Ok(());
        }
    };
    let program = test_program()?;
    say("running the tests on version 2 of control groups, in User Mode Linux");
    let quoted = |path: &Path| quoted(&path.display().to_string());
    let script = format!(
        "export {}={} {}={} {VARIABLE}=1\n{} {TESTS} --test-threads=1\n",
        build::VARIABLE,
        quoted(binaries),
        peers::VARIABLE,
        quoted(peers),
        quoted(&program)
    );
    let shared = vec![target_dir(), binaries.to_owned(), peers.to_owned()];
    match machine.run(&Job { script, shared, limit: TESTS_LIMIT })? {
        0 => Ok(()),
        status => bail!("the tests on version 2 of control groups failed with status {status}"),
    }
}

/// The program with the tests, which has been built already.
fn test_program() -> Result<PathBuf> {
    let mut command = cargo();
    command.args(["test", "--workspace", "--no-run", "--quiet", "--message-format=json"]);
    let told = output(&mut command)?;
    program_in(&told).context("cargo has not told where the test program `it` of e2e is")
}

/// The path of the test program `it` of the package `e2e` in cargo's messages.
// A parser of JSON is not worth a dependency here: one line has all that is looked for.
fn program_in(messages: &str) -> Option<PathBuf> {
    messages
        .lines()
        .filter(|line| line.contains("\"compiler-artifact\"") && line.contains("/tests/Cargo.toml"))
        .filter(|line| line.contains("\"name\":\"it\"") && line.contains("\"kind\":[\"test\"]"))
        .filter_map(|line| line.split_once("\"executable\":\"")?.1.split('"').next())
        .map(PathBuf::from)
        .next_back()
}

/// `word` for a shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::{program_in, quoted};

    #[test]
    fn cargo_tells_the_test_program() {
        let line = r#"{"reason":"compiler-artifact","manifest_path":"/r/tests/Cargo.toml","target":{"kind":["test"],"name":"it"},"executable":"/t/it-1","fresh":true}"#;
        let other = line.replace("/tests/", "/x/").replace("it-1", "it-2");
        let text = format!("{line}\n{other}\n{{}}\n");
        assert_eq!(program_in(&text), Some("/t/it-1".into()));
        assert_eq!(program_in(&other), None);
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
