//! Compiles the messages of a shim from `../proto`, without protoc.

use std::error::Error;

/// What a shim says and hears, and nothing else.
const FILES: [&str; 19] = [
    "cgroups/v1.proto",
    "cgroups/v2.proto",
    "containerd/events.proto",
    "containerd/image_events.proto",
    "containerd/options/linux_runc.proto",
    "containerd/options/runc.proto",
    "containerd/options/runtimeoptions.proto",
    "containerd/runtime/bootstrap.proto",
    "containerd/runtime/events_ttrpc.proto",
    "containerd/runtime/sandbox.proto",
    "containerd/runtime/task_v3.proto",
    "containerd/types/descriptor.proto",
    "containerd/types/event.proto",
    "containerd/types/introspection.proto",
    "containerd/types/metrics.proto",
    "containerd/types/mount.proto",
    "containerd/types/platform.proto",
    "containerd/types/sandbox.proto",
    "containerd/types/task.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=../proto");
    println!("cargo:rerun-if-changed=build.rs");
    let files = protox::compile(FILES, ["../proto"])?;
    prost_build::Config::new()
        .enable_type_names()
        // Sorted maps: the same message is always the same bytes.
        .btree_map(["."])
        .include_file("shim.rs")
        .compile_fds(files)?;
    Ok(())
}
