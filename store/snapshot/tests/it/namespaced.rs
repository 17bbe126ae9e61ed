//! Namespaces over one backend: keys, labels, leases, remote snapshots, sweeps, crashes.

use std::path::Path;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use base_errors::{Class, Error, Result};
use base_ident::{Labels, Namespace};
use kernel_mount::Mount;
use store_metadata::{Metadata, Options, Scope};
use store_snapshot::testsuite::{self, Abilities};
use store_snapshot::{
    Info, LABEL_SNAPSHOT_REF, NamespacedSnapshots, Snapshotter, UpdateField, Usage,
};

use super::{folder, in_namespace, native, numbered, overlay};

fn metadata(folder: &Path) -> Metadata {
    std::fs::create_dir_all(folder).unwrap();
    Metadata::open(folder.join("meta.db"), Options::default()).unwrap()
}

fn scope(namespace: &str) -> Scope {
    Scope::new(Namespace::new(namespace).unwrap())
}

#[test]
fn contract() {
    in_namespace("256m", async |work| {
        let make = || -> std::pin::Pin<Box<dyn Future<Output = _> + Send>> {
            let root = numbered(&work);
            let snapshots = NamespacedSnapshots::new(
                metadata(&root),
                "overlayfs",
                overlay(&root.join("overlay")),
            );
            let store: Arc<dyn Snapshotter> = Arc::new(snapshots.scope(scope("testing")));
            Box::pin(async move { store })
        };
        testsuite::run(&make, &work, Abilities { rebase: true, exact_usage: true }).await;
    });
}

#[tokio::test]
async fn keys_and_labels_are_split() {
    let folder = folder();
    let metadata = metadata(folder.path());
    let backend = native(&folder.path().join("native"));
    let snapshots = NamespacedSnapshots::new(metadata, "native", Arc::clone(&backend));
    let store = snapshots.scope(scope("default"));
    let all = Labels::from([
        ("mine".to_owned(), "1".to_owned()),
        ("containerd.io/snapshot/theirs".to_owned(), "2".to_owned()),
        (LABEL_SNAPSHOT_REF.to_owned(), "target".to_owned()),
    ]);
    store.prepare("prep-1", "", all.clone()).await.unwrap();
    let inside = backend.stat("default/1/prep-1").await.unwrap();
    assert_eq!(inside.labels.len(), 2, "{:?}", inside.labels);
    assert_eq!(store.stat("prep-1").await.unwrap().labels, all);
    store.commit("layer-1", "prep-1", all.clone(), "").await.unwrap();
    // The numbers that containerd gives for the same calls.
    let inside = backend.stat("default/2/layer-1").await.unwrap();
    assert_eq!(inside.labels.len(), 2);
    store.prepare("c1-rootfs", "layer-1", Labels::new()).await.unwrap();
    let inside = backend.stat("default/3/c1-rootfs").await.unwrap();
    assert_eq!(inside.parent, "default/2/layer-1");

    let mut info = store.stat("layer-1").await.unwrap();
    info.labels.insert("mine".to_owned(), "3".to_owned());
    let fields = [UpdateField::Label("mine".to_owned())];
    assert_eq!(store.update(&info, &fields).await.unwrap().labels["mine"], "3");
    info.labels = Labels::from([("only".to_owned(), "4".to_owned())]);
    let updated = store.update(&info, &[]).await.unwrap();
    assert_eq!(updated.labels, info.labels);
    assert!(backend.stat("default/2/layer-1").await.unwrap().labels.is_empty());

    let mut large = Labels::new();
    large.insert("k".to_owned(), "v".repeat(4096));
    let error = store.prepare("large", "", large).await.unwrap_err();
    assert_eq!(error.class(), Class::InvalidArgument);
    assert!(store.stat("large").await.is_err());
}

