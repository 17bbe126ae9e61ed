//! Namespaces over one backend: sharing, leases, sweeps.

use std::path::Path;
use std::sync::{Arc, Mutex};

use base_errors::Class;
use base_ident::{Digest, Labels, Namespace};
use store_content::testsuite::{self, Abilities, bytes, digest, put, read};
use store_content::{
    LocalStore, NamespacedContent, NamespacedStore, SharingPolicy, Store, WriteOptions,
};
use store_metadata::{Metadata, Options, Scope};

use super::{Folder, folder, local};

fn metadata(folder: &Path) -> Metadata {
    Metadata::open(folder.join("meta.db"), Options::default()).unwrap()
}

fn scope(namespace: &str) -> Scope {
    Scope::new(Namespace::new(namespace).unwrap())
}

struct Fixture {
    _folder: Folder,
    metadata: Metadata,
    content: NamespacedContent,
}

impl Fixture {
    fn new(policy: SharingPolicy) -> Self {
        let folder = folder();
        let metadata = metadata(folder.path());
        let content = NamespacedContent::new(metadata.clone(), local(&folder), policy);
        Fixture { _folder: folder, metadata, content }
    }

    fn store(&self, namespace: &str) -> NamespacedStore {
        self.content.scope(scope(namespace))
    }

    async fn lease(&self, namespace: &str, id: &str) -> Scope {
        let scope = scope(namespace);
        let (in_tx, id_in_tx) = (scope.clone(), id.to_owned());
        self.metadata
            .update(move |tx| Ok(tx.create_lease(&in_tx, &id_in_tx, &Labels::new())?))
            .await
            .unwrap();
        scope.with_lease(id)
    }
}

fn options(reference: &str, total: u64, expected: Option<&Digest>) -> WriteOptions {
    WriteOptions { reference: reference.to_owned(), total, expected: expected.cloned() }
}

#[test]
fn contract() {
    super::run(async {
        let fixtures = Mutex::new(Vec::new());
        let make = || -> std::pin::Pin<Box<dyn Future<Output = _> + Send>> {
            let fixture = Fixture::new(SharingPolicy::Shared);
            let store: Arc<dyn Store> = Arc::new(fixture.store("testing"));
            fixtures.lock().unwrap().push(fixture);
            Box::pin(async move { store })
        };
        testsuite::run(&make, Abilities { labels: true, running_digest: true }).await;
    });
}

#[test]
fn namespaces_do_not_see_each_other() {
    super::run(async {
        let fixture = Fixture::new(SharingPolicy::Shared);
        let (one, two) = (fixture.store("one"), fixture.store("two"));
        let blob = put(&one, "ref", &bytes(1, 100), Labels::new()).await;
        let error = two.info(&blob).await.unwrap_err();
        assert_eq!(error.to_string(), format!("content digest {blob}: not found"));
        assert!(two.reader(&blob).await.is_err());
        assert!(two.list(&[]).await.unwrap().is_empty());
        let _open = one.writer(options("same", 0, None)).await.unwrap();
        assert!(two.list_statuses(&[]).await.unwrap().is_empty());
        drop(two.writer(options("same", 0, None)).await.unwrap());
        let error = one.writer(options("same", 0, None)).await.map(|_| ()).unwrap_err();
        assert!(error.to_string().starts_with("ref one/1/same locked for "), "{error}");
    });
}

#[test]
fn shared_content_is_only_linked() {
    super::run(async {
        let fixture = Fixture::new(SharingPolicy::Shared);
        let (one, two) = (fixture.store("one"), fixture.store("two"));
        let data = bytes(2, 100_000);
        let blob = put(&one, "ref", &data, Labels::new()).await;

        let mut writer = two.writer(options("ref", 0, Some(&blob))).await.unwrap();
        let status = writer.status().await.unwrap();
        assert_eq!((status.offset, status.total), (100_000, 100_000));
        assert_eq!(writer.digest().unwrap(), blob);
        assert_eq!(two.status("ref").await.unwrap().offset, 100_000);
        assert_eq!(two.list_statuses(&[]).await.unwrap().len(), 1);
        assert!(two.info(&blob).await.is_err(), "not before the commit");
        let labels = Labels::from([("a".to_owned(), "b".to_owned())]);
        writer.commit(100_000, Some(&blob), labels.clone()).await.unwrap();
        assert_eq!(two.info(&blob).await.unwrap().labels, labels);
        assert_eq!(read(&two, &blob).await, data);
        assert!(two.list_statuses(&[]).await.unwrap().is_empty());

        // Wrong promises are found out; another size means that the bytes must come.
        let three = fixture.store("three");
        let mut writer = three.writer(options("ref", 0, Some(&blob))).await.unwrap();
        let error = writer.commit(5, None, Labels::new()).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "\"ref\" failed size validation: 100000 != 5: failed precondition"
        );
        drop(writer);
        let writer = three.writer(options("size", 7, Some(&blob))).await.unwrap();
        assert_eq!(writer.status().await.unwrap().offset, 0);
        drop(writer);

        // A client that wants to send the bytes itself may.
        let mut writer = three.writer(options("own", 0, Some(&blob))).await.unwrap();
        writer.truncate(0).await.unwrap();
        assert_eq!(writer.status().await.unwrap().offset, 0);
        writer.write(data.clone()).await.unwrap();
        writer.commit(0, Some(&blob), Labels::new()).await.unwrap();
        assert_eq!(three.info(&blob).await.unwrap().size, 100_000);
    });
}

