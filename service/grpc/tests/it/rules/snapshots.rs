//! Records of snapshots.

use api_grpc::snapshots::{
    CommitSnapshotRequest, Info, Kind, ListSnapshotsRequest, MountsRequest, PrepareSnapshotRequest,
    RemoveSnapshotRequest, StatSnapshotRequest, UpdateSnapshotRequest, ViewSnapshotRequest,
};

use super::*;

const NATIVE: &str = "native";

async fn prepare(world: &World, key: &str, parent: &str) -> Result<Response<()>, Status> {
    let request = PrepareSnapshotRequest {
        snapshotter: NATIVE.to_owned(),
        key: key.to_owned(),
        parent: parent.to_owned(),
        labels: labels(&[("a", "1"), ("b", "2")]),
    };
    world.snapshots().prepare(call(request)).await.map(|_| Response::new(()))
}

async fn view(world: &World, key: &str, parent: &str) -> Result<Response<()>, Status> {
    let request = ViewSnapshotRequest {
        snapshotter: NATIVE.to_owned(),
        key: key.to_owned(),
        parent: parent.to_owned(),
        ..ViewSnapshotRequest::default()
    };
    world.snapshots().view(call(request)).await.map(|_| Response::new(()))
}

async fn commit(world: &World, name: &str, key: &str) -> Result<Response<()>, Status> {
    let request = CommitSnapshotRequest {
        snapshotter: NATIVE.to_owned(),
        name: name.to_owned(),
        key: key.to_owned(),
        ..CommitSnapshotRequest::default()
    };
    world.snapshots().commit(call(request)).await
}

async fn remove(world: &World, key: &str) -> Result<Response<()>, Status> {
    let request = RemoveSnapshotRequest { snapshotter: NATIVE.to_owned(), key: key.to_owned() };
    world.snapshots().remove(call(request)).await
}

async fn stat(world: &World, key: &str) -> Result<Response<Info>, Status> {
    let request = StatSnapshotRequest { snapshotter: NATIVE.to_owned(), key: key.to_owned() };
    let answer = world.snapshots().stat(call(request)).await?;
    Ok(Response::new(answer.into_inner().info.unwrap()))
}

/// A committed snapshot.
async fn layer(world: &World, name: &str, parent: &str) {
    ok(prepare(world, &format!("active-{name}"), parent).await);
    ok(commit(world, name, &format!("active-{name}")).await);
}

#[tokio::test]
async fn kinds_follow_from_the_calls() {
    let world = world().await;
    layer(&world, "base", "").await;
    ok(prepare(&world, "rw", "base").await);
    ok(view(&world, "ro", "base").await);
    assert_eq!(ok(stat(&world, "base").await).kind(), Kind::Committed);
    let active = ok(stat(&world, "rw").await);
    assert_eq!((active.kind(), active.parent.as_str()), (Kind::Active, "base"));
    assert_eq!(ok(stat(&world, "ro").await).kind(), Kind::View);
    fails(stat(&world, "active-base").await, Code::NotFound, "active-base");
}

#[tokio::test]
async fn a_snapshot_with_children_is_not_removed() {
    let world = world().await;
    layer(&world, "base", "").await;
    ok(prepare(&world, "rw", "base").await);
    fails(remove(&world, "base").await, Code::FailedPrecondition, "child");
    ok(remove(&world, "rw").await);
    ok(remove(&world, "base").await);
    fails(remove(&world, "base").await, Code::NotFound, "base");
}

#[tokio::test]
async fn only_an_active_snapshot_is_committed() {
    let world = world().await;
    layer(&world, "base", "").await;
    ok(view(&world, "ro", "base").await);
    fails(commit(&world, "x", "ro").await, Code::FailedPrecondition, "");
    fails(commit(&world, "x", "base").await, Code::FailedPrecondition, "");
    fails(commit(&world, "x", "none").await, Code::NotFound, "none");
    ok(prepare(&world, "rw", "").await);
    fails(commit(&world, "base", "rw").await, Code::AlreadyExists, "base");
    assert_eq!(ok(stat(&world, "rw").await).kind(), Kind::Active, "it is not lost");
}

