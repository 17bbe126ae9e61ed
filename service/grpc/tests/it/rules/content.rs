//! Records and reads of content.

use api_grpc::content::{
    DeleteContentRequest, Info, InfoRequest, ListContentRequest, ReadContentRequest,
    ReadContentResponse, UpdateRequest,
};

use super::*;

async fn update(world: &World, info: Info, paths: &[&str]) -> Result<Response<Info>, Status> {
    let update_mask = if paths.is_empty() { None } else { mask(paths) };
    let request = UpdateRequest { info: Some(info), update_mask };
    let answer = world.content().update(call(request)).await?;
    Ok(Response::new(answer.into_inner().info.unwrap()))
}

async fn read(
    world: &World,
    digest: &str,
    offset: i64,
    size: i64,
) -> Result<Vec<ReadContentResponse>, Status> {
    let request = ReadContentRequest { digest: digest.to_owned(), offset, size };
    let mut frames = world.content().read(call(request)).await?.into_inner();
    let mut all = Vec::new();
    while let Some(frame) = frames.message().await? {
        all.push(frame);
    }
    Ok(all)
}

fn bytes(frames: &[ReadContentResponse]) -> Vec<u8> {
    frames.iter().flat_map(|frame| frame.data.to_vec()).collect()
}

#[tokio::test]
async fn paths_of_an_update() {
    let world = world().await;
    let digest = put(&world, b"x", &[("a", "1"), ("b", "2")]).await;
    let info = |on: &[(&str, &str)]| Info {
        digest: digest.clone(),
        labels: labels(on),
        ..Info::default()
    };
    let updated = ok(update(&world, info(&[("a", "9"), ("c", "9")]), &["labels.a"]).await);
    assert_eq!(updated.labels, labels(&[("a", "9"), ("b", "2")]));
    assert_eq!(updated.size, 1);
    let updated = ok(update(&world, info(&[("c", "3")]), &["labels"]).await);
    assert_eq!(updated.labels, labels(&[("c", "3")]));
    let updated = ok(update(&world, info(&[("d", "4")]), &[]).await);
    assert_eq!(updated.labels, labels(&[("d", "4")]), "an empty mask replaces the labels");
    for path in ["size", "digest", "created_at", "x"] {
        fails(update(&world, info(&[]), &[path]).await, Code::InvalidArgument, path);
    }
    let none = Info { digest: sha256(b"none"), ..Info::default() };
    fails(update(&world, none, &[]).await, Code::NotFound, "not found");
    let bad = Info { digest: "sha256:x".to_owned(), ..Info::default() };
    fails(update(&world, bad, &[]).await, Code::InvalidArgument, "");
}

#[tokio::test]
async fn labels_an_empty_value_deletes_and_a_long_one_is_refused() {
    let world = world().await;
    let digest = put(&world, b"x", &[("a", "1"), ("e", "")]).await;
    let info = |value: &str| Info {
        digest: digest.clone(),
        labels: labels(&[("a", value)]),
        ..Info::default()
    };
    fails(update(&world, info(&"v".repeat(4096)), &[]).await, Code::InvalidArgument, "4096");
    ok(update(&world, info(&"v".repeat(4095)), &["labels.a"]).await);
    let updated = ok(update(&world, info(""), &["labels.a"]).await);
    assert_eq!(updated.labels, labels(&[]));
}

#[tokio::test]
async fn reads_from_an_offset_clamped_to_the_end() {
    let world = world().await;
    let digest = put(&world, b"0123456789", &[]).await;
    for (offset, size, wanted) in
        [(0, 0, "0123456789"), (3, 0, "3456789"), (3, 4, "3456"), (8, 100, "89"), (10, 0, "")]
    {
        let frames = read(&world, &digest, offset, size).await.unwrap();
        assert_eq!(bytes(&frames), wanted.as_bytes(), "{offset} {size}");
    }
    for offset in [11, -1] {
        let status = read(&world, &digest, offset, 0).await.unwrap_err();
        assert_eq!(status.code(), Code::OutOfRange, "{offset}: {status}");
    }
    let status = read(&world, &sha256(b"none"), 0, 0).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
}

