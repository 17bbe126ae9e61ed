//! `cargo xtask fuzz`: libFuzzer on the parsers, for a bounded time.
//!
//! ```text
//! fuzz/corpus/<target>/          inputs that are kept: with names, or found (named by their SHA-1)
//! fuzz/dictionaries/<target>     words of the format
//! <target>/<triple>/debug/       the programs; built with other flags than everything else
//! <target>/fuzz/found/<target>/  inputs that reached new code in runs on this machine
//! <target>/fuzz/failed/          inputs that broke a target
//! <target>/fuzz/<target>.log     what libFuzzer said last
//! ```
//!
//! The programs are those of cargo-fuzz without a sanitizer, built with the flags that it sets; so
//! the stable compiler will do, and nothing has to be installed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::command::{self, cargo, repository, say, target_dir};
use crate::host::{self, Need};

/// The targets, and the longest input that libFuzzer makes for each: a small one that says
/// everything is worth more than a large one, which only takes longer.
const TARGETS: [(&str, u32); 9] = [
    ("tar", 8 << 10),
    ("layer", 8 << 10),
    ("gzip", 4 << 10),
    ("zstd", 4 << 10),
    ("bolt", 24 << 10),
    ("filter", 256),
    ("references", 256),
    ("documents", 4 << 10),
    ("any", 1 << 10),
];

/// Time for each target in the test command.
pub const TEST_SECONDS: u32 = 10;

/// Resident memory of a target beyond which libFuzzer calls its input a failure, in MiB. zstd may
/// take a window of 128, libFuzzer keeps the corpus.
const MEMORY: u32 = 768;

/// Seconds that one input may take: they take milliseconds, also on a busy machine.
const PATIENCE: u32 = 30;

/// How long after its time a program may still run: it replays what it has first.
const GRACE: Duration = Duration::from_secs(300);

/// What makes the compiler count which code an input reaches, and show what it compares.
const COVERAGE: [&str; 6] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// What the build needs beyond Rust.
const NEEDS: &[Need] =
    &[Need { program: "g++", package: "g++", why: "compiles libFuzzer, which is C++" }];

/// What to fuzz.
#[derive(clap::Args)]
pub struct Options {
    /// Time for each target.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Afterwards take what was found into the kept corpus, and out of it what others say as well.
    #[arg(long)]
    merge: bool,
    /// The targets; all if none is named.
    #[arg(value_parser = TARGETS.map(|(name, _)| name))]
    targets: Vec<String>,
}

/// Builds the targets, runs them, and merges if that is asked for.
pub fn run(options: &Options) -> Result<()> {
    let chosen =
        |name: &str| options.targets.is_empty() || options.targets.iter().any(|t| t == name);
    let targets: Vec<_> = TARGETS.into_iter().filter(|(name, _)| chosen(name)).collect();
    let fuzzer = Fuzzer::build()?;
    fuzzer.run(&targets, options.seconds)?;
    if options.merge {
        for (name, most) in targets {
            fuzzer.merge(name, most)?;
        }
    }
    Ok(())
}

/// Each target for a bounded time, as a part of the tests.
pub fn tests() -> Result<()> {
    Fuzzer::build()?.run(&TARGETS, TEST_SECONDS)
}

/// The programs, and where they work.
struct Fuzzer {
    programs: PathBuf,
    folder: PathBuf,
}

impl Fuzzer {
    fn build() -> Result<Fuzzer> {
        host::install(NEEDS)?;
        say("building the fuzz targets, with counters of coverage");
        let sources = repository().join("fuzz/cargo-fuzz");
        let folder = target_dir().join("fuzz");
        // The same versions of everything as in the programs; cargo adds what libFuzzer needs.
        let (from, to) = (repository().join("Cargo.lock"), sources.join("Cargo.lock"));
        let modified =
            |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
        if modified(&to) <= modified(&from) {
            fs::copy(from, to)?;
        }
        let triple = triple()?;
        let mut command = cargo();
        // With a named triple, what runs while building is compiled without the counters.
        command.current_dir(&sources).args(["build", "--quiet", "--bins", "--target", &triple]);
        command.env_remove("CARGO_INCREMENTAL").env_remove("RUSTFLAGS");
        // What runs while building is shared with all else; the rest is below the target's name.
        command.env("CARGO_TARGET_DIR", target_dir());
        command.env("CARGO_ENCODED_RUSTFLAGS", COVERAGE.join("\u{1f}"));
        command::run(&mut command)?;
        Ok(Fuzzer { programs: target_dir().join(triple).join("debug"), folder })
    }

    fn found(&self, name: &str) -> PathBuf {
        self.folder.join("found").join(name)
    }