#[tokio::test]
async fn keys_and_parents() {
    let world = world().await;
    ok(prepare(&world, "rw", "").await);
    fails(prepare(&world, "rw", "").await, Code::AlreadyExists, "rw");
    fails(prepare(&world, "x", "none").await, Code::NotFound, "none");
    // A parent has to be committed.
    fails(prepare(&world, "x", "rw").await, Code::InvalidArgument, "");
    fails(stat(&world, "x").await, Code::NotFound, "x");
}

#[tokio::test]
async fn an_unknown_snapshotter_is_an_invalid_argument() {
    let world = world().await;
    let request = |snapshotter: &str| MountsRequest {
        snapshotter: snapshotter.to_owned(),
        key: "k".to_owned(),
    };
    let answer = world.snapshots().mounts(call(request("none"))).await;
    fails(answer, Code::InvalidArgument, "snapshotter not loaded: none");
    let answer = world.snapshots().mounts(call(request(""))).await;
    fails(answer, Code::InvalidArgument, "snapshotter argument missing");
}

#[tokio::test]
async fn paths_of_an_update() {
    let world = world().await;
    ok(prepare(&world, "k", "").await);
    let update = async |on: &[(&str, &str)], paths: &[&str]| {
        let info = Info { name: "k".to_owned(), labels: labels(on), ..Info::default() };
        let request = UpdateSnapshotRequest {
            snapshotter: NATIVE.to_owned(),
            info: Some(info),
            update_mask: if paths.is_empty() { None } else { mask(paths) },
        };
        let answer = world.snapshots().update(call(request)).await?;
        Ok(Response::new(answer.into_inner().info.unwrap()))
    };
    let updated: Info = ok(update(&[("a", "9"), ("c", "9")], &["labels.a"]).await);
    assert_eq!(updated.labels, labels(&[("a", "9"), ("b", "2")]));
    let updated = ok(update(&[("c", "3")], &["labels"]).await);
    assert_eq!(updated.labels, labels(&[("c", "3")]));
    let updated = ok(update(&[("d", "4")], &[]).await);
    assert_eq!(updated.labels, labels(&[("d", "4")]), "an empty mask replaces the labels");
    for path in ["kind", "parent", "name", "created_at", "x"] {
        fails(update(&[], &[path]).await, Code::InvalidArgument, path);
    }
}

#[tokio::test]
async fn labels_an_empty_value_deletes_and_a_long_one_is_refused() {
    let world = world().await;
    ok(prepare(&world, "k", "").await);
    let update = async |value: &str| {
        let on = labels(&[("a", value)]);
        let info = Info { name: "k".to_owned(), labels: on, ..Info::default() };
        let request = UpdateSnapshotRequest {
            snapshotter: NATIVE.to_owned(),
            info: Some(info),
            update_mask: mask(&["labels.a"]),
        };
        world.snapshots().update(call(request)).await
    };
    fails(update(&"v".repeat(4096)).await, Code::InvalidArgument, "4096");
    let info = ok(update("").await).info.unwrap();
    assert_eq!(info.labels, labels(&[("b", "2")]));
    let request = PrepareSnapshotRequest {
        snapshotter: NATIVE.to_owned(),
        key: "long".to_owned(),
        labels: labels(&[("k", &"v".repeat(4096))]),
        ..PrepareSnapshotRequest::default()
    };
    fails(world.snapshots().prepare(call(request)).await, Code::InvalidArgument, "4096");
    fails(stat(&world, "long").await, Code::NotFound, "");
}

#[tokio::test]
async fn lists_in_blocks_of_a_hundred() {
    let world = world().await;
    for number in 0..101 {
        ok(prepare(&world, &format!("k{number:03}"), "").await);
    }
    let request =
        ListSnapshotsRequest { snapshotter: NATIVE.to_owned(), ..ListSnapshotsRequest::default() };
    let mut blocks = ok(world.snapshots().list(call(request)).await);
    let mut sizes = Vec::new();
    while let Some(block) = blocks.message().await.unwrap() {
        sizes.push(block.info.len());
    }
    assert_eq!(sizes, [100, 1]);
}
