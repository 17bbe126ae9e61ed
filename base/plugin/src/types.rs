//! The plugin types, under containerd's names.

/// Content stores.
pub const CONTENT: &str = "io.containerd.content.v1";
/// Snapshotters.
pub const SNAPSHOTTER: &str = "io.containerd.snapshotter.v1";
/// The metadata database.
pub const METADATA: &str = "io.containerd.metadata.v1";
/// Differs.
pub const DIFFER: &str = "io.containerd.differ.v1";
/// The event exchange.
pub const EVENT: &str = "io.containerd.event.v1";
/// Garbage collection.
pub const GC: &str = "io.containerd.gc.v1";
/// Leases.
pub const LEASE: &str = "io.containerd.lease.v1";
/// Runtimes.
pub const RUNTIME: &str = "io.containerd.runtime.v2";
/// Shims.
pub const SHIM: &str = "io.containerd.shim.v1";
/// Watchers of tasks.
pub const MONITOR: &str = "io.containerd.monitor.task.v1";
/// Monitors of containers.
pub const CONTAINER_MONITOR: &str = "io.containerd.monitor.container.v1";
/// Services inside of the daemon.
pub const SERVICE: &str = "io.containerd.service.v1";
/// gRPC services.
pub const GRPC: &str = "io.containerd.grpc.v1";
/// ttrpc services.
pub const TTRPC: &str = "io.containerd.ttrpc.v1";
/// The transfer service.
pub const TRANSFER: &str = "io.containerd.transfer.v1";
/// Byte streams between client and daemon.
pub const STREAMING: &str = "io.containerd.streaming.v1";
/// Stores of sandbox records.
pub const SANDBOX_STORE: &str = "io.containerd.sandbox.store.v1";
/// Everything else that is inside.
pub const INTERNAL: &str = "io.containerd.internal.v1";
/// In `requires`: everything; such a plugin comes last.
pub const ALL: &str = "*";
