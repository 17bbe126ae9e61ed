//! What is compared: a daemon with its shim, everything else the same.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use e2e::world::Options;
use e2e::{Maker, World, words};

use crate::rounds::{self, Samples};
use crate::timed;

/// How the bench is run.
#[derive(Debug)]
pub struct Plan {
    /// Few rounds.
    pub quick: bool,
    rounds: Option<usize>,
    /// The sides.
    pub makers: Vec<Maker>,
    /// All samples go to standard error.
    pub samples: bool,
    program: PathBuf,
}

impl Plan {
    /// A plan for the sides of `makers`.
    ///
    /// # Errors
    ///
    /// A program is missing.
    pub fn new(
        quick: bool,
        rounds: Option<usize>,
        makers: Vec<Maker>,
        samples: bool,
    ) -> Result<Plan> {
        for maker in &makers {
            maker.daemon()?;
            maker.shim()?;
        }
        Maker::Forky.ctr()?;
        let program = std::env::current_exe().context("find our own program")?;
        Ok(Plan { quick, rounds, makers, samples, program })
    }

    /// Rounds of a measure: `full`, fewer in a quick run, or what the command line says.
    #[must_use]
    pub fn rounds(&self, full: usize, quick: usize) -> usize {
        self.rounds.unwrap_or(if self.quick { quick } else { full })
    }

    /// A side for each maker; with the small image if wanted.
    ///
    /// # Errors
    ///
    /// A daemon does not start.
    pub fn sides(&self, with_image: bool) -> Result<Vec<Side>> {
        self.makers.iter().map(|&maker| self.side(maker, with_image)).collect()
    }

    /// The side of `maker`.
    ///
    /// # Errors
    ///
    /// The daemon does not start.
    pub fn side(&self, maker: Maker, with_image: bool) -> Result<Side> {
        let make = if with_image { World::with_image } else { World::new };
        let world = make(options(maker)?).with_context(|| format!("the side of {maker}"))?;
        Ok(Side { maker, world, program: self.program.clone() })
    }

    /// The side of `maker`, whose daemon has `environment` beside the usual.
    ///
    /// # Errors
    ///
    /// The daemon does not start.
    pub fn side_in(&self, maker: Maker, environment: Vec<(String, String)>) -> Result<Side> {
        let world = World::new(Options { environment, ..options(maker)? })
            .with_context(|| format!("the side of {maker}"))?;
        Ok(Side { maker, world, program: self.program.clone() })
    }

    /// The side of `maker` without a daemon.
    ///
    /// # Errors
    ///
    /// The folders cannot be made.
    pub fn side_without_daemon(&self, maker: Maker) -> Result<Side> {
        let world = World::without_daemon(options(maker)?)?;
        Ok(Side { maker, world, program: self.program.clone() })
    }

    /// The medians of metric `at`, with their makers.
    #[must_use]
    pub fn medians(&self, samples: &[Samples], at: usize) -> Vec<(Maker, f64)> {
        let value = |samples| rounds::median(samples, at);
        self.makers.iter().copied().zip(samples.iter().map(value)).collect()
    }
}

/// The side with that name.
///
/// # Errors
///
/// There is none.
pub fn maker(name: &str) -> Result<Maker, String> {
    [Maker::Ours, Maker::Forky, Maker::Bookworm]
        .into_iter()
        .find(|maker| maker.to_string() == name)
        .ok_or_else(|| "expected ours, forky or bookworm".to_owned())
}

/// Daemon and shim of `maker`; the client is containerd 2.1's for all.
fn options(maker: Maker) -> Result<Options> {
    Ok(Options::new(Maker::Forky)?.pair(maker, maker))
}

/// One daemon with its shim.
#[derive(Debug)]
pub struct Side {
    /// Who made them.
    pub maker: Maker,
    /// Where they run.
    pub world: World,
    program: PathBuf,
}

impl Side {
    /// The wall time of `client`'s `ctr` with the words of `line`, from its start to its end, in seconds.
    ///
    /// # Errors
    ///
    /// It fails, or takes longer than `limit`.
    pub fn time_ctr(&self, client: Maker, line: &str, limit: Duration) -> Result<f64> {
        let ctr = client.ctr()?;
        let mut command = self.timer(Path::new("/"));
        command.arg(limit.as_secs().to_string()).arg(ctr);
        command.arg("--address").arg(self.world.socket());
        command.args(["--namespace", self.world.namespace()]).args(words::split(line));
        let output = command.stdin(Stdio::null()).output().context("time ctr")?;
        if !output.status.success() {
            bail!("ctr {line}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        timed::seconds(&output.stdout)
    }

    /// A command in the world that times another in `folder`: it wants the limit in seconds, then
    /// the words.
    #[must_use]
    pub fn timer(&self, folder: &Path) -> Command {
        let mut command = self.world.command(Path::new("/usr/bin/env"));
        command.arg("-C").arg(folder).arg(&self.program).arg(timed::COMMAND);
        command
    }
}
