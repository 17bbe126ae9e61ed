//! The bytes on disk, and what becomes of other bytes: older versions, damage.

use std::collections::BTreeMap;
use std::path::Path;

use base_errors::Class;
use base_ident::{Labels, Namespace};
use store_bolt::{Bucket, Db, Entry, Options};
use store_metadata::{Container, NewCommit, Runtime, Sandbox, Scope};

use super::support::*;

/// All values of a file by their paths; buckets end with a slash and give their sequence.
pub(crate) fn contents(path: &Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(bucket: Bucket<'_>, path: &str, out: &mut BTreeMap<String, Vec<u8>>) {
        for entry in bucket.iter() {
            let (key, entry) = entry.unwrap();
            let path = format!("{path}{}", String::from_utf8_lossy(key));
            match entry {
                Entry::Value(value) => {
                    out.insert(path, value.to_vec());
                }
                Entry::Bucket(bucket) => {
                    let path = format!("{path}/");
                    out.insert(path.clone(), bucket.sequence().to_string().into_bytes());
                    walk(bucket, &path, out);
                }
            }
        }
    }
    let db = Db::open(path, Options { read_only: true, ..Options::default() }).unwrap();
    let mut out = BTreeMap::new();
    walk(db.view().unwrap().root(), "", &mut out);
    out
}

/// Closes the database and reads its file.
fn close(db: Fresh) -> (BTreeMap<String, Vec<u8>>, tempfile::TempDir) {
    drop(db.metadata);
    (contents(&db.folder.path().join("meta.db")), db.folder)
}

/// Takes the times out, having looked at their form.
fn without_times(mut contents: BTreeMap<String, Vec<u8>>) -> BTreeMap<String, Vec<u8>> {
    contents.retain(|key, value| {
        let time = ["/createdat", "/updatedat", "/expireat"].iter().any(|name| key.ends_with(name));
        if time {
            assert_eq!((value.len(), value[0], &value[13..]), (15, 1, &[0xff, 0xff][..]), "{key}");
        }
        !time
    });
    contents
}

fn check(contents: BTreeMap<String, Vec<u8>>, wanted: &[(&str, &[u8])]) {
    let found: Vec<(&str, &[u8])> =
        contents.iter().map(|(key, value)| (key.as_str(), value.as_slice())).collect();
    assert_eq!(found, wanted, "{contents:#?}");
}

#[test]
fn a_fresh_file_has_the_version_alone() {
    let (contents, folder) = close(fresh());
    check(contents, &[("v1/", b"0"), ("v1/version", b"\x08")]);
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(folder.path().join("meta.db")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o644);
}

#[test]
fn an_image() {
    let db = fresh();
    db.update(|tx| {
        let mut image = image("x", 1);
        image.labels = labels(&[("l", "1"), ("none", "")]);
        image.target.annotations = labels(&[("a", "2")]);
        Ok(tx.create_image(&scope(), image, None)?)
    });
    check(
        without_times(close(db).0),
        &[
            ("v1/", b"0"),
            ("v1/default/", b"0"),
            ("v1/default/images/", b"0"),
            ("v1/default/images/x/", b"0"),
            ("v1/default/images/x/annotations/", b"0"),
            ("v1/default/images/x/annotations/a", b"2"),
            ("v1/default/images/x/labels/", b"0"),
            ("v1/default/images/x/labels/l", b"1"),
            ("v1/default/images/x/target/", b"0"),
            ("v1/default/images/x/target/digest", digest(1).as_str().as_bytes()),
            ("v1/default/images/x/target/mediatype", b"application/vnd.oci.image.manifest.v1+json"),
            ("v1/default/images/x/target/size", b"\x16"),
            ("v1/version", b"\x08"),
        ],
    );
}

#[test]
fn a_container() {
    let db = fresh();
    db.update(|tx| {
        let container = Container {
            spec: Some(any("t", "s")),
            runtime: Runtime { name: "r".to_owned(), options: Some(any("o", "p")) },
            snapshotter: "overlayfs".to_owned(),
            snapshot_key: "k".to_owned(),
            extensions: [("e".to_owned(), any("x", ""))].into(),
            ..container("c1")
        };
        tx.create_container(&scope(), container)
    });
    check(
        without_times(close(db).0),
        &[
            ("v1/", b"0"),
            ("v1/default/", b"0"),
            ("v1/default/containers/", b"0"),
            ("v1/default/containers/c1/", b"0"),
            ("v1/default/containers/c1/extensions/", b"0"),
            ("v1/default/containers/c1/extensions/e", b"\x0a\x01x"),
            ("v1/default/containers/c1/image", b""),
            ("v1/default/containers/c1/runtime/", b"0"),
            ("v1/default/containers/c1/runtime/name", b"r"),
            ("v1/default/containers/c1/runtime/options", b"\x0a\x01o\x12\x01p"),
            ("v1/default/containers/c1/sandboxid", b""),
            ("v1/default/containers/c1/snapshotKey", b"k"),
            ("v1/default/containers/c1/snapshotter", b"overlayfs"),
            ("v1/default/containers/c1/spec", b"\x0a\x01t\x12\x01s"),
            ("v1/version", b"\x08"),
        ],
    );
}