    /// Runs `targets`, as many at once as there are processors; fails if one does.
    fn run(&self, targets: &[(&str, u32)], seconds: u32) -> Result<()> {
        say(&format!("fuzzing {} targets, each for {seconds} s", targets.len()));
        let next = AtomicUsize::new(0);
        let failures = Mutex::new(Vec::new());
        let work = || {
            while let Some((name, most)) = targets.get(next.fetch_add(1, Ordering::SeqCst)) {
                match self.target(name, *most, seconds) {
                    Ok(told) => say(&format!("fuzz {name}: {told}")),
                    Err(error) => {
                        say(&format!("fuzz {name}: FAILED"));
                        let mut failures = failures.lock().unwrap_or_else(|lock| lock.into_inner());
                        failures.push(format!("{error:#}"));
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
                scope.spawn(work);
            }
        });
        let failures = failures.into_inner().unwrap_or_else(|lock| lock.into_inner());
        if !failures.is_empty() {
            bail!("{}", failures.join("\n"));
        }
        Ok(())
    }

    /// A program of libFuzzer with what all runs share.
    fn program(&self, name: &str, most: u32) -> Result<Command> {
        let mut command = Command::new(self.programs.join(name));
        let failed = self.folder.join("failed");
        fs::create_dir_all(&failed)?;
        command
            .arg(format!("-max_len={most}"))
            .arg(format!("-rss_limit_mb={MEMORY}"))
            .arg(format!("-timeout={PATIENCE}"))
            .arg(format!("-report_slow_units={PATIENCE}"))
            .arg(format!("-artifact_prefix={}/{name}-", failed.display()))
            .stdin(Stdio::null());
        Ok(command)
    }

    /// Runs one target; tells what it did. The error names the input and ends with the log's end.
    fn target(&self, name: &str, most: u32, seconds: u32) -> Result<String> {
        let found = self.found(name);
        fs::create_dir_all(&found)?;
        let mut command = self.program(name, most)?;
        command
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-dict={}", repository().join("fuzz/dictionaries").join(name).display()))
            .arg("-print_final_stats=1")
            // What is found goes into the first folder; the others are read.
            .args([&found, &corpus(name)]);
        let log = self.log(name, &mut command, Duration::from_secs(seconds.into()))?;
        let last = |mark: &str| {
            let (_, after) = log.rsplit_once(mark)?;
            after.split_whitespace().next()
        };
        let word = |mark| last(mark).unwrap_or("?");
        if word("stat::number_of_executed_units:") == "?" {
            bail!("target {name} did not say what it ran:\n{}", end_of(&log));
        }
        Ok(format!(
            "{} inputs, {} edges and {} features covered, {} new inputs, at most {} MiB",
            word("stat::number_of_executed_units:"),
            word(" cov: "),
            word(" ft: "),
            word("stat::new_units_added:"),
            word("stat::peak_rss_mb:"),
        ))
    }

    /// Runs `command` to its end, or kills it long after `time`; gives what it said.
    fn log(&self, name: &str, command: &mut Command, time: Duration) -> Result<String> {
        let path = self.folder.join(format!("{name}.log"));
        let file = File::create(&path)?;
        command.stdout(file.try_clone()?).stderr(file);
        let shown = format!("{command:?}");
        let mut child = command.spawn().with_context(|| format!("cannot start {shown}"))?;
        let end = Instant::now() + time + GRACE;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break Some(status);
            }
            if Instant::now() > end {
                child.kill()?;
                child.wait()?;
                break None;
            }
            std::thread::sleep(Duration::from_millis(100));
        };
        let log = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
        let input =
            log.rsplit_once("Test unit written to ").and_then(|(_, rest)| rest.lines().next());
        let input = match input {
            Some(input) => format!("the input is {input}"),
            None => "it left no input".to_owned(),
        };
        match status {
            Some(status) if status.success() => Ok(log),
            Some(status) => bail!("target {name} failed ({status}); {input}\n{}", end_of(&log)),
            None => bail!("target {name} did not end; {input}\n{}", end_of(&log)),
        }
    }

    /// Takes what was found into the kept corpus: of all inputs without a name of their own, few
    /// stay that together reach all code that any of them does.
    fn merge(&self, name: &str, most: u32) -> Result<()> {
        let (found, kept) = (self.found(name), corpus(name));
        let merged = self.folder.join("merged").join(name);
        let _ = fs::remove_dir_all(&merged);
        fs::create_dir_all(&merged)?;
        let mut command = self.program(name, most)?;
        // What code is reached counts, not how often: the corpus is for people's repositories.
        command.args(["-set_cover_merge=1", "-use_counters=0"]).args([&merged, &kept, &found]);
        self.log(name, &mut command, GRACE)?;
        let mut bytes = 0;
        for entry in fs::read_dir(&kept)? {
            let entry = entry?;
            if is_hash(&entry.path()) {
                fs::remove_file(entry.path())?;
            } else {
                bytes += entry.metadata()?.len();
                // One that was merged again under its hash is not kept twice.
                let same = fs::read(entry.path())?;
                for other in fs::read_dir(&merged)? {
                    let other = other?.path();
                    if fs::read(&other)? == same {
                        fs::remove_file(other)?;
                    }
                }
            }
        }
        let mut count = 0;
        for entry in fs::read_dir(&merged)? {
            let entry = entry?;
            bytes += fs::copy(entry.path(), kept.join(entry.file_name()))?;
            count += 1;
        }
        fs::remove_dir_all(&merged)?;
        say(&format!("corpus of {name}: {count} found inputs, {} KiB in all", bytes / 1024));
        Ok(())
    }
}

/// The kept inputs of a target.
fn corpus(name: &str) -> PathBuf {
    repository().join("fuzz/corpus").join(name)
}

/// Whether libFuzzer gave the file its name.
fn is_hash(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.len() == 40 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The last lines of a log.
fn end_of(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

/// What the compiler compiles for when it is not told.
fn triple() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let told = command::output(Command::new(rustc).arg("-vV").current_dir(repository()))?;
    let host = told.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc does not say what it compiles for")
}
