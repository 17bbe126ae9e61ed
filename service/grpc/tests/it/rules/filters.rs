//! Filters of lists: the grammar, and the fields of each kind of object.

use api_grpc::containers::{Container, CreateContainerRequest, ListContainersRequest, container};
use api_grpc::content::{ListContentRequest, ListStatusesRequest};
use api_grpc::images::{CreateImageRequest, Image, ListImagesRequest};
use api_grpc::leases::{CreateRequest, ListRequest};
use api_grpc::snapshots::{CommitSnapshotRequest, ListSnapshotsRequest, PrepareSnapshotRequest};

use super::*;

fn filters(list: &[&str]) -> Vec<String> {
    list.iter().map(|filter| (*filter).to_owned()).collect()
}

#[tokio::test]
async fn of_containers() {
    let world = world().await;
    for (id, runtime, image, team) in
        [("a", "runc", "alpine", "red"), ("b", "kata", "alpine", "blue"), ("c", "runc", "", "blue")]
    {
        let container = Container {
            id: id.to_owned(),
            image: image.to_owned(),
            labels: labels(&[("team", team), ("a.dotted/key", id)]),
            runtime: Some(container::Runtime { name: runtime.to_owned(), options: None }),
            spec: Some(any("{}")),
            ..Container::default()
        };
        let request = CreateContainerRequest { container: Some(container) };
        ok(world.containers().create(call(request)).await);
    }
    let cases: [(&[&str], &str); 17] = [
        (&[], "abc"),
        (&["id==a"], "a"),
        (&["id!=a"], "bc"),
        (&["id~=/^[ab]$/"], "ab"),
        (&["id~=|^c|"], "c"),
        (&["image"], "ab"),
        (&["image==alpine,runtime.name==kata"], "b"),
        (&["id==a", "id==c"], "ac"),
        (&["labels.team==blue"], "bc"),
        (&["labels.team"], "abc"),
        (&["labels.none"], ""),
        (&["labels.\"a.dotted/key\"==b"], "b"),
        (&["runtime.name==\"runc\",labels.team!=red"], "c"),
        (&["id==\"\\x61\""], "a"),
        (&["nosuchfield==x"], ""),
        // An expression that does not compile matches nothing, as in containerd.
        (&["id~=["], ""),
        (&["nosuchfield!=x"], "abc"),
    ];
    for (list, wanted) in cases {
        let request = ListContainersRequest { filters: filters(list) };
        let found = ok(world.containers().list(call(request)).await).containers;
        let found: String = found.into_iter().map(|container| container.id).collect();
        assert_eq!(found, wanted, "{list:?}");
    }
    for bad in ["id==", "id=a", "==a", "id==\"a", ",", "id==a,", "labels."] {
        let request = ListContainersRequest { filters: filters(&[bad]) };
        fails(world.containers().list(call(request)).await, Code::InvalidArgument, "");
    }
}

#[tokio::test]
async fn of_images() {
    let world = world().await;
    let digest = |digit: &str| format!("sha256:{}", digit.repeat(64));
    for (name, digit) in [("a", "1"), ("b", "2")] {
        let mut target = descriptor(&digest(digit)).unwrap();
        target.media_type = format!("type/{name}");
        target.annotations = labels(&[("note", name)]);
        let image = Image {
            name: name.to_owned(),
            labels: labels(&[("l", name)]),
            target: Some(target),
            ..Image::default()
        };
        let request = CreateImageRequest { image: Some(image), source_date_epoch: None };
        ok(world.images().create(call(request)).await);
    }
    for (filter, wanted) in [
        ("name==a".to_owned(), "a"),
        (format!("target.digest=={}", digest("2")), "b"),
        ("target.mediatype==\"type/a\"".to_owned(), "a"),
        ("labels.l==b".to_owned(), "b"),
        ("annotations.note==a".to_owned(), "a"),
        ("name~=/./".to_owned(), "ab"),
    ] {
        let request = ListImagesRequest { filters: vec![filter.clone()] };
        let found = ok(world.images().list(call(request)).await).images;
        let found: String = found.into_iter().map(|image| image.name).collect();
        assert_eq!(found, wanted, "{filter}");
    }
}

#[tokio::test]
async fn of_content_and_ingests() {
    let world = world().await;
    let one = put(&world, b"one", &[("l", "1")]).await;
    let four = put(&world, b"four", &[]).await;
    let cases = [
        (format!("digest=={one}"), vec![&one]),
        ("labels.l==1".to_owned(), vec![&one]),
        ("size==4".to_owned(), vec![&four]),
    ];
    for (filter, wanted) in cases {
        let request = ListContentRequest { filters: vec![filter.clone()] };
        let mut blocks = ok(world.content().list(call(request)).await);
        let mut found = Vec::new();
        while let Some(block) = blocks.message().await.unwrap() {
            found.extend(block.info.into_iter().map(|info| info.digest));
        }
        assert_eq!(found.iter().collect::<Vec<_>>(), wanted, "{filter}");
    }
    for reference in ["layer-1", "layer-2", "config-1"] {
        write(&world, call, vec![frame(WriteAction::Write, reference, 0, b"x")]).await.unwrap();
    }
    for (filter, wanted) in [("ref==layer-1", 1), ("ref~=^layer-", 2), ("ref", 3)] {
        let request = ListStatusesRequest { filters: filters(&[filter]) };
        let found = ok(world.content().list_statuses(call(request)).await).statuses;
        assert_eq!(found.len(), wanted, "{filter}");
    }
}

#[tokio::test]
async fn of_leases() {
    let world = world().await;
    for id in ["a", "b"] {
        let request = CreateRequest { id: id.to_owned(), labels: labels(&[("l", id)]) };
        ok(world.leases().create(call(request)).await);
    }
    for (filter, wanted) in [("id==a", "a"), ("labels.l==b", "b"), ("id", "ab")] {
        let request = ListRequest { filters: filters(&[filter]) };
        let found = ok(world.leases().list(call(request)).await).leases;
        let found: String = found.into_iter().map(|lease| lease.id).collect();
        assert_eq!(found, wanted, "{filter}");
    }
}

#[tokio::test]
async fn of_snapshots() {
    let world = world().await;
    let native = || "native".to_owned();
    let prepare = async |key: &str, parent: &str| {
        let request = PrepareSnapshotRequest {
            snapshotter: native(),
            key: key.to_owned(),
            parent: parent.to_owned(),
            labels: labels(&[("l", key)]),
        };
        ok(world.snapshots().prepare(call(request)).await);
    };
    prepare("x", "").await;
    let request = CommitSnapshotRequest {
        snapshotter: native(),
        name: "base".to_owned(),
        key: "x".to_owned(),
        ..CommitSnapshotRequest::default()
    };
    ok(world.snapshots().commit(call(request)).await);
    prepare("rw", "base").await;
    for (filter, wanted) in [
        ("kind==committed", "base"),
        ("kind==active", "rw"),
        ("name==base", "base"),
        ("parent==base", "rw"),
        ("labels.l==rw", "rw"),
    ] {
        let request = ListSnapshotsRequest { snapshotter: native(), filters: filters(&[filter]) };
        let mut blocks = ok(world.snapshots().list(call(request)).await);
        let mut found = String::new();
        while let Some(block) = blocks.message().await.unwrap() {
            found.extend(block.info.into_iter().map(|info| info.name));
        }
        assert_eq!(found, wanted, "{filter}");
    }
}
