//! Records of images.

use api_grpc::images::{
    CreateImageRequest, DeleteImageRequest, GetImageRequest, Image, UpdateImageRequest,
};

use super::*;

const ONE: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";
const TWO: &str = "sha256:2222222222222222222222222222222222222222222222222222222222222222";

fn new(name: &str) -> Image {
    Image {
        name: name.to_owned(),
        labels: labels(&[("a", "1"), ("b", "2")]),
        target: descriptor(ONE),
        ..Image::default()
    }
}

async fn create(world: &World, image: Image) -> Result<Response<Image>, Status> {
    let request = CreateImageRequest { image: Some(image), source_date_epoch: None };
    let answer = world.images().create(call(request)).await?;
    Ok(Response::new(answer.into_inner().image.unwrap()))
}

async fn update(world: &World, image: Image, paths: &[&str]) -> Result<Response<Image>, Status> {
    let update_mask = if paths.is_empty() { None } else { mask(paths) };
    let request = UpdateImageRequest { image: Some(image), update_mask, source_date_epoch: None };
    let answer = world.images().update(call(request)).await?;
    Ok(Response::new(answer.into_inner().image.unwrap()))
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let world = world().await;
    let mut target = descriptor(ONE).unwrap();
    target.size = 0;
    let cases = [
        (Image { name: String::new(), ..new("i") }, "Name"),
        (Image { target: descriptor("sha256:x"), ..new("i") }, "Digest"),
        (Image { target: Some(target), ..new("i") }, "Size"),
        (Image { target: None, ..new("i") }, "Digest"),
        (Image { labels: labels(&[("k", &"v".repeat(4096))]), ..new("i") }, "4096"),
    ];
    for (image, text) in cases {
        fails(create(&world, image).await, Code::InvalidArgument, text);
    }
    // Any name that is not empty.
    ok(create(&world, new("not a reference!")).await);
}

#[tokio::test]
async fn a_second_one_exists_already_and_a_missing_one_is_not_found() {
    let world = world().await;
    ok(create(&world, new("i")).await);
    fails(create(&world, new("i")).await, Code::AlreadyExists, "image \"i\": already exists");
    fails(update(&world, new("none"), &[]).await, Code::NotFound, "image \"none\": not found");
    let get = GetImageRequest { name: "none".to_owned() };
    fails(world.images().get(call(get)).await, Code::NotFound, "image \"none\": not found");
}

#[tokio::test]
async fn an_empty_mask_replaces_all_but_the_time_of_creation() {
    let world = world().await;
    let created = ok(create(&world, new("i")).await);
    let change = Image { labels: labels(&[("c", "3")]), target: descriptor(TWO), ..new("i") };
    let updated = ok(update(&world, change, &[]).await);
    assert_eq!(updated.labels, labels(&[("c", "3")]));
    assert_eq!(updated.target.unwrap().digest, TWO);
    assert_eq!(updated.created_at, created.created_at);
}

#[tokio::test]
async fn each_path_changes_its_field_alone() {
    let world = world().await;
    ok(create(&world, new("i")).await);
    let mut target = descriptor(TWO).unwrap();
    target.annotations = labels(&[("x", "1"), ("y", "2")]);
    let change =
        Image { labels: labels(&[("a", "9"), ("n", "9")]), target: Some(target), ..new("i") };
    let updated = ok(update(&world, change.clone(), &["labels.a"]).await);
    assert_eq!(updated.labels, labels(&[("a", "9"), ("b", "2")]));
    assert_eq!(updated.target.unwrap().digest, ONE);
    let updated = ok(update(&world, change.clone(), &["annotations.x"]).await);
    let target = updated.target.unwrap();
    assert_eq!((target.digest.as_str(), target.annotations), (ONE, labels(&[("x", "1")])));
    let updated = ok(update(&world, change.clone(), &["annotations"]).await);
    assert_eq!(updated.target.unwrap().annotations, labels(&[("x", "1"), ("y", "2")]));
    let updated = ok(update(&world, change.clone(), &["target"]).await);
    assert_eq!(updated.target.unwrap().digest, TWO);
    let updated = ok(update(&world, change, &["labels"]).await);
    assert_eq!(updated.labels, labels(&[("a", "9"), ("n", "9")]));
    for path in ["name", "created_at", "target.digest", "x"] {
        fails(update(&world, new("i"), &[path]).await, Code::InvalidArgument, path);
    }
}

#[tokio::test]
async fn source_date_epoch_sets_the_times() {
    let world = world().await;
    let epoch = Some(prost_types::Timestamp { seconds: 1_000_000, nanos: 0 });
    let request = CreateImageRequest { image: Some(new("i")), source_date_epoch: epoch };
    let created = ok(world.images().create(call(request)).await).image.unwrap();
    assert_eq!((created.created_at, created.updated_at), (epoch, epoch));
}

#[tokio::test]
async fn a_deletion_with_target_deletes_that_target_alone() {
    let world = world().await;
    ok(create(&world, new("i")).await);
    let delete = |target| DeleteImageRequest { name: "i".to_owned(), sync: false, target };
    let answer = world.images().delete(call(delete(descriptor(TWO)))).await;
    fails(answer, Code::NotFound, "");
    ok(world.images().delete(call(delete(descriptor(ONE)))).await);
    let answer = world.images().delete(call(delete(None))).await;
    fails(answer, Code::NotFound, "image \"i\": not found");
}

#[tokio::test]
async fn a_synchronous_deletion_gives_the_space_back() {
    let world = world().await;
    let layer = put(&world, b"layer", &[]).await;
    let manifest = put(&world, b"manifest", &[("containerd.io/gc.ref.content.l.0", &layer)]).await;
    ok(create(&world, Image { target: descriptor(&manifest), ..new("i") }).await);
    let delete = |sync| DeleteImageRequest { name: "i".to_owned(), sync, target: None };
    ok(world.images().delete(call(delete(true))).await);
    let left = world.stores.content.backend().list(&[]).await.unwrap();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn source_date_epoch_sets_the_time_of_an_update() {
    let world = world().await;
    let created = ok(create(&world, new("i")).await);
    let epoch = Some(prost_types::Timestamp { seconds: 1_000_000, nanos: 0 });
    let request =
        UpdateImageRequest { image: Some(new("i")), update_mask: None, source_date_epoch: epoch };
    let updated = ok(world.images().update(call(request)).await).image.unwrap();
    assert_eq!((updated.created_at, updated.updated_at), (created.created_at, epoch));
}

#[tokio::test]
async fn labels_an_empty_value_deletes() {
    let world = world().await;
    let created =
        ok(create(&world, Image { labels: labels(&[("e", ""), ("a", "1")]), ..new("i") }).await);
    assert_eq!(created.name, "i");
    let change = Image { labels: labels(&[("a", "")]), ..new("i") };
    ok(update(&world, change, &["labels.a"]).await);
    let get = GetImageRequest { name: "i".to_owned() };
    let found = ok(world.images().get(call(get)).await).image.unwrap();
    assert_eq!(found.labels, labels(&[]));
}
