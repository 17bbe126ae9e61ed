//! Archives in, trees and records and archives out.

#![allow(clippy::unwrap_used, reason = "tests stop at the first failure")]
#![allow(clippy::print_stdout, reason = "skipped tests say why")]

mod archive;
mod bad;
mod containerd;
mod differ;
mod export;
mod import;
mod unpack;
mod world;
