//! What every differ can do.

use async_trait::async_trait;
use base_errors::Result;
use base_ident::{Descriptor, Labels};
use kernel_mount::Mount;
use std::collections::BTreeMap;
use std::time::SystemTime;
use store_metadata::Scope;

/// How a layer is applied.
#[derive(Clone, Debug, Default)]
pub struct ApplyOptions {
    /// Flush the file system of the target afterwards (a client's wish, `sync_fs`).
    pub sync_fs: bool,
    /// The mounts are of a snapshot without a parent, and will be put onto their parent when they
    /// are committed: deletions are kept as overlayfs keeps them. A layer that needs its parent
    /// now is refused as FailedPrecondition; it must be applied on its parent.
    pub parent_comes_later: bool,
    /// What the client sends along for stream processors, by their ids: serialised `Any`s.
    pub payloads: BTreeMap<String, Vec<u8>>,
    /// Whose call it is: for differs that are other programs, which find the content by it.
    pub scope: Option<Scope>,
}

/// How two trees are compared.
#[derive(Clone, Debug, Default)]
pub struct CompareOptions {
    /// Media type of the result; empty means OCI tar+gzip.
    pub media_type: String,
    /// Name of the ingest that takes the result; empty makes one up.
    pub reference: String,
    /// Labels of the resulting content.
    pub labels: Labels,
    /// Time for every entry that is newer, for reproducible layers.
    pub source_date_epoch: Option<SystemTime>,
    /// Whose call it is: for differs that are other programs, which find the content by it.
    pub scope: Option<Scope>,
}

/// Turns layers into trees and trees into layers. The content store that it reads from and
/// writes to is namespaced already, and passed in by the caller.
#[async_trait]
pub trait Differ: Send + Sync {
    /// Applies the layer `descriptor` to the tree of `mounts`.
    ///
    /// Gives the descriptor of the uncompressed tar: media type OCI tar, diff id, size.
    /// NotImplemented if the media type is not one of this differ.
    async fn apply(
        &self,
        content: &dyn store_content::Store,
        descriptor: &Descriptor,
        mounts: &[Mount],
        options: ApplyOptions,
    ) -> Result<Descriptor>;

    /// Writes what `upper` has changed against `lower` as a layer into the content store, with
    /// the label `containerd.io/uncompressed`.
    async fn compare(
        &self,
        content: &dyn store_content::Store,
        lower: &[Mount],
        upper: &[Mount],
        options: CompareOptions,
    ) -> Result<Descriptor>;
}
