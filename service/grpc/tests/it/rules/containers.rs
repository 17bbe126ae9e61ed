//! Records of containers.

use api_grpc::containers::{
    Container, CreateContainerRequest, DeleteContainerRequest, GetContainerRequest,
    UpdateContainerRequest, container,
};

use super::*;

fn new(id: &str) -> Container {
    Container {
        id: id.to_owned(),
        labels: labels(&[("a", "1"), ("b", "2")]),
        image: "image".to_owned(),
        runtime: Some(container::Runtime { name: "r".to_owned(), options: None }),
        spec: Some(any("spec")),
        snapshotter: "native".to_owned(),
        snapshot_key: "key".to_owned(),
        extensions: [("x".to_owned(), any("x"))].into(),
        ..Container::default()
    }
}

async fn create(world: &World, container: Container) -> Result<Response<()>, Status> {
    let request = CreateContainerRequest { container: Some(container) };
    world.containers().create(call(request)).await.map(|_| Response::new(()))
}

async fn update(
    world: &World,
    container: Container,
    paths: &[&str],
) -> Result<Response<Container>, Status> {
    let update_mask = if paths.is_empty() { None } else { mask(paths) };
    let request = UpdateContainerRequest { container: Some(container), update_mask };
    let answer = world.containers().update(call(request)).await?;
    Ok(Response::new(answer.into_inner().container.unwrap()))
}

#[tokio::test]
async fn what_is_missing_is_named() {
    let world = world().await;
    let invalid = |container: Container, text: &'static str| {
        let world = &world;
        async move { fails(create(world, container).await, Code::InvalidArgument, text) }
    };
    invalid(Container { spec: None, ..new("c") }, "Spec").await;
    invalid(Container { runtime: None, ..new("c") }, "Runtime").await;
    invalid(Container { snapshotter: String::new(), ..new("c") }, "napshot").await;
    let answer = world.containers().create(call(CreateContainerRequest::default())).await;
    fails(answer, Code::InvalidArgument, "");
}

#[tokio::test]
async fn a_second_one_exists_already_and_a_missing_one_is_not_found() {
    let world = world().await;
    ok(create(&world, new("c")).await);
    fails(create(&world, new("c")).await, Code::AlreadyExists, "\"c\": already exists");
    let id = "none".to_owned();
    let answer = world.containers().get(call(GetContainerRequest { id: id.clone() })).await;
    fails(answer, Code::NotFound, "\"none\"");
    let answer = world.containers().delete(call(DeleteContainerRequest { id })).await;
    fails(answer, Code::NotFound, "\"none\"");
    fails(update(&world, new("none"), &[]).await, Code::NotFound, "\"none\"");
}

#[tokio::test]
async fn an_empty_mask_replaces_the_five_fields() {
    let world = world().await;
    ok(create(&world, new("c")).await);
    let change = Container {
        labels: labels(&[("c", "3")]),
        image: "other".to_owned(),
        spec: Some(any("other")),
        snapshot_key: "other".to_owned(),
        extensions: [("y".to_owned(), any("y"))].into(),
        ..new("c")
    };
    let updated = ok(update(&world, change, &[]).await);
    assert_eq!(updated.labels, labels(&[("c", "3")]));
    assert_eq!((updated.image.as_str(), updated.snapshot_key.as_str()), ("other", "other"));
    assert_eq!(updated.spec, Some(any("other")));
    assert!(updated.extensions.contains_key("y"));
    assert!(updated.created_at.unwrap().seconds <= updated.updated_at.unwrap().seconds);
}

#[tokio::test]
async fn an_empty_mask_refuses_changes_of_snapshotter_and_runtime() {
    let world = world().await;
    ok(create(&world, new("c")).await);
    let change = Container { snapshotter: "overlayfs".to_owned(), ..new("c") };
    fails(update(&world, change, &[]).await, Code::InvalidArgument, "napshotter");
    let runtime = Some(container::Runtime { name: "other".to_owned(), options: None });
    let change = Container { runtime, ..new("c") };
    fails(update(&world, change, &[]).await, Code::InvalidArgument, "untime");
}

