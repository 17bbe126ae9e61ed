//! Functions that take bytes which nobody has checked, and a bounded runner that changes them.
//!
//! [`TARGETS`] are the parsers that images, clients and damaged disks can reach; each is a function
//! of bytes that must come back: without a panic, without hanging, without memory beyond its
//! bounds. [`run`] feeds one from its seeds and the kept files below `corpus/`, changed by a
//! generator whose numbers are always the same; the tests run each for a bounded count. The programs
//! below `cargo-fuzz/` hand the same functions to libFuzzer, for whoever has a nightly compiler.
//!
//! An input that once broke a parser is kept as a file in `corpus/<target>/`.
//!
//! Errors: none; a parser's errors are expected. Law: a target depends on its input alone.

mod mutate;
mod seeds;
mod targets;

pub use mutate::Mutator;
pub use targets::{any, bolt, documents, filter, gzip, layer, references, tar, zstd};

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

/// A function under test.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, and that of its folder in the corpus.
    pub name: &'static str,
    /// The function.
    pub function: fn(&[u8]),
    /// What it begins with.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Inputs of one run in the test command: a few seconds of work.
    pub rounds: usize,
}

/// All targets.
pub const TARGETS: [Target; 9] = [
    Target { name: "tar", function: tar, seeds: seeds::tar, rounds: 40_000 },
    Target { name: "layer", function: layer, seeds: seeds::tar, rounds: 4_000 },
    Target { name: "gzip", function: gzip, seeds: seeds::gzip, rounds: 10_000 },
    Target { name: "zstd", function: zstd, seeds: seeds::zstd, rounds: 40_000 },
    Target { name: "bolt", function: bolt, seeds: seeds::bolt, rounds: 2_000 },
    Target { name: "filter", function: filter, seeds: seeds::filter, rounds: 4_000 },
    Target { name: "references", function: references, seeds: seeds::references, rounds: 20_000 },
    Target { name: "documents", function: documents, seeds: seeds::documents, rounds: 8_000 },
    Target { name: "any", function: any, seeds: seeds::any, rounds: 60_000 },
];

/// Gives `target` its seeds, the kept files in `corpus` and `rounds` changed inputs, always the
/// same ones for the same `start`.
///
/// # Panics
/// If the target does; the input is told before.
pub fn run(target: &Target, corpus: &Path, rounds: usize, start: u64) {
    let mut inputs = (target.seeds)();
    if let Ok(kept) = std::fs::read_dir(corpus.join(target.name)) {
        let mut paths: Vec<_> = kept.filter_map(|entry| Some(entry.ok()?.path())).collect();
        paths.sort();
        inputs.extend(paths.into_iter().filter_map(|path| std::fs::read(path).ok()));
    }
    for input in &inputs {
        call(target, input);
    }
    let mut mutator = Mutator::new(start);
    for _ in 0..rounds {
        let input = mutator.change(&inputs);
        call(target, &input);
    }
}

fn call(target: &Target, input: &[u8]) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (target.function)(input))) {
        let mut shown = String::new();
        for byte in input {
            shown.push_str(&format!("{byte:02x}"));
        }
        tell(target.name, &shown);
        resume_unwind(panic);
    }
}

/// Shows the input where the test fails.
fn tell(name: &str, shown: &str) {
    eprintln!("target {name} panics with the input {shown}");
}
