//! The snapshotter trait, its test suite, shared tree records, one module per snapshotter, the proxy.
//!
//! * [`Snapshotter`]: the trait; [`testsuite`] is its contract as code.
//! * [`storage`]: the tree records that snapshotters share.
//! * [`OverlaySnapshotter`], [`NativeSnapshotter`], [`BtrfsSnapshotter`], [`BlockfileSnapshotter`],
//!   [`DevmapperSnapshotter`], [`ErofsSnapshotter`]: snapshotters.
//! * [`NamespacedSnapshots`], [`NamespacedSnapshotter`]: records of namespaces over one of them, and
//!   the sweep.
//! * [`ProxySnapshotter`]: a snapshotter behind the gRPC service.
//!
//! Errors: [`SnapshotError`], which meets others as `base_errors::Error`.
//!
//! Laws: a record never names a folder that was not there when the record was made; folders are
//! removed only after their records, and never in a transaction.

mod blockfile;
mod btrfs;
mod devmapper;
mod erofs;
mod error;
mod folders;
mod labels;
mod local;
mod namespaced;
mod native;
mod overlay;
mod program;
mod proxy;
mod snapshotter;
pub mod storage;
pub mod testsuite;

pub use blockfile::{BlockfileConfig, BlockfileSnapshotter, copy_image};
pub use btrfs::BtrfsSnapshotter;
pub use devmapper::{DevmapperConfig, DevmapperSnapshotter};
pub use erofs::{ErofsConfig, ErofsSnapshotter, make_erofs_layer};
pub use error::SnapshotError;
pub use labels::{
    LABEL_GID_MAPPING, LABEL_INHERITED_PREFIX, LABEL_MAX_SIZE, LABEL_SNAPSHOT_REF,
    LABEL_UID_MAPPING, inherited,
};
pub use namespaced::{NamespacedSnapshots, NamespacedSnapshotter};
pub use native::NativeSnapshotter;
pub use overlay::{
    CAPABILITY_ONLY_REMAP_IDS, CAPABILITY_REBASE, CAPABILITY_REMAP_IDS, OverlayConfig,
    OverlaySnapshotter, Probe,
};
pub use proxy::ProxySnapshotter;
pub use snapshotter::{Info, Kind, Snapshotter, UpdateField, Usage};