#[test]
fn isolated_content_must_be_sent() {
    super::run(async {
        let fixture = Fixture::new(SharingPolicy::Isolated);
        let (one, two) = (fixture.store("one"), fixture.store("two"));
        for size in [100, 100_000] {
            let data = bytes(3, size);
            let blob = put(&one, "ref", &data, Labels::new()).await;
            let mut writer = two.writer(options("ref", 0, Some(&blob))).await.unwrap();
            assert_eq!(writer.status().await.unwrap().offset, 0);
            writer.write(data.clone()).await.unwrap();
            writer.commit(0, Some(&blob), Labels::new()).await.unwrap();
            assert_eq!(read(&two, &blob).await, data);
        }
    });
}

#[test]
fn a_sweep_removes_what_nobody_has() {
    super::run(async {
        let fixture = Fixture::new(SharingPolicy::Shared);
        let (one, two) = (fixture.store("one"), fixture.store("two"));
        let backend = fixture.content.backend();
        let kept = put(&one, "kept", &bytes(4, 10), Labels::new()).await;
        let both = put(&one, "both", &bytes(5, 10), Labels::new()).await;
        put(&two, "both", &bytes(5, 10), Labels::new()).await;
        let gone = put(&one, "gone", &bytes(6, 200_000), Labels::new()).await;
        let foreign = put(&**backend, "foreign", &bytes(7, 10), Labels::new()).await;
        let mut open = one.writer(options("open", 0, None)).await.unwrap();
        open.write(bytes(8, 100_000)).await.unwrap();
        let mut stray = backend.writer(options("one/1/stray", 0, None)).await.unwrap();
        stray.write(bytes(9, 100_000)).await.unwrap();
        drop(stray);

        one.delete(&both).await.unwrap();
        one.delete(&gone).await.unwrap();
        assert!(backend.info(&gone).await.is_ok(), "only the record went");
        let swept = fixture.content.sweep().await.unwrap();
        assert_eq!((swept.blobs, swept.bytes, swept.ingests), (2, 200_010, 1));
        for digest in [&gone, &foreign] {
            assert_eq!(backend.info(digest).await.unwrap_err().class(), Class::NotFound);
        }
        assert_eq!(read(&one, &kept).await, bytes(4, 10));
        assert_eq!(read(&two, &both).await, bytes(5, 10));
        open.write(bytes(10, 10)).await.unwrap();
        open.commit(100_010, None, Labels::new()).await.unwrap();
        assert_eq!(fixture.content.sweep().await.unwrap(), store_content::Swept::default());
    });
}

#[test]
fn content_that_comes_back_is_not_swept() {
    super::run(async {
        let fixture = Fixture::new(SharingPolicy::Shared);
        let store = fixture.store("one");
        let data = bytes(11, 50_000);
        let blob = put(&store, "first", &data, Labels::new()).await;
        store.delete(&blob).await.unwrap();
        // The client has been told that nothing needs to be sent: so it must stay.
        let mut writer = store.writer(options("again", 0, Some(&blob))).await.unwrap();
        assert_eq!(writer.status().await.unwrap().offset, 50_000);
        assert_eq!(fixture.content.sweep().await.unwrap().blobs, 0);
        writer.commit(0, Some(&blob), Labels::new()).await.unwrap();
        assert_eq!(read(&store, &blob).await, data);
    });
}

