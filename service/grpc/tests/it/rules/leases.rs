//! Leases, and what they hold.

use std::collections::BTreeSet;

use api_grpc::leases::{
    AddResourceRequest, CreateRequest, DeleteRequest, DeleteResourceRequest, ListRequest,
    ListResourcesRequest, Resource,
};

use super::*;

async fn create(world: &World, id: &str) {
    let request = CreateRequest { id: id.to_owned(), labels: labels(&[("a", "1"), ("e", "")]) };
    ok(world.leases().create(call(request)).await);
}

async fn add(world: &World, kind: &str, id: &str) -> Result<Response<()>, Status> {
    let resource = Some(Resource { id: id.to_owned(), r#type: kind.to_owned() });
    let request = AddResourceRequest { id: "l".to_owned(), resource };
    world.leases().add_resource(call(request)).await
}

async fn held(world: &World, id: &str) -> BTreeSet<(String, String)> {
    let request = ListResourcesRequest { id: id.to_owned() };
    let found = ok(world.leases().list_resources(call(request)).await).resources;
    found.into_iter().map(|resource| (resource.r#type, resource.id)).collect()
}

fn pairs(list: &[(&str, &str)]) -> BTreeSet<(String, String)> {
    list.iter().map(|(kind, id)| ((*kind).to_owned(), (*id).to_owned())).collect()
}

#[tokio::test]
async fn a_second_one_exists_already_and_a_missing_one_is_not_found() {
    let world = world().await;
    create(&world, "l").await;
    let again = CreateRequest { id: "l".to_owned(), ..CreateRequest::default() };
    fails(world.leases().create(call(again)).await, Code::AlreadyExists, "already exists");
    let none = DeleteRequest { id: "none".to_owned(), sync: false };
    fails(world.leases().delete(call(none)).await, Code::NotFound, "not found");
    let none = ListResourcesRequest { id: "none".to_owned() };
    fails(world.leases().list_resources(call(none)).await, Code::NotFound, "not found");
}

#[tokio::test]
async fn a_lease_without_id_gets_one_and_empty_labels_are_not_kept() {
    let world = world().await;
    let lease = ok(world.leases().create(call(CreateRequest::default())).await).lease.unwrap();
    // Nanoseconds, and three bytes in base64 of URLs.
    let (nanoseconds, random) = lease.id.split_once('-').unwrap();
    assert!(nanoseconds.bytes().all(|byte| byte.is_ascii_digit()), "{lease:?}");
    assert!(random.len() == 4, "{lease:?}");
    create(&world, "moby-image-sha256:00").await;
    let filters = vec!["labels.a==1".to_owned()];
    let found = ok(world.leases().list(call(ListRequest { filters })).await).leases;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].labels, labels(&[("a", "1")]));
}

#[tokio::test]
async fn resources_have_kinds() {
    let world = world().await;
    create(&world, "l").await;
    let digest = sha256(b"x");
    for (kind, id) in
        [("content", digest.as_str()), ("ingests", "r"), ("images", "i"), ("snapshots/native", "s")]
    {
        ok(add(&world, kind, id).await);
    }
    let all = [
        ("content", digest.as_str()),
        ("images", "i"),
        ("ingests", "r"),
        ("snapshots/native", "s"),
    ];
    assert_eq!(held(&world, "l").await, pairs(&all));
    fails(add(&world, "content", "x").await, Code::InvalidArgument, "");
    fails(add(&world, "snapshots", "s").await, Code::InvalidArgument, "");
    fails(add(&world, "containers", "c").await, Code::Unimplemented, "");
    let resource = Some(Resource { id: "i".to_owned(), r#type: "images".to_owned() });
    let request = DeleteResourceRequest { id: "l".to_owned(), resource };
    ok(world.leases().delete_resource(call(request.clone())).await);
    ok(world.leases().delete_resource(call(request)).await);
    assert_eq!(held(&world, "l").await.len(), 3);
}

#[tokio::test]
async fn a_synchronous_deletion_gives_the_space_back() {
    let world = world().await;
    create(&world, "l").await;
    let commit = frame(WriteAction::Commit, "r", 0, b"x");
    write(&world, |frames| leased("l", frames), vec![commit]).await.unwrap();
    world.stores.metadata.collect().await.unwrap();
    let backend = world.stores.content.backend();
    assert_eq!(backend.list(&[]).await.unwrap().len(), 1);
    ok(world.leases().delete(call(DeleteRequest { id: "l".to_owned(), sync: true })).await);
    assert!(backend.list(&[]).await.unwrap().is_empty());
}

/// What a call creates under the lease header is in the lease by the time of its answer.
#[tokio::test]
async fn every_creating_call_enters_its_resource_into_the_lease_of_the_header() {
    use api_grpc::snapshots::{CommitSnapshotRequest, PrepareSnapshotRequest, ViewSnapshotRequest};

    let world = world().await;
    create(&world, "l").await;
    // Content: the open ingest, then the blob in its place.
    let open = frame(WriteAction::Write, "r", 0, b"x");
    write(&world, |frames| leased("l", frames), vec![open]).await.unwrap();
    assert_eq!(held(&world, "l").await, pairs(&[("ingests", "r")]));
    let commit = frame(WriteAction::Commit, "r", 1, b"");
    write(&world, |frames| leased("l", frames), vec![commit]).await.unwrap();
    let blob = sha256(b"x");
    assert_eq!(held(&world, "l").await, pairs(&[("content", &blob)]));
    // Content that is there already joins the lease of whoever asks for it.
    create(&world, "second").await;
    let mut expected = frame(WriteAction::Stat, "again", 0, b"");
    expected.expected.clone_from(&blob);
    let status = write(&world, |frames| leased("second", frames), vec![expected]).await;
    assert_eq!(status.unwrap_err().code(), Code::AlreadyExists);
    assert_eq!(held(&world, "second").await, pairs(&[("content", &blob)]));

    let native = || "native".to_owned();
    let prepare = PrepareSnapshotRequest {
        snapshotter: native(),
        key: "rw".to_owned(),
        ..PrepareSnapshotRequest::default()
    };
    ok(world.snapshots().prepare(leased("l", prepare.clone())).await);
    assert!(held(&world, "l").await.contains(&("snapshots/native".to_owned(), "rw".to_owned())));
    let commit = CommitSnapshotRequest {
        snapshotter: native(),
        name: "layer".to_owned(),
        key: "rw".to_owned(),
        ..CommitSnapshotRequest::default()
    };
    ok(world.snapshots().commit(leased("l", commit)).await);
    let view = ViewSnapshotRequest {
        snapshotter: native(),
        key: "ro".to_owned(),
        parent: "layer".to_owned(),
        ..ViewSnapshotRequest::default()
    };
    ok(world.snapshots().view(leased("l", view)).await);
    let wanted =
        [("content", blob.as_str()), ("snapshots/native", "layer"), ("snapshots/native", "ro")];
    assert_eq!(held(&world, "l").await, pairs(&wanted), "the committed key is no longer there");

    // Images are leased if they expire: else they are roots themselves.
    let image = |name: &str, on: &[(&str, &str)]| api_grpc::images::CreateImageRequest {
        image: Some(api_grpc::images::Image {
            name: name.to_owned(),
            labels: labels(on),
            target: descriptor(&blob),
            ..api_grpc::images::Image::default()
        }),
        source_date_epoch: None,
    };
    let past = [("containerd.io/gc.expire", "2000-01-01T00:00:00Z")];
    ok(world.images().create(leased("l", image("expires", &past))).await);
    ok(world.images().create(leased("l", image("stays", &[]))).await);
    let images: Vec<_> =
        held(&world, "l").await.into_iter().filter(|(kind, _)| kind == "images").collect();
    assert_eq!(images, [("images".to_owned(), "expires".to_owned())]);
    world.stores.metadata.collect().await.unwrap();
    let get = |name: &str| call(api_grpc::images::GetImageRequest { name: name.to_owned() });
    ok(world.images().get(get("expires")).await);
}
