//! Functions that take bytes which nobody has checked; libFuzzer and the tests call them.
//!
//! [`TARGETS`] are the parsers that images, clients and damaged disks can reach; each is a function
//! of bytes that must come back: without a panic, without hanging, without memory beyond its
//! bounds. The programs below `cargo-fuzz/` hand them to libFuzzer, which changes inputs by what
//! code they reach: `cargo xtask fuzz`, and for a bounded time the test command. `corpus/<target>/`
//! has what it found worth keeping, and by their names the inputs that were written by hand or once
//! broke a parser; `dictionaries/` has the words of the formats. The tests of this crate call each
//! target with its corpus, without libFuzzer.
//!
//! Errors: none; a parser's errors are expected. Law: a target depends on its input alone.

mod mend;
mod targets;

pub use targets::{any, bolt, documents, filter, gzip, layer, references, tar, zstd};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// A function under test.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, and that of its folder in the corpus.
    pub name: &'static str,
    /// The function.
    pub function: fn(&[u8]),
}

/// All targets.
pub const TARGETS: [Target; 9] = [
    Target { name: "tar", function: tar },
    Target { name: "layer", function: layer },
    Target { name: "gzip", function: gzip },
    Target { name: "zstd", function: zstd },
    Target { name: "bolt", function: bolt },
    Target { name: "filter", function: filter },
    Target { name: "references", function: references },
    Target { name: "documents", function: documents },
    Target { name: "any", function: any },
];

/// Address space that a process with targets may take: what asks for more at once ends it, also if
/// it would never touch it all. zstd's largest window is 128 MiB, threads reserve some.
const MEMORY: u64 = 4 << 30;

/// Bounds the memory of this process; if that fails, libFuzzer's own bound is left.
pub fn limit_memory() {
    let now = getrlimit(Resource::As);
    let most = now.maximum.map_or(MEMORY, |maximum| maximum.min(MEMORY));
    let _ = setrlimit(Resource::As, Rlimit { current: Some(most), maximum: now.maximum });
}