#[test]
fn sweeps_and_writers_at_once() {
    super::run(async {
        let fixture = Fixture::new(SharingPolicy::Shared);
        let store = fixture.store("one");
        let sweeps = async {
            for _ in 0..40 {
                fixture.content.sweep().await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let writers = async {
            for round in 0..40 {
                let size = if round % 4 == 0 { 100_000 } else { 100 };
                let data = bytes(round % 3, size);
                let blob = digest(&data);
                match store.writer(options("ref", 0, Some(&blob))).await {
                    Ok(mut writer) => {
                        if writer.status().await.unwrap().offset == 0 {
                            writer.write(data.clone()).await.unwrap();
                        }
                        writer.commit(0, Some(&blob), Labels::new()).await.unwrap();
                    }
                    Err(error) => panic!("{error}"),
                }
                assert_eq!(read(&store, &blob).await, data, "round {round}");
                store.delete(&blob).await.unwrap();
            }
        };
        tokio::join!(sweeps, writers);
        fixture.content.sweep().await.unwrap();
        assert!(fixture.content.backend().list(&[]).await.unwrap().is_empty());
    });
}

#[test]
fn a_lease_goes_from_the_ingest_to_the_blob() {
    super::run(async {
        let fixture = Fixture::new(SharingPolicy::Shared);
        let leased = fixture.lease("one", "holder").await;
        let store = fixture.content.scope(leased.clone());
        let resources = || {
            let namespace = leased.namespace.clone();
            fixture.metadata.view(|tx| Ok(tx.lease_resources(&namespace, "holder")?)).unwrap()
        };
        let mut writer = store.writer(options("ref", 0, None)).await.unwrap();
        let ingest = fixture.metadata.view(|tx| Ok(tx.ingest(&leased.namespace, "ref")?)).unwrap();
        assert_eq!((ingest.backend.as_str(), ingest.expire_at), ("one/1/ref", None));
        assert!(
            resources().iter().any(|r| r.kind == "ingests" && r.id == "ref"),
            "{:?}",
            resources()
        );
        writer.write(bytes(12, 10)).await.unwrap();
        let blob = writer.commit(0, None, Labels::new()).await.unwrap();
        let after = resources();
        assert!(after.len() == 1 && after[0].kind == "content" && after[0].id == blob.as_str());

        // Content that is there already is leased as well, although the answer is an error.
        let second = fixture.content.scope(fixture.lease("one", "second").await);
        let error = second.writer(options("x", 0, Some(&blob))).await.map(|_| ()).unwrap_err();
        assert_eq!(error.to_string(), format!("content {blob}: already exists"));
        let namespace = leased.namespace.clone();
        let held =
            fixture.metadata.view(|tx| Ok(tx.lease_resources(&namespace, "second")?)).unwrap();
        assert!(held.len() == 1 && held[0].id == blob.as_str());

        let unleased = fixture.store("one");
        drop(unleased.writer(options("plain", 0, None)).await.unwrap());
        let ingest =
            fixture.metadata.view(|tx| Ok(tx.ingest(&leased.namespace, "plain")?)).unwrap();
        assert!(ingest.expire_at.is_some());
        let missing = fixture.content.scope(scope("one").with_lease("missing"));
        let error = missing.writer(options("y", 0, None)).await.map(|_| ()).unwrap_err();
        assert_eq!(error.class(), Class::NotFound, "{error}");
    });
}

#[test]
fn a_crash_between_backend_and_record_costs_nothing() {
    super::run(async {
        let folder = folder();
        let data = bytes(13, 1000);
        {
            let backend = LocalStore::open(folder.path().join("content")).unwrap();
            let metadata = metadata(folder.path());
            let content =
                NamespacedContent::new(metadata, Arc::new(backend.clone()), SharingPolicy::Shared);
            drop(content.scope(scope("one")).writer(options("ref", 0, None)).await.unwrap());
            // The backend gets as far as the end, the record does not.
            let mut writer = backend.writer(options("one/1/ref", 0, None)).await.unwrap();
            writer.write(data.clone()).await.unwrap();
            writer.commit(0, None, Labels::new()).await.unwrap();
        }
        let metadata = metadata(folder.path());
        let content = NamespacedContent::new(metadata, local(&folder), SharingPolicy::Isolated);
        let store = content.scope(scope("one"));
        assert!(store.info(&digest(&data)).await.is_err());
        assert!(store.list_statuses(&[]).await.unwrap().is_empty());
        let mut writer = store.writer(options("ref", 0, Some(&digest(&data)))).await.unwrap();
        writer.write(data.clone()).await.unwrap();
        writer.commit(1000, Some(&digest(&data)), Labels::new()).await.unwrap();
        assert_eq!(read(&store, &digest(&data)).await, data);
    });
}
