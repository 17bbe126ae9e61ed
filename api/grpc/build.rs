//! Compiles the gRPC services from `../proto`, without protoc.

use std::error::Error;
use std::path::{Path, PathBuf};

use prost_types::FileDescriptorSet;

/// Services that the daemon serves; reflection shows these.
const SERVED: [&str; 19] = [
    "containerd/services/containers.proto",
    "containerd/services/content.proto",
    "containerd/services/diff.proto",
    "containerd/services/events.proto",
    "containerd/services/images.proto",
    "containerd/services/introspection.proto",
    "containerd/services/leases.proto",
    "containerd/services/mounts.proto",
    "containerd/services/namespaces.proto",
    "containerd/services/sandbox.proto",
    "containerd/services/snapshots.proto",
    "containerd/services/streaming.proto",
    "containerd/services/tasks.proto",
    "containerd/services/transfer.proto",
    "containerd/services/version.proto",
    "containerd/types/transfer.proto",
    "grpc/health.proto",
    "ironhull/operations.proto",
    "v0/api.proto",
];

/// Services of shims that speak gRPC instead of ttrpc; the daemon is only their client.
const SHIM: [&str; 3] = [
    "containerd/runtime/sandbox.proto",
    "containerd/runtime/task_v2.proto",
    "containerd/runtime/task_v3.proto",
];

/// Where `api-shim` keeps the messages of a package. Everything else is generated here.
const SHARED: [(&str, &str); 7] = [
    ("containerd.types", "types"),
    ("containerd.v1.types", "process"),
    ("containerd.events", "events"),
    ("containerd.task.v3", "task"),
    ("containerd.runtime.sandbox.v1", "sandbox"),
    ("google.rpc", "rpc"),
    ("containerd.services.events.ttrpc.v1", "ttrpc_events"),
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=../proto");
    println!("cargo:rerun-if-changed=build.rs");
    let served = protox::compile(SERVED, ["../proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), prost::Message::encode_to_vec(&served))?;

    let all = protox::compile(SERVED.iter().chain(&SHIM), ["../proto"])?;
    // For the tests alone: everything, also what only shims speak.
    let every = protox::compile(every_file(Path::new("../proto"))?, ["../proto"])?;
    std::fs::write(out.join("every.bin"), prost::Message::encode_to_vec(&every))?;

    let mut config = prost_build::Config::new();
    config
        .enable_type_names()
        // Sorted maps: the same message is always the same bytes.
        .btree_map(["."])
        // File contents are never copied after they were read from the connection.
        .bytes([".containerd.services.content.v1", ".containerd.types.transfer.Data"])
        .include_file("grpc.rs")
        // A channel can be put in by every caller; `connect` would collide with the rpc `Connect`.
        .service_generator(
            tonic_prost_build::configure()
                .build_transport(false)
                .codec_path("crate::codec::Codec")
                .service_generator(),
        );
    for (path, module) in shared_types(&all) {
        config.extern_path(path, module);
    }
    config.compile_fds(all)?;
    Ok(())
}

/// All descriptions below a folder.
fn every_file(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(every_file(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Each message and enum of the shared packages, with its place in `api-shim`.
///
/// One by one, because a whole package would take its sub-packages with it:
/// `containerd.types.transfer` is ours.
fn shared_types(files: &FileDescriptorSet) -> Vec<(String, String)> {
    use prost_build_names::to_upper_camel;
    let mut paths = Vec::new();
    for file in &files.file {
        let Some((package, module)) = SHARED.iter().find(|(package, _)| *package == file.package())
        else {
            continue;
        };
        let names = file.message_type.iter().map(|message| message.name());
        for name in names.chain(file.enum_type.iter().map(|item| item.name())) {
            paths.push((
                format!(".{package}.{name}"),
                format!("::api_shim::{module}::{}", to_upper_camel(name)),
            ));
        }
    }
    paths
}

/// The one rule of prost-build that matters for the names of the shared types.
mod prost_build_names {
    /// `CloseIORequest` becomes `CloseIoRequest`.
    pub(super) fn to_upper_camel(name: &str) -> String {
        let characters: Vec<char> = name.chars().collect();
        let mut out = String::new();
        for (index, &character) in characters.iter().enumerate() {
            let before = index.checked_sub(1).map(|index| characters[index]);
            let after = characters.get(index + 1);
            let inside = before.is_some_and(|c| c.is_ascii_uppercase())
                && after.is_none_or(|c| c.is_ascii_uppercase());
            out.push(if inside { character.to_ascii_lowercase() } else { character });
        }
        out
    }
}
