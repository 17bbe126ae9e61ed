//! What the headers of a call say, and which names are allowed.

use api_grpc::containers::{Container, CreateContainerRequest, ListContainersRequest, container};
use api_grpc::namespaces::{CreateNamespaceRequest, GetNamespaceRequest, Namespace};

use super::*;

fn create(id: &str) -> CreateContainerRequest {
    let runtime = container::Runtime { name: "r".to_owned(), options: None };
    CreateContainerRequest {
        container: Some(Container {
            id: id.to_owned(),
            runtime: Some(runtime),
            spec: Some(any("{}")),
            ..Container::default()
        }),
    }
}

#[tokio::test]
async fn a_call_without_namespace_is_a_failed_precondition() {
    let world = world().await;
    let answer = world.containers().list(ListContainersRequest::default()).await;
    fails(answer, Code::FailedPrecondition, "namespace is required");
}

#[tokio::test]
async fn a_namespace_has_to_be_an_identifier() {
    let world = world().await;
    for name in ["a b", "-a", "a..b", "ä", &"x".repeat(77)] {
        let mut request = Request::new(ListContainersRequest::default());
        let Ok(value) = tonic::metadata::MetadataValue::try_from(name) else { continue };
        request.metadata_mut().insert(api_grpc::NAMESPACE_HEADER, value);
        fails(world.containers().list(request).await, Code::InvalidArgument, "");
    }
    let longest = "x".repeat(76);
    ok(world.containers().list(in_namespace(&longest, ListContainersRequest::default())).await);
}

#[tokio::test]
async fn a_lease_that_is_unknown_is_not_found_and_leaves_nothing() {
    let world = world().await;
    let request = api_grpc::snapshots::PrepareSnapshotRequest {
        snapshotter: "native".to_owned(),
        key: "k".to_owned(),
        ..api_grpc::snapshots::PrepareSnapshotRequest::default()
    };
    let answer = world.snapshots().prepare(leased("none", request)).await;
    fails(answer, Code::NotFound, "lease does not exist");
    let stat = api_grpc::snapshots::StatSnapshotRequest {
        snapshotter: "native".to_owned(),
        key: "k".to_owned(),
    };
    fails(world.snapshots().stat(call(stat)).await, Code::NotFound, "");
}

#[tokio::test]
async fn identifiers_of_containers() {
    let world = world().await;
    for id in ["", "a b", "-a", "a-", "a__b", "a/b", &"x".repeat(77)] {
        fails(world.containers().create(call(create(id))).await, Code::InvalidArgument, "");
    }
    for id in ["a", "A.b_c-d", "0", &"x".repeat(76)] {
        ok(world.containers().create(call(create(id))).await);
    }
}

#[tokio::test]
async fn identifiers_of_namespaces() {
    let world = world().await;
    let mut namespaces = world.namespaces();
    for name in ["", "a b", "_", &"x".repeat(77)] {
        let namespace = Some(Namespace { name: name.to_owned(), ..Namespace::default() });
        let answer = namespaces.create(CreateNamespaceRequest { namespace }).await;
        fails(answer, Code::InvalidArgument, "");
        let answer = namespaces.get(GetNamespaceRequest { name: name.to_owned() }).await;
        fails(answer, Code::InvalidArgument, "");
    }
}
