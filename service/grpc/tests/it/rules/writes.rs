//! The write protocol of content, and who may share it.

use api_grpc::content::{
    AbortRequest, InfoRequest, ListStatusesRequest, StatusRequest, WriteContentRequest,
};
use api_grpc::namespaces::{CreateNamespaceRequest, Namespace};

use super::*;

async fn refused(world: &World, frames: Vec<WriteContentRequest>, code: Code, text: &str) {
    let status = write(world, call, frames).await.unwrap_err();
    assert_eq!(status.code(), code, "{status}");
    assert!(status.message().contains(text), "{status}");
}

async fn offset(world: &World, reference: &str) -> i64 {
    let request = StatusRequest { r#ref: reference.to_owned() };
    ok(world.content().status(call(request)).await).status.unwrap().offset
}

fn expecting(mut frame: WriteContentRequest, data: &[u8], total: i64) -> WriteContentRequest {
    frame.expected = sha256(data);
    frame.total = total;
    frame
}

#[tokio::test]
async fn the_first_frame_names_the_ref() {
    let world = world().await;
    let frames = vec![frame(WriteAction::Write, "", 0, b"x")];
    refused(&world, frames, Code::InvalidArgument, "reference").await;
}

#[tokio::test]
async fn every_frame_is_answered_with_the_state_after_it() {
    let world = world().await;
    let frames = vec![
        frame(WriteAction::Stat, "r", 0, b""),
        frame(WriteAction::Write, "r", 0, b"hello "),
        frame(WriteAction::Write, "r", 6, b"world"),
        frame(WriteAction::Commit, "r", 11, b""),
    ];
    let answers = write(&world, call, frames).await.unwrap();
    let offsets: Vec<i64> = answers.iter().map(|answer| answer.offset).collect();
    assert_eq!(offsets, [0, 6, 11, 11]);
    assert_eq!(answers[3].digest, sha256(b"hello world"));
    assert!(answers.iter().all(|answer| answer.started_at.is_some()));
}

#[tokio::test]
async fn a_wrong_offset_is_out_of_range() {
    let world = world().await;
    let frames =
        vec![frame(WriteAction::Write, "r", 0, b"hello"), frame(WriteAction::Write, "r", 3, b"x")];
    refused(&world, frames, Code::OutOfRange, "write @3 must occur at current offset 5").await;
    assert_eq!(offset(&world, "r").await, 5, "what was written stays");
}

#[tokio::test]
async fn offset_zero_begins_again() {
    let world = world().await;
    let frames = vec![
        frame(WriteAction::Write, "r", 0, b"hello"),
        frame(WriteAction::Commit, "r", 0, b"other"),
    ];
    let answers = write(&world, call, frames).await.unwrap();
    assert_eq!(answers[1].digest, sha256(b"other"));
}

#[tokio::test]
async fn an_ingest_goes_on_where_it_ended() {
    let world = world().await;
    write(&world, call, vec![frame(WriteAction::Write, "r", 0, b"hello ")]).await.unwrap();
    let frames =
        vec![frame(WriteAction::Stat, "r", 0, b""), frame(WriteAction::Commit, "r", 6, b"world")];
    let answers = write(&world, call, frames).await.unwrap();
    assert_eq!(answers[0].offset, 6);
    assert_eq!(answers[1].digest, sha256(b"hello world"));
}

#[tokio::test]
async fn a_commit_checks_size_and_digest() {
    let world = world().await;
    let commit = frame(WriteAction::Commit, "r", 0, b"hello");
    let frames = vec![WriteContentRequest { total: 6, ..commit.clone() }];
    refused(&world, frames, Code::FailedPrecondition, "failed size validation").await;
    let frames = vec![expecting(commit.clone(), b"other", 0)];
    refused(&world, frames, Code::FailedPrecondition, "unexpected commit digest").await;
    let answers = write(&world, call, vec![expecting(commit, b"hello", 5)]).await.unwrap();
    assert_eq!((answers[0].digest.as_str(), answers[0].offset), (sha256(b"hello").as_str(), 5));
}

#[tokio::test]
async fn what_is_expected_and_there_exists_already() {
    let world = world().await;
    put(&world, b"hello", &[]).await;
    let open = expecting(frame(WriteAction::Stat, "r", 0, b""), b"hello", 5);
    refused(&world, vec![open], Code::AlreadyExists, "").await;
    // Also if that turns out in the middle.
    let frames = vec![
        frame(WriteAction::Write, "late", 0, b"hel"),
        expecting(frame(WriteAction::Write, "late", 3, b"lo"), b"hello", 5),
    ];
    refused(&world, frames, Code::AlreadyExists, "").await;
    let list = ListStatusesRequest::default();
    let left = ok(world.content().list_statuses(call(list)).await).statuses;
    assert!(left.is_empty(), "the needless ingest is gone: {left:?}");
    // And at the commit of what nobody expected.
    let frames = vec![frame(WriteAction::Commit, "again", 0, b"hello")];
    refused(&world, frames, Code::AlreadyExists, "").await;
}

#[tokio::test]
async fn one_writer_holds_a_ref() {
    let world = world().await;
    let (sender, frames) = tokio::sync::mpsc::channel(4);
    sender.send(frame(WriteAction::Write, "r", 0, b"x")).await.unwrap();
    let frames = tokio_stream::wrappers::ReceiverStream::new(frames);
    let mut answers = ok(world.content().write(call(frames)).await);
    answers.message().await.unwrap().unwrap();
    refused(&world, vec![frame(WriteAction::Stat, "r", 0, b"")], Code::Unavailable, "locked").await;
    drop(sender);
    assert!(answers.message().await.unwrap().is_none());
}

#[tokio::test]
async fn an_abort_frees_the_ref_and_a_second_one_is_not_found() {
    let world = world().await;
    write(&world, call, vec![frame(WriteAction::Write, "r", 0, b"hello")]).await.unwrap();
    let abort = AbortRequest { r#ref: "r".to_owned() };
    ok(world.content().abort(call(abort.clone())).await);
    fails(world.content().abort(call(abort)).await, Code::NotFound, "");
    let request = StatusRequest { r#ref: "r".to_owned() };
    fails(world.content().status(call(request)).await, Code::NotFound, "");
}

#[tokio::test]
async fn a_status_tells_what_is_known() {
    let world = world().await;
    let open = expecting(frame(WriteAction::Write, "r", 0, b"hello"), b"hello world", 11);
    write(&world, call, vec![open]).await.unwrap();
    let request = StatusRequest { r#ref: "r".to_owned() };
    let found = ok(world.content().status(call(request)).await).status.unwrap();
    assert_eq!((found.r#ref.as_str(), found.offset, found.total), ("r", 5, 11));
    assert!(found.started_at.is_some() && found.updated_at.is_some());
    let elsewhere = StatusRequest { r#ref: "r".to_owned() };
    let answer = world.content().status(in_namespace("other", elsewhere)).await;
    fails(answer, Code::NotFound, "");
}

#[tokio::test]
async fn an_ingest_without_lease_expires_and_one_under_a_lease_does_not() {
    let world = world().await;
    let request = api_grpc::leases::CreateRequest { id: "l".to_owned(), ..Default::default() };
    ok(world.leases().create(call(request)).await);
    let open = |reference: &str| vec![frame(WriteAction::Write, reference, 0, b"x")];
    write(&world, call, open("free")).await.unwrap();
    write(&world, |frames| leased("l", frames), open("held")).await.unwrap();
    let later = std::time::SystemTime::now() + store_metadata::INGEST_LIFE * 2;
    let removed = world.stores.metadata.collect_at(later).await.unwrap().removed;
    let removed: Vec<_> = removed.into_iter().map(|removed| removed.resource).collect();
    assert_eq!(removed, [store_metadata::Resource::Ingest("free".to_owned())]);
}

#[tokio::test]
async fn shared_content_needs_no_bytes_in_another_namespace() {
    let world = world().await;
    let digest = put(&world, b"hello", &[("a", "1")]).await;
    let stat = expecting(frame(WriteAction::Stat, "r", 0, b""), b"hello", 5);
    let commit = expecting(frame(WriteAction::Commit, "r", 5, b""), b"hello", 5);
    let answers =
        write(&world, |frames| in_namespace("other", frames), vec![stat, commit]).await.unwrap();
    assert_eq!((answers[0].offset, answers[1].offset), (5, 5));
    let info = InfoRequest { digest };
    let found = ok(world.content().info(in_namespace("other", info)).await).info.unwrap();
    assert_eq!((found.size, found.labels), (5, labels(&[])), "labels are the namespace's own");
}

#[tokio::test]
async fn isolated_content_has_to_be_sent_unless_its_namespace_shares() {
    let world = isolated().await;
    put(&world, b"hello", &[]).await;
    let stat = || vec![expecting(frame(WriteAction::Stat, "r", 0, b""), b"hello", 5)];
    let answers = write(&world, |frames| in_namespace("other", frames), stat()).await.unwrap();
    assert_eq!(answers[0].offset, 0);
    let commit = expecting(frame(WriteAction::Commit, "r", 0, b"hello"), b"hello", 5);
    write(&world, |frames| in_namespace("other", frames), vec![commit]).await.unwrap();

    let shares = Namespace {
        name: "shares".to_owned(),
        labels: labels(&[("containerd.io/namespace.shareable", "true")]),
    };
    let request = CreateNamespaceRequest { namespace: Some(shares) };
    ok(world.namespaces().create(request).await);
    let commit = frame(WriteAction::Commit, "s", 0, b"common");
    write(&world, |frames| in_namespace("shares", frames), vec![commit]).await.unwrap();
    let stat = vec![expecting(frame(WriteAction::Stat, "s", 0, b""), b"common", 6)];
    let answers = write(&world, |frames| in_namespace("third", frames), stat).await.unwrap();
    assert_eq!(answers[0].offset, 6);
}

#[tokio::test]
async fn a_commit_of_what_exists_ends_the_ingest() {
    let world = world().await;
    put(&world, b"hello", &[]).await;
    let frames = vec![frame(WriteAction::Commit, "r", 0, b"hello")];
    refused(&world, frames, Code::AlreadyExists, "").await;
    let request = StatusRequest { r#ref: "r".to_owned() };
    fails(world.content().status(call(request)).await, Code::NotFound, "");
    let frames = vec![frame(WriteAction::Commit, "r", 0, b"else")];
    let answers = write(&world, call, frames).await.unwrap();
    assert_eq!(answers[0].digest, sha256(b"else"));
}

#[tokio::test]
async fn a_total_that_changes_is_checked_at_the_commit_alone() {
    let world = world().await;
    let total = |mut frame: WriteContentRequest, total| {
        frame.total = total;
        frame
    };
    let frames = || {
        vec![
            total(frame(WriteAction::Write, "r", 0, b"hel"), 5),
            total(frame(WriteAction::Write, "r", 3, b"lo"), 9),
        ]
    };
    let answers = write(&world, call, frames()).await.unwrap();
    assert_eq!(answers[1].offset, 5);
    let mut again = frames();
    again.push(total(frame(WriteAction::Commit, "r", 5, b""), 9));
    refused(&world, again, Code::FailedPrecondition, "failed size validation").await;
    let mut right = frames();
    right.push(total(frame(WriteAction::Commit, "r", 5, b""), 5));
    let answers = write(&world, call, right).await.unwrap();
    assert_eq!(answers[2].digest, sha256(b"hello"));
}
