//! What calls tell: topics, payloads, and nothing when a call fails.

use api_grpc::containers::{
    Container, CreateContainerRequest, DeleteContainerRequest, UpdateContainerRequest, container,
};
use api_grpc::content::DeleteContentRequest;
use api_grpc::images::{CreateImageRequest, DeleteImageRequest, Image, UpdateImageRequest};
use api_grpc::namespaces::{
    CreateNamespaceRequest, DeleteNamespaceRequest, Namespace, UpdateNamespaceRequest,
};
use api_grpc::snapshots::{
    CommitSnapshotRequest, PrepareSnapshotRequest, RemoveSnapshotRequest, ViewSnapshotRequest,
};
use api_shim::events as payloads;
use prost::Message;
use runtime_event::Subscription;

use super::*;

/// The next event: its topic and payload; the namespace is that of the call.
async fn next<M: Message + Default>(events: &mut Subscription, topic: &str, name: &str) -> M {
    let event = tokio::time::timeout(std::time::Duration::from_secs(60), events.next());
    let event = event.await.unwrap();
    assert_eq!(event.topic.as_str(), topic);
    // The messages of images are of another package.
    let package = if name.starts_with("Image") {
        "containerd.services.images.v1"
    } else {
        "containerd.events"
    };
    assert_eq!(event.event.type_url, format!("{package}.{name}"));
    M::decode(event.event.value.as_slice()).unwrap()
}

fn all(world: &World) -> Subscription {
    world.exchange.subscribe::<&str>(&[]).unwrap()
}

#[tokio::test]
async fn of_namespaces() {
    let world = world().await;
    let mut events = all(&world);
    let namespace = Some(Namespace { name: "n".to_owned(), labels: labels(&[("a", "1")]) });
    let create = CreateNamespaceRequest { namespace: namespace.clone() };
    ok(world.namespaces().create(create.clone()).await);
    world.namespaces().create(create).await.unwrap_err();
    let request = UpdateNamespaceRequest { namespace, update_mask: None };
    ok(world.namespaces().update(request).await);
    ok(world.namespaces().delete(DeleteNamespaceRequest { name: "n".to_owned() }).await);
    let event: payloads::NamespaceCreate =
        next(&mut events, "/namespaces/create", "NamespaceCreate").await;
    assert_eq!((event.name.as_str(), event.labels), ("n", labels(&[("a", "1")])));
    let event: payloads::NamespaceUpdate =
        next(&mut events, "/namespaces/update", "NamespaceUpdate").await;
    assert_eq!((event.name.as_str(), event.labels), ("n", labels(&[("a", "1")])));
    let event: payloads::NamespaceDelete =
        next(&mut events, "/namespaces/delete", "NamespaceDelete").await;
    assert_eq!(event.name, "n");
    assert!(events.try_next().is_none());
}

#[tokio::test]
async fn of_containers() {
    let world = world().await;
    let mut events = all(&world);
    let record = Container {
        id: "c".to_owned(),
        image: "i".to_owned(),
        labels: labels(&[("a", "1")]),
        runtime: Some(container::Runtime { name: "r".to_owned(), options: Some(any("o")) }),
        spec: Some(any("{}")),
        snapshotter: "native".to_owned(),
        snapshot_key: "k".to_owned(),
        ..Container::default()
    };
    let container = Some(record);
    let request = CreateContainerRequest { container: container.clone() };
    ok(world.containers().create(call(request)).await);
    let request = UpdateContainerRequest { container, update_mask: None };
    ok(world.containers().update(call(request)).await);
    let request = DeleteContainerRequest { id: "c".to_owned() };
    ok(world.containers().delete(call(request)).await);
    let event: payloads::ContainerCreate =
        next(&mut events, "/containers/create", "ContainerCreate").await;
    let runtime = event.runtime.unwrap();
    assert_eq!((event.id.as_str(), event.image.as_str(), runtime.name.as_str()), ("c", "i", "r"));
    assert_eq!(runtime.options, Some(any("o")));
    let event: payloads::ContainerUpdate =
        next(&mut events, "/containers/update", "ContainerUpdate").await;
    assert_eq!((event.id.as_str(), event.snapshot_key.as_str()), ("c", "k"));
    assert_eq!(event.labels, labels(&[("a", "1")]));
    let event: payloads::ContainerDelete =
        next(&mut events, "/containers/delete", "ContainerDelete").await;
    assert_eq!(event.id, "c");
}