#[tokio::test]
async fn reads_in_frames_of_a_mebibyte() {
    let world = world().await;
    let data: Vec<u8> = (0..3 << 20 | 7).map(|at: u32| at.to_le_bytes()[1]).collect();
    let digest = put(&world, &data, &[]).await;
    let frames = read(&world, &digest, 0, 0).await.unwrap();
    let sizes: Vec<usize> = frames.iter().map(|frame| frame.data.len()).collect();
    assert_eq!(sizes, [1 << 20, 1 << 20, 1 << 20, 7]);
    let offsets: Vec<i64> = frames.iter().map(|frame| frame.offset).collect();
    assert_eq!(offsets, [0, 1 << 20, 2 << 20, 3 << 20]);
    assert_eq!(bytes(&frames), data);
}

#[tokio::test]
async fn lists_in_blocks_of_a_hundred_with_times() {
    let world = world().await;
    for number in 0..101 {
        put(&world, format!("blob {number}").as_bytes(), &[]).await;
    }
    let request = call(ListContentRequest::default());
    let mut blocks = ok(world.content().list(request).await);
    let mut sizes = Vec::new();
    while let Some(block) = blocks.message().await.unwrap() {
        assert!(block.info.iter().all(|info| info.updated_at.is_some_and(|at| at.seconds > 0)));
        sizes.push(block.info.len());
    }
    assert_eq!(sizes, [100, 1]);
}

#[tokio::test]
async fn a_deletion_drops_the_record_of_this_namespace_alone() {
    let world = world().await;
    let digest = put(&world, b"x", &[]).await;
    let commit = frame(WriteAction::Commit, "r", 0, b"x");
    write(&world, |frames| in_namespace("other", frames), vec![commit]).await.unwrap();
    let delete = DeleteContentRequest { digest: digest.clone() };
    ok(world.content().delete(call(delete.clone())).await);
    fails(world.content().delete(call(delete)).await, Code::NotFound, "not found");
    let info = InfoRequest { digest };
    fails(world.content().info(call(info.clone())).await, Code::NotFound, "not found");
    ok(world.content().info(in_namespace("other", info)).await);
}

#[tokio::test]
async fn a_deletion_drops_the_record_alone_whatever_holds_the_content() {
    let world = world().await;
    let commit = || vec![frame(WriteAction::Commit, "r", 0, b"x")];
    let lease = || api_grpc::leases::CreateRequest { id: "l".to_owned(), ..Default::default() };
    let elsewhere = |message| {
        let mut request = in_namespace("other", message);
        request.metadata_mut().insert(api_grpc::LEASE_HEADER, "l".parse().unwrap());
        request
    };
    ok(world.leases().create(call(lease())).await);
    ok(world.leases().create(in_namespace("other", lease())).await);
    write(&world, |frames| leased("l", frames), commit()).await.unwrap();
    write(&world, elsewhere, commit()).await.unwrap();
    let digest = sha256(b"x");
    ok(world.content().delete(call(DeleteContentRequest { digest: digest.clone() })).await);
    // The lease still says what it wants held, and the bytes are another namespace's as well.
    let request = api_grpc::leases::ListResourcesRequest { id: "l".to_owned() };
    let held = ok(world.leases().list_resources(call(request)).await).resources;
    assert_eq!(held.iter().map(|held| &held.id).collect::<Vec<_>>(), [&digest]);
    world.stores.metadata.collect().await.unwrap();
    world.stores.content.sweep().await.unwrap();
    let info = InfoRequest { digest: digest.clone() };
    fails(world.content().info(call(info.clone())).await, Code::NotFound, "not found");
    ok(world.content().info(in_namespace("other", info)).await);
    assert_eq!(world.stores.content.backend().list(&[]).await.unwrap().len(), 1);
}

#[tokio::test]
async fn digests_are_of_three_algorithms() {
    use sha2::{Sha384, Sha512};

    let world = world().await;
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let cases = [
        ("256", format!("sha256:{}", hex(&Sha256::digest(b"256")))),
        ("384", format!("sha384:{}", hex(&Sha384::digest(b"384")))),
        ("512", format!("sha512:{}", hex(&Sha512::digest(b"512")))),
    ];
    for (data, digest) in cases {
        let mut commit = frame(WriteAction::Commit, data, 0, data.as_bytes());
        commit.expected.clone_from(&digest);
        let answers = write(&world, call, vec![commit]).await.unwrap();
        assert_eq!(answers[0].digest, digest);
        assert_eq!(bytes(&read(&world, &digest, 0, 0).await.unwrap()), data.as_bytes());
    }
    for bad in ["", "sha256", "sha256:", "sha256:00", "md5:00", "sha256:zz", "SHA256:00"] {
        let info = InfoRequest { digest: bad.to_owned() };
        fails(world.content().info(call(info)).await, Code::InvalidArgument, "");
    }
}
