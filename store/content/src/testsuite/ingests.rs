//! Ingests: opened, resumed, locked, given up, committed.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base_errors::Class;
use base_ident::Labels;
use bytes::Bytes;

use super::{Abilities, bytes, digest, open, put, read, refused, try_open};
use crate::store::Store;

pub(super) async fn status(store: &dyn Store, abilities: Abilities) {
    let before = SystemTime::now() - Duration::from_secs(1);
    let data = bytes(20, 100_000);
    let mut writer = try_open(store, "busy", 300_000, Some(&digest(b"later"))).await.unwrap();
    let status = writer.status().await.unwrap();
    assert_eq!((status.offset, status.total), (0, 300_000));
    if abilities.running_digest {
        assert_eq!(writer.digest().unwrap(), digest(b""));
    }
    for step in 1..=2 {
        writer.write(data.clone()).await.unwrap();
        let seen = store.status("busy").await.unwrap();
        assert_eq!(
            (seen.reference.as_str(), seen.offset, seen.total),
            ("busy", step * 100_000, 300_000)
        );
        assert!(seen.started_at >= before && seen.updated_at >= seen.started_at, "{seen:?}");
        let own = writer.status().await.unwrap();
        assert_eq!(own.offset, seen.offset);
    }
    let _other = open(store, "other").await;
    let mut references: Vec<_> =
        store.list_statuses(&[]).await.unwrap().into_iter().map(|s| s.reference).collect();
    references.sort();
    assert_eq!(references, ["busy", "other"]);
    let found = store.list_statuses(&["ref==other".to_owned()]).await.unwrap();
    assert!(found.len() == 1 && found[0].reference == "other" && found[0].offset == 0);
    assert!(store.list_statuses(&["ref~=^x".to_owned()]).await.unwrap().is_empty());
    refused(store.list_statuses(&["ref==\"".to_owned()]).await, Class::InvalidArgument);
}

pub(super) async fn resume(store: &dyn Store) {
    // Small ones were in memory, large ones in files, when their writer went.
    for (reference, size) in [("none", 0), ("small", 1000), ("large", 3_000_000)] {
        let data = bytes(21, size + 500);
        let mut writer = try_open(store, reference, size as u64 + 500, None).await.unwrap();
        writer.write(data.slice(..size)).await.unwrap();
        let started_at = writer.status().await.unwrap().started_at;
        drop(writer);

        let mut writer = try_open(store, reference, 0, None).await.unwrap();
        let status = writer.status().await.unwrap();
        assert_eq!((status.offset, status.total), (size as u64, size as u64 + 500), "{reference}");
        assert_eq!(status.started_at, started_at);
        assert_eq!(store.status(reference).await.unwrap().offset, size as u64);
        writer.write(data.slice(size..)).await.unwrap();
        let committed = writer.commit(size as u64 + 500, Some(&digest(&data)), Labels::new()).await;
        assert_eq!(read(store, &committed.unwrap()).await, data);
        drop(writer);
        refused(store.status(reference).await, Class::NotFound);
    }
    // A total that contradicts the first one starts anew.
    let mut writer = try_open(store, "total", 100, None).await.unwrap();
    writer.write(bytes(22, 50)).await.unwrap();
    drop(writer);
    let writer = try_open(store, "total", 70, None).await.unwrap();
    let status = writer.status().await.unwrap();
    assert_eq!((status.offset, status.total), (0, 70));
}

pub(super) async fn reference_lock(store: &dyn Store) {
    let writer = open(store, "locked").await;
    let text = refused(try_open(store, "locked", 0, None).await.map(|_| ()), Class::Unavailable);
    assert!(text.starts_with("ref ") && text.contains("locked for "), "{text}");
    assert!(text.contains("locked") && text.ends_with("): unavailable"), "{text}");
    drop(open(store, "another").await);
    drop(writer);
    // The lock is free as soon as the writer's bytes are safe; opening waits for that.
    drop(open(store, "locked").await);
}

pub(super) async fn abort(store: &dyn Store) {
    for size in [10, 200_000] {
        let mut writer = open(store, "aborted").await;
        writer.write(bytes(23, size)).await.unwrap();
        drop(writer);
        // The lock of a dropped writer is freed a little later.
        drop(open(store, "aborted").await);
        store.abort("aborted").await.unwrap();
        refused(store.status("aborted").await, Class::NotFound);
        assert!(store.list_statuses(&[]).await.unwrap().is_empty());
        let writer = open(store, "aborted").await;
        assert_eq!(writer.status().await.unwrap().offset, 0, "it begins anew");
        drop(writer);
        drop(open(store, "aborted").await);
        store.abort("aborted").await.unwrap();
    }
}

pub(super) async fn truncate(store: &dyn Store) {
    for size in [100, 500_000] {
        let data = bytes(24, size);
        let mut writer = open(store, "truncated").await;
        writer.write(bytes(25, size + 7)).await.unwrap();
        writer.truncate(0).await.unwrap();
        assert_eq!(writer.status().await.unwrap().offset, 0);
        refused(writer.truncate(5).await, Class::InvalidArgument);
        writer.write(data.clone()).await.unwrap();
        let committed = writer.commit(size as u64, Some(&digest(&data)), Labels::new()).await;
        assert_eq!(read(store, &committed.unwrap()).await, data);
    }
}

