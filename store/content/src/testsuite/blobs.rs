//! Blobs: written, read, described, listed, removed.

use std::sync::Arc;
use std::time::SystemTime;

use base_errors::Class;
use base_ident::{Algorithm, Labels};
use bytes::Bytes;

use super::{Abilities, bytes, digest, fill, named, open, put, read, refused};
use crate::Hasher;
use crate::store::{Info, Store, UpdateField};

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

pub(super) async fn write_and_read(store: &dyn Store, abilities: Abilities) {
    let before = SystemTime::now() - std::time::Duration::from_secs(1);
    let data = bytes(1, 5000);
    let mut writer = open(store, "one").await;
    writer.write(data.slice(..2000)).await.unwrap();
    writer.write(Bytes::new()).await.unwrap();
    writer.write(data.slice(2000..)).await.unwrap();
    if abilities.running_digest {
        assert_eq!(writer.digest().unwrap(), digest(&data));
    }
    let committed = writer.commit(5000, Some(&digest(&data)), Labels::new()).await.unwrap();
    assert_eq!(committed, digest(&data));
    assert_eq!(writer.digest().unwrap(), committed, "known after the commit as well");
    let info = store.info(&committed).await.unwrap();
    assert_eq!((info.size, &info.digest), (5000, &committed));
    assert!(info.created_at >= before && info.updated_at >= info.created_at, "{info:?}");
    assert_eq!(read(store, &committed).await, data);
    assert!(store.list_statuses(&[]).await.unwrap().is_empty(), "the ingest is gone");
}

pub(super) async fn empty_blob(store: &dyn Store) {
    let mut writer = open(store, "empty").await;
    let committed = writer.commit(0, None, Labels::new()).await.unwrap();
    assert_eq!(committed, digest(b""));
    assert_eq!(store.info(&committed).await.unwrap().size, 0);
    assert!(read(store, &committed).await.is_empty());
}

pub(super) async fn sizes_around_buffers(store: &dyn Store) {
    const KIB: usize = 1 << 10;
    let around = [1, 4 * KIB, 64 * KIB, 1 << 20, 4 << 20, 8 << 20];
    for size in around.into_iter().flat_map(|size| [size - 1, size, size + 1]) {
        // One write, and writes of an odd size that straddle every border.
        for step in [size, 333_333] {
            if step > size {
                continue;
            }
            let data = bytes(size as u64 + step as u64, size);
            let mut writer = open(store, "sized").await;
            let mut rest = data.clone();
            while !rest.is_empty() {
                let part = rest.split_to(step.min(rest.len()));
                writer.write(part).await.unwrap();
            }
            let size = size as u64;
            assert_eq!(writer.status().await.unwrap().offset, size);
            let committed = writer.commit(size, Some(&digest(&data)), Labels::new()).await;
            let committed = committed.unwrap();
            drop(writer);
            assert_eq!(store.info(&committed).await.unwrap().size, size);
            assert_eq!(read(store, &committed).await, data, "{size} bytes");
            store.delete(&committed).await.unwrap();
        }
    }
}

pub(super) async fn read_at_offsets(store: Arc<dyn Store>) {
    let data = bytes(3, 300_000);
    let blob = put(&*store, "offsets", &data, Labels::new()).await;
    let reader = store.reader(&blob).await.unwrap();
    tokio::task::spawn_blocking(move || {
        assert_eq!(reader.size(), 300_000);
        for (offset, length) in [(0, 1), (1, 4096), (65_535, 2), (150_000, 150_000)] {
            let mut buffer = vec![0; length];
            fill(&*reader, &mut buffer, offset as u64);
            assert_eq!(buffer, data[offset..offset + length]);
        }
        let mut buffer = [7; 16];
        assert_eq!(reader.read_at(&mut buffer, 299_990).unwrap(), 10, "cut at the end");
        assert_eq!(buffer[..10], data[299_990..]);
        assert_eq!(reader.read_at(&mut buffer, 300_000).unwrap(), 0);
        assert_eq!(reader.read_at(&mut buffer, 400_000).unwrap(), 0);
        assert_eq!(reader.read_at(&mut [], 0).unwrap(), 0);
    })
    .await
    .unwrap();
}

pub(super) async fn missing(store: &dyn Store, abilities: Abilities) {
    let absent = digest(b"absent");
    let text = refused(store.info(&absent).await, Class::NotFound);
    assert!(
        text.starts_with("content ") && text.ends_with(&format!("{absent}: not found")),
        "{text}"
    );
    refused(store.reader(&absent).await.map(|_| ()), Class::NotFound);
    refused(store.delete(&absent).await, Class::NotFound);
    refused(store.status("absent").await, Class::NotFound);
    refused(store.abort("absent").await, Class::NotFound);
    if abilities.labels {
        let now = SystemTime::now();
        let (created_at, updated_at) = (now, now);
        let info = Info { digest: absent, size: 0, created_at, updated_at, labels: Labels::new() };
        refused(store.update(&info, &[]).await, Class::NotFound);
    }
}