#[test]
fn content_and_snapshots_and_leases() {
    let db = fresh();
    db.update(|tx| {
        tx.create_lease(&scope(), "l", &labels(&[("k", "v")]))?;
        let leased = scope().with_lease("l");
        blob(tx, &leased, 1, &Labels::new())?;
        tx.open_ingest(&scope(), "open-ref", None, false)?;
        snapshot(tx, &leased, "prep-1", "", &Labels::new())?;
        tx.reserve_commit(&leased, "overlayfs", "layer-1", "prep-1", "", &Labels::new())?;
        let commit = NewCommit {
            name: "layer-1".to_owned(),
            key: "prep-1".to_owned(),
            backend: "default/2/layer-1".to_owned(),
            parent: String::new(),
            labels: Labels::new(),
        };
        tx.record_commit(&leased, "overlayfs", &commit)?;
        snapshot(tx, &scope(), "c1", "layer-1", &Labels::new())
    });
    let blob = format!("v1/default/content/blob/{}/", digest(1));
    let leased = format!("v1/default/leases/l/content/{}", digest(1));
    check(
        without_times(close(db).0),
        &[
            ("v1/", b"0"),
            ("v1/default/", b"0"),
            ("v1/default/content/", b"0"),
            ("v1/default/content/blob/", b"0"),
            (&blob, b"0"),
            (&format!("{blob}size"), b"\x16"),
            ("v1/default/content/ingests/", b"0"),
            ("v1/default/content/ingests/open-ref/", b"1"),
            ("v1/default/content/ingests/open-ref/ref", b"default/1/open-ref"),
            ("v1/default/leases/", b"0"),
            ("v1/default/leases/l/", b"0"),
            ("v1/default/leases/l/content/", b"0"),
            (&leased, b""),
            ("v1/default/leases/l/ingests/", b"0"),
            ("v1/default/leases/l/labels/", b"0"),
            ("v1/default/leases/l/labels/k", b"v"),
            ("v1/default/leases/l/snapshots/", b"0"),
            ("v1/default/leases/l/snapshots/overlayfs/", b"0"),
            ("v1/default/leases/l/snapshots/overlayfs/layer-1", b""),
            ("v1/default/snapshots/", b"0"),
            ("v1/default/snapshots/overlayfs/", b"3"),
            ("v1/default/snapshots/overlayfs/c1/", b"0"),
            ("v1/default/snapshots/overlayfs/c1/name", b"default/3/c1"),
            ("v1/default/snapshots/overlayfs/c1/parent", b"layer-1"),
            ("v1/default/snapshots/overlayfs/layer-1/", b"0"),
            ("v1/default/snapshots/overlayfs/layer-1/children/", b"0"),
            ("v1/default/snapshots/overlayfs/layer-1/children/c1", b""),
            ("v1/default/snapshots/overlayfs/layer-1/name", b"default/2/layer-1"),
            ("v1/version", b"\x08"),
        ],
    );
}

#[test]
fn a_sandbox() {
    let db = fresh();
    db.update(|tx| {
        let sandbox = Sandbox {
            id: "s1".to_owned(),
            runtime: Runtime { name: "r".to_owned(), options: None },
            sandboxer: "shim".to_owned(),
            ..Sandbox::default()
        };
        Ok(tx.create_sandbox(&scope(), sandbox)?)
    });
    check(
        without_times(close(db).0),
        &[
            ("v1/", b"0"),
            ("v1/default/", b"0"),
            ("v1/default/sandboxes/", b"0"),
            ("v1/default/sandboxes/s1/", b"0"),
            ("v1/default/sandboxes/s1/runtime/", b"0"),
            ("v1/default/sandboxes/s1/runtime/name", b"r"),
            ("v1/default/sandboxes/s1/sandboxer", b"shim"),
            ("v1/version", b"\x08"),
        ],
    );
}

