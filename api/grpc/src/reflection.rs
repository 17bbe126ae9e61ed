//! Server reflection: what `grpcurl` and its like read.

use tonic_reflection::server::{Builder, Error, v1, v1alpha};

/// The descriptions of all services that the daemon serves, an encoded `FileDescriptorSet`.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The descriptions of every message that we know, events and metrics with them, an encoded
/// `FileDescriptorSet`: for clients that show messages.
pub const EVERY_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/every.bin"));

/// Full names of all services that the daemon serves, without reflection itself.
pub const SERVICES: [&str; 19] = [
    "containerd.services.containers.v1.Containers",
    "containerd.services.content.v1.Content",
    "containerd.services.diff.v1.Diff",
    "containerd.services.events.v1.Events",
    "containerd.services.images.v1.Images",
    "containerd.services.introspection.v1.Introspection",
    "containerd.services.leases.v1.Leases",
    "containerd.services.mounts.v1.Mounts",
    "containerd.services.namespaces.v1.Namespaces",
    "containerd.services.sandbox.v1.Controller",
    "containerd.services.sandbox.v1.Store",
    "containerd.services.snapshots.v1.Snapshots",
    "containerd.services.streaming.v1.Streaming",
    "containerd.services.tasks.v1.Tasks",
    "containerd.services.transfer.v1.Transfer",
    "containerd.services.version.v1.Version",
    "grpc.health.v1.Health",
    "ironhull.operations.v1.Operations",
    "types.API",
];

/// The reflection service `grpc.reflection.v1`.
///
/// # Errors
/// None with the descriptions that are built in; the signature is the library's.
pub fn reflection_v1() -> Result<v1::ServerReflectionServer<impl v1::ServerReflection>, Error> {
    Builder::configure().register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET).build_v1()
}

/// The reflection service `grpc.reflection.v1alpha`, which older tools ask.
///
/// # Errors
/// As [`reflection_v1`].
pub fn reflection_v1alpha()
-> Result<v1alpha::ServerReflectionServer<impl v1alpha::ServerReflection>, Error> {
    Builder::configure().register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET).build_v1alpha()
}
