//! `cargo xtask vm`: a machine with nothing but version 2 of control groups, with systemd, and with
//! the devices and file systems that machines for building lack.
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

/// How long the tests may take: they need a quarter of an hour, and machines may be busy.
const TESTS_LIMIT: Duration = Duration::from_secs(2400);

/// Tells tests that they run in the machine, where none of its own may be skipped.
const VARIABLE: &str = "IRONHULL_MACHINE";

/// Tests that are for such a machine: the folder of their package, and parts of their names. Those
/// of snapshotters are for its kernel, which has devices and quotas that others lack, and for its
/// newer programs.
const TESTS: [(&str, &str); 2] = [
    ("store/snapshot", "disks::devmapper disks::overlay_quota"),
    (
        "tests",
        "cgroup_v2:: snapshotters::on_devmapper snapshotters::on_erofs_with_its_differ \
         durability::devices::on_devmapper durability::devices::on_erofs_with_its_differ",
    ),
];

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
        say("skipped the tests on another machine: User Mode Linux is for x86-64");
        return Ok(());
    }
    let machine = match Machine::get() {
        Ok(machine) => machine,
        Err(error) => {
            say(&format!("skipped the tests on another machine: {error:#}"));
            return Ok(());
        }
    };
    let quoted = |path: &Path| quoted(&path.display().to_string());
    let mut script = format!(
        "export {}={} {}={} {VARIABLE}=1\nfailed=0\n",
        build::VARIABLE,
        quoted(binaries),
        peers::VARIABLE,
        quoted(peers),
    );
    let told = built_tests()?;
    for (package, parts) in TESTS {
        let program = program_in(&told, package)
            .with_context(|| format!("cargo has not told where the tests of {package} are"))?;
        script +=
            &format!("{} {parts} --test-threads=1 --nocapture || failed=1\n", quoted(&program));
    }
    script += "exit $failed\n";
    say("running tests on version 2 of control groups and on thin devices, in User Mode Linux");
    let shared = vec![target_dir(), binaries.to_owned(), peers.to_owned()];
    match machine.run(&Job { script, shared, limit: TESTS_LIMIT })? {
        0 => Ok(()),
        status => bail!("the tests in User Mode Linux failed with status {status}"),
    }
}

/// What cargo says of the test programs, which have been built already.
fn built_tests() -> Result<String> {
    let mut command = cargo();
    command.args(["test", "--workspace", "--no-run", "--quiet", "--message-format=json"]);
    output(&mut command)
}

/// The path of the test program `it` of the package in the folder `package`, in cargo's messages.
// A parser of JSON is not worth a dependency here: one line has all that is looked for.
fn program_in(messages: &str, package: &str) -> Option<PathBuf> {
    let manifest = format!("/{package}/Cargo.toml\"");
    messages
        .lines()
        .filter(|line| line.contains("\"compiler-artifact\"") && line.contains(&manifest))
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
        assert_eq!(program_in(&text, "tests"), Some("/t/it-1".into()));
        assert_eq!(program_in(&text, "x"), Some("/t/it-2".into()));
        assert_eq!(program_in(&other, "tests"), None);
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