#[tokio::test]
async fn namespaces_do_not_see_each_other() {
    let folder = folder();
    let backend = native(&folder.path().join("native"));
    let snapshots = NamespacedSnapshots::new(metadata(folder.path()), "native", backend);
    let (one, two) = (snapshots.scope(scope("one")), snapshots.scope(scope("two")));
    one.prepare("key", "", Labels::new()).await.unwrap();
    one.commit("name", "key", Labels::new(), "").await.unwrap();
    assert!(two.list(&[]).await.unwrap().is_empty());
    assert_eq!(
        two.stat("name").await.unwrap_err().to_string(),
        "snapshot name does not exist: not found"
    );
    let error = two.prepare("key", "name", Labels::new()).await.unwrap_err();
    assert_eq!(error.class(), Class::NotFound, "{error}");
    assert!(error.to_string().contains("parent snapshot name does not exist"), "{error}");
    two.prepare("key", "", Labels::new()).await.unwrap();
}

#[tokio::test]
async fn a_sweep_removes_children_first() {
    let folder = folder();
    let metadata = metadata(folder.path());
    let backend = native(&folder.path().join("native"));
    let snapshots = NamespacedSnapshots::new(metadata, "native", Arc::clone(&backend));
    let store = snapshots.scope(scope("one"));
    let mut parent = String::new();
    for number in 0..5 {
        store.prepare("key", &parent, Labels::new()).await.unwrap();
        let name = format!("layer-{number}");
        store.commit(&name, "key", Labels::new(), "").await.unwrap();
        parent = name;
    }
    store.view("view", "layer-1", Labels::new()).await.unwrap();
    // Left by a crash: in the backend, in no record, on a recorded parent.
    backend.prepare("one/99/crashed", "", Labels::new()).await.unwrap();
    for number in (2..5).rev() {
        store.remove(&format!("layer-{number}")).await.unwrap();
    }
    assert_eq!(backend.list(&[]).await.unwrap().len(), 7, "only records went");
    assert_eq!(snapshots.sweep().await.unwrap(), 4);
    let mut left: Vec<_> =
        backend.list(&[]).await.unwrap().into_iter().map(|info| info.name).collect();
    left.sort();
    assert_eq!(left, ["one/11/view", "one/2/layer-0", "one/4/layer-1"]);
    assert_eq!(std::fs::read_dir(folder.path().join("native/snapshots")).unwrap().count(), 2);
    assert_eq!(snapshots.sweep().await.unwrap(), 0);
}

/// The records are lost, the backend has kept its own.
#[tokio::test]
async fn keys_that_only_the_backend_knows_are_in_nobodys_way() {
    let folder = folder();
    let backend = native(&folder.path().join("native"));
    let life = async |records: &str| {
        let records = metadata(&folder.path().join(records));
        let snapshots = NamespacedSnapshots::new(records, "native", Arc::clone(&backend));
        let store = snapshots.scope(scope("one"));
        store.prepare("key", "", Labels::new()).await.unwrap();
        store.commit("layer", "key", Labels::new(), "").await.unwrap();
        store.view("view", "layer", Labels::new()).await.unwrap();
        assert_eq!(store.list(&[]).await.unwrap().len(), 2);
        snapshots
    };
    life("before").await;
    backend.prepare("one/4/view", "", Labels::new()).await.unwrap();
    // The same numbers again, but for that of the active key, which is free.
    let snapshots = life("after").await;
    let mut found: Vec<_> =
        backend.list(&[]).await.unwrap().into_iter().map(|info| info.name).collect();
    found.sort();
    assert_eq!(
        found,
        ["one/2/layer", "one/3/layer", "one/3/view", "one/4/view", "one/5/view"],
        "a commit and a view beside those of before"
    );
    assert_eq!(snapshots.sweep().await.unwrap(), 3);
}

