//! Ours and Debian's containerd side by side: `cargo xtask bench`.
//!
//! Every measure runs all daemons in turn, round by round, so that a busy machine hurts all alike;
//! the table shows medians, and the ratio of ours to containerd 2.1. The OCI runtime program is the
//! same for all. A number that was not measured is not shown: a measure that fails is named below
//! the table, and the bench fails.

mod api;
mod churn;
mod clients;
mod collect;
mod content;
mod cycles;
mod drain;
mod exec;
mod execs;
mod image;
mod import;
mod latency;
mod list;
mod machine;
mod memory;
mod metadata;
mod readme;
mod report;
mod restart;
mod rounds;
mod run;
mod shim;
mod side;
mod slow;
mod timed;
mod v0;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};

use report::{Report, Row};

/// Measures ours and Debian's containerd side by side, in turns.
#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Arguments {
    /// Few rounds: shows that the bench works, and roughly where things are.
    #[arg(long)]
    quick: bool,
    /// Only this measure; may be given again.
    #[arg(long, value_enum)]
    only: Vec<Measure>,
    /// Rounds of each measure, instead of each one's own number.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: Option<u16>,
    /// Containers that run while a daemon is started again.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    containers: u16,
    /// The sides: ours, forky (containerd 2.1, what promises are about), bookworm (1.6).
    #[arg(long, value_delimiter = ',', default_value = "ours,forky,bookworm", value_parser = side::maker)]
    sides: Vec<e2e::Maker>,
    /// Print all samples to standard error.
    #[arg(long)]
    samples: bool,
    /// Put the table into README.md, between its two marks.
    #[arg(long)]
    write_readme: bool,
}

/// What is measured, in the order of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Measure {
    /// Memory of an idle daemon and of a shim.
    Memory,
    /// `ctr run --rm`.
    Run,
    /// Containers per second, 16 at once.
    Cycles,
    /// Import and unpack of an image.
    Import,
    /// Metadata writes per second.
    Metadata,
    /// A blob of 256 MiB, written and read.
    ContentLarge,
    /// Blobs of 4 KiB per second.
    ContentSmall,
    /// A list of 10,000 images.
    List,
    /// How long writers wait while garbage is collected.
    Collect,
    /// Latency of one call.
    Latency,
    /// Start of a shim.
    Shim,
    /// Latency of a container's first process, and of an exec.
    Exec,
    /// Start of a daemon that has running containers.
    Restart,
    /// The API of 0.2 beside today's.
    V0,
    /// A thousand containers of 0.2, and the order of their events; only when asked for.
    V0Order,
    /// 20,000 execs in one container, and what is kept of them; only if it is named.
    Execs,
    /// 2,000 lives of containers while daemons and shims are killed; only if it is named.
    Churn,
}

impl Measure {
    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    fn take(self, plan: &side::Plan, containers: u16) -> Result<Vec<Row>> {
        match self {
            Measure::Memory => memory::measure(plan),
            Measure::Run => run::measure(plan),
            Measure::Cycles => cycles::measure(plan),
            Measure::Import => import::measure(plan),
            Measure::Metadata => metadata::measure(plan),
            Measure::ContentLarge => content::large(plan),
            Measure::ContentSmall => content::small(plan),
            Measure::List => list::measure(plan),
            Measure::Collect => collect::measure(plan),
            Measure::Latency => latency::measure(plan),
            Measure::Shim => shim::measure(plan),
            Measure::Exec => exec::measure(plan),
            Measure::Restart => restart::measure(plan, usize::from(containers)),
            Measure::V0 => v0::measure(plan),
            Measure::V0Order => v0::order(plan),
            Measure::Execs => execs::measure(plan),
            Measure::Churn => churn::measure(plan),
        }
    }
}

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    let outcome = match words.split_first() {
        Some((first, rest)) if first == timed::COMMAND => timed::main(rest),
        _ => bench(&Arguments::parse()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench(arguments: &Arguments) -> Result<()> {
    rounds::stop_at_signals()?;
    let plan = side::Plan::new(
        arguments.quick,
        arguments.rounds.map(usize::from),
        arguments.sides.clone(),
        arguments.samples,
    )?;
    let mut report = Report::new(machine::facts(&plan)?);
    for measure in Measure::value_variants() {
        let wanted = match arguments.only.as_slice() {
            [] => !matches!(measure, Measure::V0Order | Measure::Execs | Measure::Churn),
            only => only.contains(measure),
        };
        if !wanted {
            continue;
        }
        rounds::check()?;
        eprintln!("bench: {}", measure.name());
        match measure.take(&plan, arguments.containers) {
            Ok(rows) => report.rows.extend(rows),
            Err(error) => {
                rounds::check()?;
                eprintln!("bench: {}: {error:#}", measure.name());
                report.failures.push(format!("{}: {}", measure.name(), first_line(&error)));
            }
        }
    }
    report.load_at_end = machine::load()?;
    let text = report.to_string();
    print(&text)?;
    if arguments.write_readme {
        readme::write(&text).context("README.md")?;
    }
    if !report.failures.is_empty() {
        bail!("{} of the measures failed", report.failures.len());
    }
    Ok(())
}

fn print(text: &str) -> Result<()> {
    use std::io::Write;
    Ok(std::io::stdout().lock().write_all(text.as_bytes())?)
}

fn first_line(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    text.lines().next().unwrap_or_default().to_owned()
}