/// Writes values into a file as another daemon would have.
pub(crate) fn seed(path: &Path, values: &[(&[&str], &[u8])]) {
    let values: Vec<(Vec<Vec<u8>>, Vec<u8>)> = values
        .iter()
        .map(|(keys, value)| {
            (keys.iter().map(|key| key.as_bytes().to_vec()).collect(), value.to_vec())
        })
        .collect();
    let db = Db::open(path, Options::default()).unwrap();
    db.update(move |tx| -> Result<(), store_bolt::Error> {
        for (path, value) in values {
            let (key, buckets) = path.split_last().unwrap();
            let buckets: Vec<&[u8]> = buckets.iter().map(Vec::as_slice).collect();
            tx.create_bucket_if_missing(&buckets)?.put(key, &value)?;
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn version_0_gets_links_and_ingests() {
    let folder = folder();
    let path = folder.path().join("meta.db");
    seed(
        &path,
        &[
            (&["v1", "default", "snapshots", "overlayfs", "a", "name"], b"default/1/a"),
            (&["v1", "default", "snapshots", "overlayfs", "b", "name"], b"default/2/b"),
            (&["v1", "default", "snapshots", "overlayfs", "b", "parent"], b"a"),
            (&["v1", "default", "snapshots", "overlayfs", "c", "parent"], b"gone"),
            (&["v1", "default", "content", "ingest", "r"], b"default/1/r"),
        ],
    );
    let metadata = open(&path);
    let ingest = metadata.view(|tx| Ok(tx.ingest(&ns(), "r")?)).unwrap();
    assert_eq!(ingest.backend, "default/1/r");
    drop(metadata);
    let after = contents(&path);
    assert_eq!(after["v1/version"], b"\x06");
    assert!(after.contains_key("v1/default/snapshots/overlayfs/a/children/b"));
    assert!(!after.keys().any(|key| key.contains("gone") || key.contains("/ingest/")));
}

fn sandbox(id: &str) -> Sandbox {
    let runtime = Runtime { name: "r".to_owned(), options: None };
    Sandbox { id: id.to_owned(), runtime, ..Sandbox::default() }
}

/// The keys of all sandboxes' runtimes in a file.
fn runtimes(path: &Path) -> Vec<String> {
    contents(path).into_keys().filter(|key| key.ends_with("/runtime/name")).collect()
}

/// In a file of version 3, sandboxes are and come to be where 1.7 looks for them; the version stays.
#[test]
fn version_3_keeps_its_sandboxes_beside_v1() {
    let folder = folder();
    let path = folder.path().join("meta.db");
    seed(
        &path,
        &[
            (&["v1", "version"], b"\x06"),
            (&["default", "sandboxes", "s1", "sandboxer"], b"shim"),
            (&["default", "sandboxes", "s1", "runtime", "name"], b"r"),
            (&["default", "sandboxes", "s1", "labels", "k"], b"v"),
            (&["other", "x", "y"], b"not ours"),
        ],
    );
    let before = contents(&path);
    drop(open(&path));
    assert_eq!(contents(&path), before, "opening writes nothing");
    let metadata = open(&path);
    let seen = metadata.view(|tx| Ok(tx.sandbox(&ns(), "s1")?)).unwrap();
    assert_eq!((seen.runtime.name.as_str(), &seen.labels), ("r", &labels(&[("k", "v")])));
    metadata
        .update_blocking(|tx| {
            assert!(tx.create_sandbox(&scope(), sandbox("s1")).is_err());
            tx.create_sandbox(&scope(), sandbox("s2"))?;
            // A namespace of that name has no place beside.
            tx.create_sandbox(&Scope::new(Namespace::new("v1")?), sandbox("s3"))?;
            let change = Sandbox { labels: labels(&[("k", "w")]), ..sandbox("s1") };
            Ok(tx.update_sandbox(&scope(), &change, &mask(&["labels"]))?)
        })
        .unwrap();
    let ids = |metadata: &store_metadata::Metadata| -> Vec<String> {
        let all = metadata.view(|tx| Ok(tx.sandboxes(&ns(), &filter(&[]))?)).unwrap();
        all.into_iter().map(|sandbox| sandbox.id).collect()
    };
    assert_eq!(ids(&metadata), ["s1", "s2"]);
    drop(metadata);
    let after = contents(&path);
    assert_eq!(after["v1/version"], b"\x06");
    assert_eq!(after["default/sandboxes/s1/labels/k"], b"w");
    assert_eq!(after["other/x/y"], b"not ours");
    assert_eq!(
        runtimes(&path),
        [
            "default/sandboxes/s1/runtime/name",
            "default/sandboxes/s2/runtime/name",
            "v1/v1/sandboxes/s3/runtime/name"
        ]
    );
    let metadata = open(&path);
    metadata.update_blocking(|tx| Ok(tx.delete_sandbox(&scope(), "s1")?)).unwrap();
    let error = metadata.update_blocking(|tx| Ok(tx.delete_sandbox(&scope(), "s1")?)).unwrap_err();
    assert_eq!(error.class(), Class::NotFound);
    assert_eq!(ids(&metadata), ["s2"]);
}

/// 1.7 puts sandboxes beside `v1` in a file of version 4 as well.
#[test]
fn version_4_has_sandboxes_in_both_places() {
    let folder = folder();
    let path = folder.path().join("meta.db");
    seed(
        &path,
        &[
            (&["v1", "version"], b"\x08"),
            (&["v1", "default", "sandboxes", "both", "runtime", "name"], b"new"),
            (&["v1", "default", "sandboxes", "new", "runtime", "name"], b"r"),
            (&["default", "sandboxes", "both", "runtime", "name"], b"old"),
            (&["default", "sandboxes", "old", "runtime", "name"], b"r"),
        ],
    );
    let metadata = open(&path);
    let all = metadata.view(|tx| Ok(tx.sandboxes(&ns(), &filter(&[]))?)).unwrap();
    let seen: Vec<_> = all.iter().map(|one| (one.id.as_str(), one.runtime.name.as_str())).collect();
    assert_eq!(seen, [("both", "new"), ("new", "r"), ("old", "r")]);
    metadata
        .update_blocking(|tx| {
            tx.create_sandbox(&scope(), sandbox("more"))?;
            tx.update_sandbox(&scope(), &sandbox("old"), &[])?;
            Ok(tx.delete_sandbox(&scope(), "both")?)
        })
        .unwrap();
    drop(metadata);
    assert_eq!(
        runtimes(&path),
        [
            "default/sandboxes/old/runtime/name",
            "v1/default/sandboxes/more/runtime/name",
            "v1/default/sandboxes/new/runtime/name"
        ]
    );
}

#[test]
fn a_newer_version_is_accepted_and_kept() {
    let folder = folder();
    let path = folder.path().join("meta.db");
    seed(&path, &[(&["v1", "version"], b"\x0e"), (&["later", "x"], b"y")]);
    drop(open(&path));
    let after = contents(&path);
    assert_eq!(after["v1/version"], b"\x0e");
    assert!(after.contains_key("later/x"));
}

#[test]
fn a_current_file_is_not_written() {
    let db = fresh();
    let path = db.folder.path().join("meta.db");
    drop(db.metadata);
    let before = std::fs::read(&path).unwrap();
    drop(open(&path));
    assert!(before == std::fs::read(&path).unwrap());
}

#[test]
fn a_damaged_record_costs_itself() {
    let folder = folder();
    let path = folder.path().join("meta.db");
    drop(open(&path));
    seed(
        &path,
        &[
            (&["v1", "default", "images", "bad", "createdat"], b"no time"),
            (&["v1", "default", "containers", "bad", "spec"], b"\xff\xff"),
            (&["v1", "default", "leases", "bad", "createdat"], b""),
            (&["v1", "default", "content", "blob", "sha256:x", "size"], b"\x16"),
            (&["v1", "default", "snapshots", "overlayfs", "bad", "labels", "k"], b"\xff"),
        ],
    );
    let metadata = open(&path);
    metadata
        .update_blocking(|tx| {
            tx.create_image(&scope(), image("good", 1), None)?;
            tx.create_container(&scope(), container("good"))?;
            tx.create_lease(&scope(), "good", &Labels::new())?;
            blob(tx, &scope(), 1, &Labels::new())?;
            snapshot(tx, &scope(), "good", "", &Labels::new())
        })
        .unwrap();
    metadata
        .view(|tx| {
            let all = filter(&[]);
            assert_eq!(tx.images(&ns(), &all)?.len(), 1);
            assert_eq!(tx.containers(&ns(), &all)?.len(), 1);
            assert_eq!(tx.leases(&ns(), &all)?.len(), 1);
            assert_eq!(tx.blobs(&ns(), &all)?.len(), 1);
            assert_eq!(tx.snapshots(&ns(), "overlayfs")?.len(), 1);
            let image = base_errors::Error::from(tx.image(&ns(), "bad").unwrap_err());
            assert_eq!(image.class(), Class::DataLoss);
            assert!(image.to_string().contains("images \"bad\""), "{image}");
            let container = base_errors::Error::from(tx.container(&ns(), "bad").unwrap_err());
            assert_eq!(container.class(), Class::DataLoss);
            Ok(())
        })
        .unwrap();
    // It can be removed.
    metadata.update_blocking(|tx| Ok(tx.delete_container(&scope(), "bad")?)).unwrap();
}
