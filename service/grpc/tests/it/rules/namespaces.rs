//! Namespaces and their labels.

use api_grpc::namespaces::{
    CreateNamespaceRequest, DeleteNamespaceRequest, GetNamespaceRequest, ListNamespacesRequest,
    Namespace, UpdateNamespaceRequest,
};

use super::*;

fn named(name: &str, on: &[(&str, &str)]) -> Option<Namespace> {
    Some(Namespace { name: name.to_owned(), labels: labels(on) })
}

async fn create(world: &World, name: &str) -> Result<Response<()>, Status> {
    let namespace = named(name, &[("a", "1"), ("b", "2")]);
    let answer = world.namespaces().create(CreateNamespaceRequest { namespace }).await;
    answer.map(|_| Response::new(()))
}

async fn delete(world: &World, name: &str) -> Result<Response<()>, Status> {
    world.namespaces().delete(DeleteNamespaceRequest { name: name.to_owned() }).await
}

async fn get(world: &World, name: &str) -> BTreeMap<String, String> {
    let request = GetNamespaceRequest { name: name.to_owned() };
    ok(world.namespaces().get(request).await).namespace.unwrap().labels
}

#[tokio::test]
async fn a_second_one_exists_already_and_a_missing_one_is_not_found() {
    let world = world().await;
    ok(create(&world, "n").await);
    fails(create(&world, "n").await, Code::AlreadyExists, "already exists");
    fails(delete(&world, "none").await, Code::NotFound, "not found");
    assert_eq!(get(&world, "none").await, labels(&[]), "any valid name can be asked for");
}

#[tokio::test]
async fn paths_of_an_update() {
    let world = world().await;
    ok(create(&world, "n").await);
    let update = async |on: &[(&str, &str)], paths: &[&str]| {
        let update_mask = if paths.is_empty() { None } else { mask(paths) };
        let request = UpdateNamespaceRequest { namespace: named("n", on), update_mask };
        world.namespaces().update(request).await
    };
    ok(update(&[("a", "9"), ("c", "9")], &["labels.a"]).await);
    assert_eq!(get(&world, "n").await, labels(&[("a", "9"), ("b", "2")]));
    ok(update(&[("a", "")], &["labels.a"]).await);
    assert_eq!(get(&world, "n").await, labels(&[("b", "2")]));
    ok(update(&[("d", "4")], &[]).await);
    assert_eq!(get(&world, "n").await, labels(&[("d", "4")]), "an empty mask replaces them");
    for path in ["labels", "name", "x"] {
        fails(update(&[], &[path]).await, Code::InvalidArgument, path);
    }
}

#[tokio::test]
async fn a_namespace_with_objects_stays_and_says_what_it_has() {
    let world = world().await;
    ok(create(&world, "testing").await);
    let digest = put(&world, b"x", &[]).await;
    let prepare = api_grpc::snapshots::PrepareSnapshotRequest {
        snapshotter: "native".to_owned(),
        key: "k".to_owned(),
        ..api_grpc::snapshots::PrepareSnapshotRequest::default()
    };
    ok(world.snapshots().prepare(call(prepare)).await);
    let image = api_grpc::images::Image {
        name: "i".to_owned(),
        target: descriptor(&digest),
        ..api_grpc::images::Image::default()
    };
    let image =
        api_grpc::images::CreateImageRequest { image: Some(image), source_date_epoch: None };
    ok(world.images().create(call(image)).await);
    let status = delete(&world, "testing").await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    for kind in ["images", "blobs", "snapshots on \"native\" snapshotter"] {
        assert!(status.message().contains(kind), "{kind} in {}", status.message());
    }
    assert!(!status.message().contains("containers"), "{}", status.message());
    assert!(status.message().contains("namespace \"testing\" must be empty"), "{status}");

    let request =
        api_grpc::images::DeleteImageRequest { name: "i".to_owned(), ..Default::default() };
    ok(world.images().delete(call(request)).await);
    let request = api_grpc::content::DeleteContentRequest { digest };
    ok(world.content().delete(call(request)).await);
    let request = api_grpc::snapshots::RemoveSnapshotRequest {
        snapshotter: "native".to_owned(),
        key: "k".to_owned(),
    };
    ok(world.snapshots().remove(call(request)).await);
    ok(delete(&world, "testing").await);
    let list = ok(world.namespaces().list(ListNamespacesRequest::default()).await).namespaces;
    assert!(list.is_empty(), "{list:?}");
}

#[tokio::test]
async fn a_record_brings_its_namespace_into_being() {
    let world = world().await;
    put(&world, b"x", &[]).await;
    let list = ok(world.namespaces().list(ListNamespacesRequest::default()).await).namespaces;
    assert_eq!(list.len(), 1);
    assert_eq!(list[0].name, "testing");
}

#[tokio::test]
async fn labels_have_a_limit() {
    let world = world().await;
    let long = "v".repeat(4096);
    let namespace = named("n", &[("k", &long)]);
    let answer = world.namespaces().create(CreateNamespaceRequest { namespace }).await;
    fails(answer, Code::InvalidArgument, "4096");
    ok(create(&world, "n").await);
    let request =
        |mask| UpdateNamespaceRequest { namespace: named("n", &[("k", &long)]), update_mask: mask };
    let answer = world.namespaces().update(request(mask(&["labels.k"]))).await;
    fails(answer, Code::InvalidArgument, "4096");
    fails(world.namespaces().update(request(None)).await, Code::InvalidArgument, "4096");
    assert_eq!(get(&world, "n").await, labels(&[("a", "1"), ("b", "2")]));
}

#[tokio::test]
async fn a_namespace_with_containers_stays() {
    let world = world().await;
    let runtime = api_grpc::containers::container::Runtime { name: "r".to_owned(), options: None };
    let container = Some(api_grpc::containers::Container {
        id: "c".to_owned(),
        runtime: Some(runtime),
        spec: Some(any("{}")),
        ..api_grpc::containers::Container::default()
    });
    let request = api_grpc::containers::CreateContainerRequest { container };
    ok(world.containers().create(call(request)).await);
    fails(delete(&world, "testing").await, Code::FailedPrecondition, "it still has containers");
}
