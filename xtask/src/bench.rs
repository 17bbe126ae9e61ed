//! `cargo xtask bench`: ours and Debian's containerd side by side.

use anyhow::Result;

use crate::build::{self, Profile};
use crate::command::{self, cargo};
use crate::{host, peers};

/// What to measure.
#[derive(clap::Args)]
pub struct Options {
    /// Arguments for the bench program; `--help` lists them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Builds for release and measures.
pub fn run(options: &Options) -> Result<()> {
    host::require_root()?;
    host::install(host::TEST)?;
    let binaries = build::programs(Profile::Release)?;
    let peers = peers::fetch()?;
    let mut command = cargo();
    command.args(["run", "--release", "--quiet", "--package", "e2e", "--bin", "bench", "--"]);
    command.args(&options.arguments);
    command::run(command.env(build::VARIABLE, binaries).env(peers::VARIABLE, peers))
}
