//! `cargo xtask test`: set up, then every check, the demo, every test, and fuzzing.

use anyhow::{Result, bail};

use crate::build::{self, Profile};
use crate::command::{self, cargo, say};
use crate::{demo, fuzz, host, peers, vm};

/// What to run.
#[derive(clap::Args)]
pub struct Options {
    /// Only the tests: no formatting, lints and documentation.
    #[arg(long)]
    no_lints: bool,
    /// Arguments for `cargo test`, such as `-p store-bolt` or a name; all of the workspace if empty.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Builds what the tests run, and runs them.
fn tests(options: &Options) -> Result<()> {
    let binaries = build::programs(Profile::Test)?;
    let peers = peers::fetch()?;
    if options.arguments.is_empty() {
        demo::show(&binaries)?;
    }
    let mut command = cargo();
    command.arg("test").env(build::VARIABLE, &binaries).env(peers::VARIABLE, &peers);
    if options.arguments.is_empty() {
        command.args(["--workspace", "--no-fail-fast"]);
    } else {
        command.args(&options.arguments);
    }
    command::run(&mut command)?;
    if options.arguments.is_empty() {
        fuzz::tests()?;
        vm::tests(&binaries, &peers)?;
    }
    Ok(())
}

/// Sets up, checks, tests.
pub fn run(options: &Options) -> Result<()> {
    host::require_root()?;
    host::install(host::TEST)?;
    if !options.no_lints {
        lints()?;
    }
    tests(options)
}

/// Formatting, lints and documentation; parts of the toolchain that are not installed are named.
fn lints() -> Result<()> {
    let steps: [(&str, &[&str]); 3] = [
        ("fmt", &["fmt", "--all", "--check"]),
        ("clippy", &["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]),
        ("doc", &["doc", "--workspace", "--no-deps", "--quiet"]),
    ];
    for (name, arguments) in steps {
        if name != "doc" && !has_component(name) {
            say(&format!("skipped cargo {name}: the toolchain has no such component"));
            continue;
        }
        say(&format!("cargo {name}"));
        let mut command = cargo();
        command.args(arguments).env("RUSTDOCFLAGS", "-D warnings");
        if let Err(error) = command::run(&mut command) {
            bail!("cargo {name} is not clean: {error}");
        }
    }
    Ok(())
}

/// True if `cargo <name>` can be run.
fn has_component(name: &str) -> bool {
    cargo().args([name, "--version"]).output().is_ok_and(|output| output.status.success())
}