/// What has nothing but taken keys is not asked for ever.
#[tokio::test]
async fn a_backend_that_has_every_key_is_given_up() {
    let folder = folder();
    let backend = native(&folder.path().join("native"));
    for number in 1..=40 {
        backend.prepare(&format!("one/{number}/key"), "", Labels::new()).await.unwrap();
    }
    let snapshots = NamespacedSnapshots::new(metadata(folder.path()), "native", backend);
    let error = snapshots.scope(scope("one")).prepare("key", "", Labels::new()).await.unwrap_err();
    assert_eq!(error.class(), Class::Unknown, "{error}");
}

#[tokio::test]
async fn crashes_between_backend_and_record_block_nothing() {
    let folder = folder();
    let backend = native(&folder.path().join("native"));
    let snapshots =
        NamespacedSnapshots::new(metadata(folder.path()), "native", Arc::clone(&backend));
    let store = snapshots.scope(scope("one"));
    // The key that a crashed prepare had reserved is in the backend; the number was used.
    store.prepare("key", "", Labels::new()).await.unwrap();
    store.remove("key").await.unwrap();
    assert!(backend.stat("one/1/key").await.is_ok());
    store.prepare("key", "", Labels::new()).await.unwrap();
    assert!(backend.stat("one/2/key").await.is_ok());
    // A commit that reached the backend only: the name is free, the key is lost and removable.
    backend.commit("one/3/name", "one/2/key", Labels::new(), "").await.unwrap();
    assert!(store.stat("name").await.is_err());
    assert!(store.list(&[]).await.unwrap().is_empty());
    store.remove("key").await.unwrap();
    store.prepare("key", "", Labels::new()).await.unwrap();
    store.commit("name", "key", Labels::new(), "").await.unwrap();
    snapshots.sweep().await.unwrap();
    assert_eq!(backend.list(&[]).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_lease_follows_the_commit() {
    let folder = folder();
    let metadata = metadata(folder.path());
    let backend = native(&folder.path().join("native"));
    let snapshots = NamespacedSnapshots::new(metadata.clone(), "native", backend);
    let plain = scope("one");
    let in_tx = plain.clone();
    metadata.update(move |tx| Ok(tx.create_lease(&in_tx, "lease", &Labels::new())?)).await.unwrap();
    let resources = || {
        metadata
            .view(|tx| Ok(tx.lease_resources(&plain.namespace, "lease")?))
            .unwrap()
            .into_iter()
            .map(|resource| (resource.kind, resource.id))
            .collect::<Vec<_>>()
    };
    let kind = || "snapshots/native".to_owned();
    let store = snapshots.scope(plain.clone().with_lease("lease"));
    store.prepare("key", "", Labels::new()).await.unwrap();
    assert_eq!(resources(), [(kind(), "key".to_owned())]);
    store.commit("name", "key", Labels::new(), "").await.unwrap();
    assert_eq!(resources(), [(kind(), "name".to_owned())]);
    store.remove("name").await.unwrap();
    assert!(resources().is_empty());
}

/// A backend that has `remote` already, as snapshotters that mount images over the network do.
struct Remote {
    inner: Arc<dyn Snapshotter>,
    asked: Mutex<Vec<String>>,
}

#[async_trait]
impl Snapshotter for Remote {
    async fn stat(&self, key: &str) -> Result<Info> {
        self.inner.stat(key).await
    }
    async fn update(&self, info: &Info, fields: &[UpdateField]) -> Result<Info> {
        self.inner.update(info, fields).await
    }
    async fn usage(&self, key: &str) -> Result<Usage> {
        self.inner.usage(key).await
    }
    async fn mounts(&self, key: &str) -> Result<Vec<Mount>> {
        self.inner.mounts(key).await
    }
    async fn prepare(&self, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>> {
        self.asked.lock().unwrap().push(key.to_owned());
        match labels.get(LABEL_SNAPSHOT_REF).map(String::as_str) {
            Some("remote") => {
                self.inner.prepare(key, parent, labels.clone()).await?;
                self.inner.commit(&format!("{key}-committed"), key, labels, "").await?;
                Err(Error::already_exists("target snapshot \"remote\""))
            }
            Some("lies") => Err(Error::already_exists("target snapshot \"lies\"")),
            _ if key.ends_with("/odd") => Err(Error::already_exists("odd")),
            _ => self.inner.prepare(key, parent, labels).await,
        }
    }
    async fn view(&self, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>> {
        self.inner.view(key, parent, labels).await
    }
    async fn commit(&self, name: &str, key: &str, labels: Labels, parent: &str) -> Result<()> {
        self.inner.commit(name, key, labels, parent).await
    }
    async fn remove(&self, key: &str) -> Result<()> {
        self.inner.remove(key).await
    }
    async fn list(&self, filters: &[String]) -> Result<Vec<Info>> {
        self.inner.list(filters).await
    }
    async fn cleanup(&self) -> Result<()> {
        self.inner.cleanup().await
    }
}

#[tokio::test]
async fn remote_snapshots_are_adopted() {
    let folder = folder();
    let backend =
        Arc::new(Remote { inner: native(&folder.path().join("native")), asked: Mutex::default() });
    let snapshots =
        NamespacedSnapshots::new(metadata(folder.path()), "remote", Arc::clone(&backend) as _);
    let store = snapshots.scope(scope("one"));
    let target = |name: &str| {
        Labels::from([
            (LABEL_SNAPSHOT_REF.to_owned(), name.to_owned()),
            ("mine".to_owned(), "1".to_owned()),
        ])
    };
    let error = store.prepare("extract-1", "", target("remote")).await.unwrap_err();
    assert_eq!(error.to_string(), "target snapshot \"remote\": already exists");
    assert!(store.stat("extract-1").await.is_err());
    let info = store.stat("remote").await.unwrap();
    assert_eq!(info.kind, store_snapshot::Kind::Committed);
    assert_eq!(info.labels, target("remote"));
    store.prepare("on-top", "remote", Labels::new()).await.unwrap();
    // Recorded now: the backend is not asked again.
    let asked = backend.asked.lock().unwrap().len();
    let error = store.prepare("extract-2", "", target("remote")).await.unwrap_err();
    assert_eq!(error.to_string(), "target snapshot \"remote\": already exists");
    assert_eq!(backend.asked.lock().unwrap().len(), asked);
    snapshots.sweep().await.unwrap();
    assert!(store.stat("remote").await.is_ok());

    let error = store.prepare("extract-3", "", target("lies")).await.unwrap_err();
    assert_eq!(error.to_string(), "target snapshot \"lies\" in backend: not found");
    let error = store.prepare("odd", "", Labels::new()).await.unwrap_err();
    assert_eq!(error.class(), Class::Unknown, "{error}");
    assert!(error.to_string().starts_with("unexpected error from snapshotter: "), "{error}");
}

#[tokio::test]
async fn sweeps_beside_unpacking() {
    let folder = folder();
    let backend = native(&folder.path().join("native"));
    let snapshots =
        NamespacedSnapshots::new(metadata(folder.path()), "native", Arc::clone(&backend));
    let store = snapshots.scope(scope("one"));
    let sweeps = async {
        for _ in 0..30 {
            snapshots.sweep().await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    let work = async {
        let mut parent = String::new();
        for number in 0..30 {
            let key = format!("key-{number}");
            store.prepare(&key, &parent, Labels::new()).await.unwrap();
            assert!(!store.mounts(&key).await.unwrap().is_empty());
            let name = format!("layer-{number}");
            store.commit(&name, &key, Labels::new(), "").await.unwrap();
            store.prepare("gone", &name, Labels::new()).await.unwrap();
            store.remove("gone").await.unwrap();
            parent = name;
        }
    };
    tokio::join!(sweeps, work);
    snapshots.sweep().await.unwrap();
    assert_eq!(backend.list(&[]).await.unwrap().len(), 30);
    assert_eq!(store.list(&[]).await.unwrap().len(), 30);
}
