//! Each service's methods, written out a second time on purpose: a client finds exactly these.

use api_grpc::{FILE_DESCRIPTOR_SET, SERVICES};
use prost::Message;
use prost_types::FileDescriptorSet;

/// Service, then methods in their order; `<` streams requests, `>` streams responses.
const TABLE: [(&str, &str); 19] = [
    ("containerd.services.containers.v1.Containers", "Get List ListStream> Create Update Delete"),
    (
        "containerd.services.content.v1.Content",
        "Info Update List> Delete Read> Status ListStatuses Write<> Abort",
    ),
    ("containerd.services.diff.v1.Diff", "Apply Diff"),
    ("containerd.services.events.v1.Events", "Publish Forward Subscribe>"),
    ("containerd.services.images.v1.Images", "Get List Create Update Delete"),
    ("containerd.services.introspection.v1.Introspection", "Plugins Server PluginInfo"),
    (
        "containerd.services.leases.v1.Leases",
        "Create Delete List AddResource DeleteResource ListResources",
    ),
    ("containerd.services.mounts.v1.Mounts", "Activate Deactivate Info Update List>"),
    ("containerd.services.namespaces.v1.Namespaces", "Get List Create Update Delete"),
    (
        "containerd.services.sandbox.v1.Controller",
        "Create Start Platform Stop Wait Status Shutdown Metrics Update",
    ),
    ("containerd.services.sandbox.v1.Store", "Create Update Delete List Get"),
    (
        "containerd.services.snapshots.v1.Snapshots",
        "Prepare View Mounts Commit Remove Stat Update List> Usage Cleanup",
    ),
    ("containerd.services.streaming.v1.Streaming", "Stream<>"),
    (
        "containerd.services.tasks.v1.Tasks",
        "Create Start Delete DeleteProcess Get List Kill Exec ResizePty CloseIO Pause Resume \
         ListPids Checkpoint Update Metrics Wait",
    ),
    ("containerd.services.transfer.v1.Transfer", "Transfer"),
    ("containerd.services.version.v1.Version", "Version"),
    ("grpc.health.v1.Health", "Check Watch>"),
    ("ironhull.operations.v1.Operations", "List"),
    (
        "types.API",
        "GetServerVersion CreateContainer UpdateContainer Signal UpdateProcess AddProcess \
         CreateCheckpoint DeleteCheckpoint ListCheckpoint State Events> Stats",
    ),
];

#[test]
fn each_service_has_exactly_its_methods() {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let mut services = Vec::new();
    for file in &set.file {
        for service in &file.service {
            let methods = service.method.iter().map(|method| {
                let requests = if method.client_streaming() { "<" } else { "" };
                let responses = if method.server_streaming() { ">" } else { "" };
                format!("{}{requests}{responses}", method.name())
            });
            services.push((
                format!("{}.{}", file.package(), service.name()),
                methods.collect::<Vec<_>>().join(" "),
            ));
        }
    }
    services.sort();
    let table = TABLE.map(|(service, methods)| (service.to_owned(), methods.to_owned()));
    assert_eq!(services, table);
    assert_eq!(SERVICES, TABLE.map(|(service, _)| service));
}