#[tokio::test]
async fn of_images() {
    let world = world().await;
    let mut events = all(&world);
    let image = Some(Image {
        name: "i".to_owned(),
        labels: labels(&[("a", "1")]),
        target: descriptor(&format!("sha256:{}", "1".repeat(64))),
        ..Image::default()
    });
    let request = CreateImageRequest { image: image.clone(), source_date_epoch: None };
    ok(world.images().create(call(request)).await);
    let request = UpdateImageRequest { image, update_mask: None, source_date_epoch: None };
    ok(world.images().update(call(request)).await);
    let request = DeleteImageRequest { name: "i".to_owned(), ..DeleteImageRequest::default() };
    ok(world.images().delete(call(request)).await);
    let event: payloads::ImageCreate = next(&mut events, "/images/create", "ImageCreate").await;
    assert_eq!((event.name.as_str(), event.labels), ("i", labels(&[("a", "1")])));
    let event: payloads::ImageUpdate = next(&mut events, "/images/update", "ImageUpdate").await;
    assert_eq!((event.name.as_str(), event.labels), ("i", labels(&[("a", "1")])));
    let event: payloads::ImageDelete = next(&mut events, "/images/delete", "ImageDelete").await;
    assert_eq!(event.name, "i");
}

#[tokio::test]
async fn of_content() {
    let world = world().await;
    let mut events = all(&world);
    let digest = put(&world, b"hello", &[]).await;
    // What fails tells nothing.
    let status = write(&world, call, vec![frame(WriteAction::Commit, "r", 0, b"hello")]).await;
    status.unwrap_err();
    ok(world.content().delete(call(DeleteContentRequest { digest: digest.clone() })).await);
    let event: payloads::ContentCreate =
        next(&mut events, "/content/create", "ContentCreate").await;
    assert_eq!((event.digest.as_str(), event.size), (digest.as_str(), 5));
    let event: payloads::ContentDelete =
        next(&mut events, "/content/delete", "ContentDelete").await;
    assert_eq!(event.digest, digest);
}

#[tokio::test]
async fn of_snapshots() {
    let world = world().await;
    let mut events = all(&world);
    let native = || "native".to_owned();
    let request = PrepareSnapshotRequest {
        snapshotter: native(),
        key: "rw".to_owned(),
        ..PrepareSnapshotRequest::default()
    };
    ok(world.snapshots().prepare(call(request)).await);
    let request = CommitSnapshotRequest {
        snapshotter: native(),
        name: "base".to_owned(),
        key: "rw".to_owned(),
        ..CommitSnapshotRequest::default()
    };
    ok(world.snapshots().commit(call(request)).await);
    // A view tells nothing.
    let request = ViewSnapshotRequest {
        snapshotter: native(),
        key: "ro".to_owned(),
        parent: "base".to_owned(),
        ..ViewSnapshotRequest::default()
    };
    ok(world.snapshots().view(call(request)).await);
    let request = RemoveSnapshotRequest { snapshotter: native(), key: "ro".to_owned() };
    ok(world.snapshots().remove(call(request)).await);
    let event: payloads::SnapshotPrepare =
        next(&mut events, "/snapshot/prepare", "SnapshotPrepare").await;
    assert_eq!((event.key.as_str(), event.snapshotter.as_str()), ("rw", "native"));
    let event: payloads::SnapshotCommit =
        next(&mut events, "/snapshot/commit", "SnapshotCommit").await;
    assert_eq!((event.key.as_str(), event.name.as_str()), ("rw", "base"));
    let event: payloads::SnapshotRemove =
        next(&mut events, "/snapshot/remove", "SnapshotRemove").await;
    assert_eq!((event.key.as_str(), event.snapshotter.as_str()), ("ro", "native"));
}
