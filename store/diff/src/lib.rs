//! tar to folder tree and back, decompression, digests in the same pass.
//!
//! Types: the trait [`Differ`] and its implementations [`WalkingDiffer`], [`ErofsDiffer`] and
//! [`ProxyDiffer`]; [`Processors`], programs that decode layers; below them [`apply_layer`],
//! which inflates, hashes and unpacks a layer in one pass, and [`write_diff`], which writes what one
//! tree has changed against another. [`tar`] is the format itself.
//!
//! Errors: [`ApplyError`], [`CompareError`], [`tar::TarError`].
//!
//! Laws: what a layer says is untrusted. No entry reaches outside of the tree's root, by whatever
//! name, link or replaced folder; memory does not grow with the number or size of entries,
//! but for what is said at each table; every stream that is cut or damaged ends in an error.

mod apply;
mod compare;
mod compress;
mod differ;
mod erofs;
mod layer;
pub mod media;
mod processor;
mod proxy;
pub mod tar;
mod walking;

pub use apply::{ApplyError, ApplyResult, Target, Whiteouts, apply_layer, apply_tar, decompress};
pub use compare::{CompareError, TreeOptions, write_diff, write_overlay_diff};
pub use compress::Encoder;
pub use differ::{ApplyOptions, CompareOptions, Differ};
pub use erofs::ErofsDiffer;
pub use processor::{Plan, Processors, Stream, StreamProcessor};
pub use proxy::ProxyDiffer;
pub use walking::WalkingDiffer;