pub(super) async fn wrong_size(store: &dyn Store) {
    for size in [100, 200_000] {
        let data = bytes(26 + size as u64, size);
        let mut writer = open(store, "size").await;
        writer.write(data.clone()).await.unwrap();
        let wrong = writer.commit(size as u64 + 1, None, Labels::new()).await;
        refused(wrong, Class::FailedPrecondition);
        refused(writer.write(data.clone()).await, Class::FailedPrecondition);
        drop(writer);
        refused(store.info(&digest(&data)).await, Class::NotFound);
        // The bytes are still there for another try.
        let mut writer = open(store, "size").await;
        assert_eq!(writer.status().await.unwrap().offset, size as u64);
        writer.commit(size as u64, Some(&digest(&data)), Labels::new()).await.unwrap();
    }
}

pub(super) async fn wrong_digest(store: &dyn Store) {
    for size in [100, 200_000] {
        let data = bytes(27 + size as u64, size);
        let mut writer = open(store, "digest").await;
        writer.write(data.clone()).await.unwrap();
        let other = digest(b"other");
        let text =
            refused(writer.commit(0, Some(&other), Labels::new()).await, Class::FailedPrecondition);
        assert!(
            text.contains("unexpected commit digest") && text.contains(other.as_str()),
            "{text}"
        );
        drop(writer);
        refused(store.info(&other).await, Class::NotFound);
        refused(store.info(&digest(&data)).await, Class::NotFound);
        let mut writer = open(store, "digest").await;
        assert_eq!(writer.status().await.unwrap().offset, size as u64);
        writer.commit(0, Some(&digest(&data)), Labels::new()).await.unwrap();
    }
}

pub(super) async fn existing_content(store: &dyn Store) {
    for size in [100, 200_000] {
        let data = bytes(28 + size as u64, size);
        let blob = put(store, "first", &data, Labels::new()).await;
        // Known when the writer is opened …
        let opened = try_open(store, "second", size as u64, Some(&blob)).await;
        let text = refused(opened.map(|_| ()), Class::AlreadyExists);
        assert_eq!(text, format!("content {blob}: already exists"));
        refused(store.status("second").await, Class::NotFound);
        // … or only at the end.
        let mut writer = open(store, "third").await;
        writer.write(data.clone()).await.unwrap();
        let text = refused(
            writer.commit(size as u64, Some(&blob), Labels::new()).await,
            Class::AlreadyExists,
        );
        // The gRPC service looks before it commits, and has words of its own.
        let own_words = format!("blob with expected digest {blob} exists: already exists");
        assert!(text == format!("content {blob}: already exists") || text == own_words, "{text}");
        drop(writer);
        refused(store.status("third").await, Class::NotFound);
        assert_eq!(read(store, &blob).await, data);
    }
}

pub(super) async fn commit_is_the_end(store: &dyn Store) {
    let data = bytes(30, 10);
    let mut writer = open(store, "end").await;
    writer.write(data.clone()).await.unwrap();
    writer.commit(10, None, Labels::new()).await.unwrap();
    refused(writer.write(data.clone()).await, Class::FailedPrecondition);
    refused(writer.commit(10, None, Labels::new()).await, Class::FailedPrecondition);
    // The reference is free although the writer is still there.
    drop(open(store, "end").await);
}

pub(super) async fn concurrent_writers(store: Arc<dyn Store>) {
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..24u64 {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            let data = bytes(100 + number, 40_000 * (usize::try_from(number).unwrap() % 5 + 1));
            let mut writer = open(&*store, &format!("concurrent-{number}")).await;
            for part in data.chunks(30_000) {
                writer.write(Bytes::copy_from_slice(part)).await.unwrap();
            }
            let expected = digest(&data);
            let size = data.len() as u64;
            let committed = writer.commit(size, Some(&expected), Labels::new()).await.unwrap();
            assert_eq!(read(&*store, &committed).await, data);
        });
    }
    while let Some(result) = tasks.join_next().await {
        result.unwrap();
    }
    assert_eq!(store.list(&[]).await.unwrap().len(), 24);
    assert!(store.list_statuses(&[]).await.unwrap().is_empty());
}

pub(super) async fn same_content_twice(store: Arc<dyn Store>) {
    for size in [1000, 200_000] {
        let data = bytes(50 + size as u64, size);
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..6 {
            let (store, data) = (Arc::clone(&store), data.clone());
            tasks.spawn(async move {
                let mut writer = open(&*store, &format!("same-{number}")).await;
                writer.write(data.clone()).await.unwrap();
                match writer.commit(0, Some(&digest(&data)), Labels::new()).await {
                    Ok(_) => 1,
                    Err(error) => {
                        assert_eq!(error.class(), Class::AlreadyExists, "{error}");
                        0
                    }
                }
            });
        }
        let mut first = 0;
        while let Some(result) = tasks.join_next().await {
            first += result.unwrap();
        }
        assert_eq!(first, 1, "one of them makes it");
        assert_eq!(read(&*store, &digest(&data)).await, data);
        assert!(store.list_statuses(&[]).await.unwrap().is_empty());
    }
}

pub(super) async fn bad_requests(store: &dyn Store) {
    let text = refused(try_open(store, "", 0, None).await.map(|_| ()), Class::InvalidArgument);
    assert_eq!(text, "ref must not be empty: invalid argument");
    // References are names, not paths.
    for reference in ["../../etc/passwd", "a/b c/ü", &"x".repeat(1000)] {
        let data = bytes(31, 70_000);
        let mut writer = open(store, reference).await;
        writer.write(data.clone()).await.unwrap();
        drop(writer);
        drop(open(store, reference).await);
        assert_eq!(store.status(reference).await.unwrap().offset, 70_000);
        store.abort(reference).await.unwrap();
    }
}