pub(super) async fn delete(store: &dyn Store) {
    let data = bytes(4, 100);
    let blob = put(store, "deleted", &data, Labels::new()).await;
    let other = put(store, "kept", &bytes(5, 100), Labels::new()).await;
    store.delete(&blob).await.unwrap();
    refused(store.info(&blob).await, Class::NotFound);
    refused(store.delete(&blob).await, Class::NotFound);
    store.info(&other).await.unwrap();
    put(store, "deleted", &data, Labels::new()).await;
    assert_eq!(read(store, &blob).await, data, "it can come again");
    let several = [other.clone(), other.clone(), blob.clone()];
    let outcomes = store.delete_all(&several).await;
    let classes: Vec<_> =
        outcomes.into_iter().map(|outcome| outcome.err().map(|error| error.class())).collect();
    assert_eq!(classes, [None, Some(Class::NotFound), None], "one after the other");
    refused(store.info(&blob).await, Class::NotFound);
}

pub(super) async fn list(store: &dyn Store) {
    assert!(store.list(&[]).await.unwrap().is_empty());
    let mut blobs = Vec::new();
    // More than a block of the service's answers.
    for number in 0..130 {
        blobs.push(put(store, &format!("list-{number}"), &bytes(number, 64), Labels::new()).await);
    }
    let all = store.list(&[]).await.unwrap();
    assert_eq!(all.len(), blobs.len());
    assert!(blobs.iter().all(|blob| named(&all, blob)));
    let one = store.list(&[format!("digest=={}", blobs[7])]).await.unwrap();
    assert!(one.len() == 1 && one[0].digest == blobs[7] && one[0].size == 64);
    let two = [format!("digest=={}", blobs[1]), format!("digest=={}", blobs[2])];
    assert_eq!(store.list(&two).await.unwrap().len(), 2, "filters are alternatives");
    refused(store.list(&["digest==\"".to_owned()]).await, Class::InvalidArgument);
}

pub(super) async fn other_algorithms(store: &dyn Store) {
    for algorithm in [Algorithm::Sha384, Algorithm::Sha512] {
        for size in [100, 200_000] {
            let data = bytes(6, size);
            let expected = Hasher::hash(algorithm, &data);
            let mut writer = open(store, "algorithm").await;
            writer.write(data.clone()).await.unwrap();
            let committed = writer.commit(0, Some(&expected), Labels::new()).await.unwrap();
            assert_eq!(committed, expected);
            assert_eq!(read(store, &expected).await, data);
        }
    }
}

async fn labels_of(store: &dyn Store, info: &Info) -> Labels {
    store.info(&info.digest).await.unwrap().labels
}

async fn label_update(
    store: &dyn Store,
    info: &mut Info,
    new: &[(&str, &str)],
    fields: &[UpdateField],
    expected: &[(&str, &str)],
) {
    info.labels = labels(new);
    let answer = store.update(info, fields).await.unwrap();
    assert_eq!(answer.labels, labels(expected));
    assert!(answer.updated_at >= answer.created_at);
    assert_eq!(labels_of(store, info).await, labels(expected));
}

pub(super) async fn update_labels(store: &dyn Store) {
    let first = labels(&[("a", "1"), ("b", "2"), ("empty", "")]);
    let blob = put(store, "labels", &bytes(7, 10), first).await;
    let mut info = store.info(&blob).await.unwrap();
    assert_eq!(info.labels, labels(&[("a", "1"), ("b", "2")]), "empty ones are left out");
    let label = |key: &str| UpdateField::Label(key.to_owned());

    label_update(store, &mut info, &[("a", "3")], &[label("a")], &[("a", "3"), ("b", "2")]).await;
    label_update(store, &mut info, &[("b", "")], &[label("b")], &[("a", "3")]).await;
    label_update(store, &mut info, &[], &[label("a")], &[]).await;
    label_update(store, &mut info, &[("x.y/z", "1")], &[label("x.y/z")], &[("x.y/z", "1")]).await;
    let all = [UpdateField::Labels];
    label_update(store, &mut info, &[("n", "1"), ("m", "2")], &all, &[("n", "1"), ("m", "2")])
        .await;
    label_update(store, &mut info, &[("only", "one")], &[], &[("only", "one")]).await;

    info.labels = labels(&[("k", &"v".repeat(4096))]);
    refused(store.update(&info, &[]).await, Class::InvalidArgument);
    assert_eq!(labels_of(store, &info).await, labels(&[("only", "one")]), "nothing has changed");

    let mut writer = open(store, "too-large").await;
    let large = labels(&[("k", &"v".repeat(4096))]);
    refused(writer.commit(0, None, large).await, Class::InvalidArgument);
}

pub(super) async fn label_filters(store: &dyn Store) {
    let red = put(store, "f1", &bytes(8, 10), labels(&[("color", "red"), ("a.b", "1")])).await;
    let blue = put(store, "f2", &bytes(9, 10), labels(&[("color", "blue")])).await;
    let find = async |filter: &str| store.list(&[filter.to_owned()]).await.unwrap();
    let found = find("labels.color==red").await;
    assert!(named(&found, &red) && !named(&found, &blue));
    let found = find("labels.color").await;
    assert!(named(&found, &red) && named(&found, &blue));
    let found = find("labels.\"a.b\"==1,labels.color!=blue").await;
    assert!(named(&found, &red) && !named(&found, &blue));
    assert!(find("labels.color~=^g").await.is_empty());
}