#[tokio::test]
async fn each_path_changes_its_field_alone() {
    let world = world().await;
    ok(create(&world, new("c")).await);
    let change = Container {
        labels: labels(&[("a", "9"), ("n", "9")]),
        image: "other".to_owned(),
        spec: Some(any("other")),
        snapshot_key: "other".to_owned(),
        extensions: [("x".to_owned(), any("9")), ("y".to_owned(), any("9"))].into(),
        ..new("c")
    };
    let updated = ok(update(&world, change.clone(), &["labels.a"]).await);
    assert_eq!(updated.labels, labels(&[("a", "9"), ("b", "2")]));
    assert_eq!(updated.image, "image");
    let updated = ok(update(&world, change.clone(), &["image"]).await);
    assert_eq!((updated.image.as_str(), updated.snapshot_key.as_str()), ("other", "key"));
    let updated = ok(update(&world, change.clone(), &["snapshotkey"]).await);
    assert_eq!((updated.snapshot_key.as_str(), updated.spec), ("other", Some(any("spec"))));
    let updated = ok(update(&world, change.clone(), &["spec"]).await);
    assert_eq!(updated.spec, Some(any("other")));
    let updated = ok(update(&world, change.clone(), &["extensions.y"]).await);
    assert_eq!((&updated.extensions["x"], &updated.extensions["y"]), (&any("x"), &any("9")));
    let updated = ok(update(&world, change.clone(), &["extensions"]).await);
    assert_eq!(updated.extensions["x"], any("9"));
    let updated = ok(update(&world, change, &["labels"]).await);
    assert_eq!(updated.labels, labels(&[("a", "9"), ("n", "9")]));
}

#[tokio::test]
async fn an_unknown_or_immutable_path_is_refused() {
    let world = world().await;
    ok(create(&world, new("c")).await);
    for path in ["snapshotter", "runtime", "runtime.name", "snapshot_key", "created_at", "id", "x"]
    {
        fails(update(&world, new("c"), &[path]).await, Code::InvalidArgument, path);
    }
}

#[tokio::test]
async fn labels_an_empty_value_deletes() {
    let world = world().await;
    ok(create(&world, Container { labels: labels(&[("e", ""), ("a", "1")]), ..new("c") }).await);
    let change = Container { labels: labels(&[("a", "")]), ..new("c") };
    let updated = ok(update(&world, change, &["labels.a"]).await);
    assert_eq!(updated.labels, labels(&[]));
}

#[tokio::test]
async fn labels_have_a_limit() {
    let world = world().await;
    let fits = "v".repeat(4095);
    ok(create(&world, Container { labels: labels(&[("k", &fits)]), ..new("c") }).await);
    let long = "v".repeat(4096);
    let change = Container { labels: labels(&[("k", &long)]), ..new("d") };
    fails(create(&world, change.clone()).await, Code::InvalidArgument, "4096");
    let change = Container { id: "c".to_owned(), ..change };
    fails(update(&world, change, &["labels"]).await, Code::InvalidArgument, "4096");
}

#[tokio::test]
async fn an_extension_that_is_asked_for_and_not_given_becomes_an_empty_one() {
    let world = world().await;
    ok(create(&world, new("c")).await);
    let change = Container { extensions: [("other".to_owned(), any("9"))].into(), ..new("c") };
    let updated = ok(update(&world, change, &["extensions.empty"]).await);
    assert_eq!(updated.extensions["empty"], prost_types::Any::default());
    assert_eq!(updated.extensions["x"], any("x"));
    assert!(!updated.extensions.contains_key("other"));
}

#[tokio::test]
async fn an_update_sets_updated_at_alone() {
    let world = world().await;
    ok(create(&world, new("c")).await);
    let time = |at: Option<prost_types::Timestamp>| at.map(|at| (at.seconds, at.nanos)).unwrap();
    let first = ok(update(&world, new("c"), &["image"]).await);
    let second = ok(update(&world, new("c"), &["image"]).await);
    assert_eq!(first.created_at, second.created_at);
    assert!(time(first.updated_at) < time(second.updated_at));
    assert!(time(first.created_at) < time(first.updated_at));
}
