//! One test per rule of the API: names and texts are those that clients see.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base_errors::Class;
use base_ident::Labels;
use store_metadata::{
    Any, Committed, Container, Held, ImageChange, LeaseResource, MetadataError, NewCommit,
    NewSnapshot, Object, Opened, Reserved, ReservedCommit, Runtime, Sandbox,
};

use super::support::*;

#[test]
fn a_container_is_created_and_read_back() {
    let db = fresh();
    let wanted = Container {
        labels: labels(&[("a", "1"), ("gone", "")]),
        image: "docker.io/library/alpine:3.20".to_owned(),
        snapshotter: "overlayfs".to_owned(),
        snapshot_key: "c1".to_owned(),
        sandbox_id: "s1".to_owned(),
        extensions: [("x".to_owned(), any("t", "v"))].into(),
        runtime: Runtime { name: "r".to_owned(), options: Some(any("o", "p")) },
        ..container("c1")
    };
    let before = SystemTime::now();
    let made = db.update(move |tx| tx.create_container(&scope(), wanted));
    assert_eq!(made.labels, labels(&[("a", "1")]), "empty labels are not kept");
    assert!(made.created_at >= before && made.created_at == made.updated_at);
    assert_eq!(db.view(|tx| Ok(tx.container(&ns(), "c1")?)), made);
}

#[test]
fn container_texts() {
    let db = fresh();
    let get = db.metadata.view(|tx| Ok(tx.container(&ns(), "c1")?)).unwrap_err();
    assert_eq!(get.to_string(), r#"container "c1" in namespace "default": not found"#);
    db.update(|tx| tx.create_container(&scope(), container("c1")));
    assert_eq!(
        db.fails(|tx| tx.create_container(&scope(), container("c1"))),
        r#"container "c1": already exists"#
    );
    assert_eq!(
        db.fails(|tx| Ok(tx.delete_container(&scope(), "c2")?)),
        r#"container "c2": not found"#
    );
    assert_eq!(
        db.fails(|tx| tx.update_container(&scope(), &container("c2"), &[])),
        r#"container "c2": not found"#
    );
}

#[test]
fn a_container_is_validated() {
    let db = fresh();
    let cases = [
        (Container { id: "a b".to_owned(), ..container("x") }, "container.ID: "),
        (Container { spec: None, ..container("x") }, "container.Spec must be set"),
        (
            Container { runtime: Runtime::default(), ..container("x") },
            "container.Runtime.Name must be set",
        ),
        (
            Container { snapshot_key: "k".to_owned(), ..container("x") },
            "container.Snapshotter must be set if container.SnapshotKey is set",
        ),
        (
            Container { extensions: [(String::new(), Any::default())].into(), ..container("x") },
            "container.Extension keys must not be zero-length",
        ),
        (
            Container { labels: labels(&[("k", &"v".repeat(4096))]), ..container("x") },
            "containers.Labels: label key and value length",
        ),
    ];
    for (container, text) in cases {
        let error = db
            .metadata
            .update_blocking(move |tx| tx.create_container(&scope(), container))
            .unwrap_err();
        assert_eq!(error.class(), Class::InvalidArgument);
        let shown = error.to_string();
        assert!(shown.starts_with("create container failed validation: "), "{shown}");
        assert!(shown.contains(text), "{shown}");
    }
    assert_eq!(db.view(|tx| Ok(tx.containers(&ns(), &filter(&[]))?)), []);
}

#[test]
fn a_container_update_without_mask_replaces_what_may_change() {
    let db = fresh();
    db.update(|tx| tx.create_container(&scope(), container("c1")));
    let change = Container {
        labels: labels(&[("new", "1")]),
        image: "i".to_owned(),
        extensions: [("x".to_owned(), any("t", "v"))].into(),
        spec: Some(any("t", "spec")),
        ..container("c1")
    };
    let made = db.update(move |tx| tx.update_container(&scope(), &change, &[]));
    assert_eq!(made.labels, labels(&[("new", "1")]));
    assert_eq!(made.image, "i");
    assert_eq!(made.spec, Some(any("t", "spec")));
    assert!(made.updated_at > made.created_at);
    assert_eq!(db.view(|tx| Ok(tx.container(&ns(), "c1")?)), made);
}

#[test]
fn a_container_update_without_mask_refuses_immutable_fields() {
    let db = fresh();
    db.update(|tx| tx.create_container(&scope(), container("c1")));
    let other = Container { snapshotter: "native".to_owned(), ..container("c1") };
    assert_eq!(
        db.fails(move |tx| tx.update_container(&scope(), &other, &[])),
        "container.Snapshotter field is immutable: invalid argument"
    );
    let runtime = Runtime { name: "other".to_owned(), options: None };
    let other = Container { runtime, ..container("c1") };
    assert_eq!(
        db.fails(move |tx| tx.update_container(&scope(), &other, &[])),
        "container.Runtime.Name field is immutable: invalid argument"
    );
}

#[test]
fn a_container_update_with_mask_changes_those_fields_alone() {
    let db = fresh();
    db.update(|tx| {
        let labels = labels(&[("keep", "1"), ("drop", "1")]);
        tx.create_container(&scope(), Container { labels, ..container("c1") })
    });
    let change = Container {
        labels: labels(&[("a.b", "2"), ("drop", "")]),
        image: "ignored".to_owned(),
        ..container("c1")
    };
    let paths = mask(&["labels.a.b", "labels.drop", "extensions.none"]);
    let made = db.update(move |tx| tx.update_container(&scope(), &change, &paths));
    assert_eq!(made.labels, labels(&[("keep", "1"), ("a.b", "2")]));
    assert_eq!(made.image, "");
    assert_eq!(made.extensions, [("none".to_owned(), Any::default())].into());
    for path in ["id", "runtime", "snapshot_key", "snapshotter", "created_at"] {
        let paths = mask(&[path]);
        assert_eq!(
            db.fails(move |tx| tx.update_container(&scope(), &container("c1"), &paths)),
            format!("cannot update {path:?} field on \"c1\": invalid argument")
        );
    }
}

#[test]
fn extensions_are_merged() {
    let db = fresh();
    db.update(|tx| {
        let extensions = [("a".to_owned(), any("t", "1")), ("b".to_owned(), any("t", "1"))].into();
        tx.create_container(&scope(), Container { extensions, ..container("c1") })
    });
    db.update(|tx| {
        let extensions = [("b".to_owned(), any("t", "2"))].into();
        let change = Container { extensions, ..container("c1") };
        tx.update_container(&scope(), &change, &mask(&["extensions"]))
    });
    let read = db.view(|tx| Ok(tx.container(&ns(), "c1")?));
    let wanted = [("a".to_owned(), any("t", "1")), ("b".to_owned(), any("t", "2"))].into();
    assert_eq!(read.extensions, wanted);
}

#[test]
fn containers_are_filtered() {
    let db = fresh();
    db.update(|tx| {
        let labels = labels(&[("a.b", "1")]);
        tx.create_container(&scope(), Container { labels, ..container("c1") })?;
        let image = "i".to_owned();
        tx.create_container(&scope(), Container { image, ..container("c2") })
    });
    let ids = |filters: &[&str]| -> Vec<String> {
        let found = db.view(|tx| Ok(tx.containers(&ns(), &filter(filters))?));
        found.into_iter().map(|container| container.id).collect()
    };
    assert_eq!(ids(&[]), ["c1", "c2"]);
    assert_eq!(ids(&["labels.a.b==1"]), ["c1"]);
    assert_eq!(ids(&["labels.\"a.b\"==1"]), ["c1"]);
    assert_eq!(ids(&["id~=c[12],image"]), ["c2"]);
    assert_eq!(ids(&["runtime.name==io.containerd.runc.v2"]), ["c1", "c2"]);
    assert_eq!(ids(&["snapshotter"]), Vec::<String>::new());
}

#[test]
fn an_image_is_created_and_read_back() {
    let db = fresh();
    let mut wanted = image("x", 1);
    wanted.target.annotations = labels(&[("k", "v")]);
    let made = db.update(move |tx| Ok(tx.create_image(&scope(), wanted, None)?));
    assert_eq!(db.view(|tx| Ok(tx.image(&ns(), "x")?)), made);
    let epoch = UNIX_EPOCH + Duration::from_secs(42);
    let made = db.update(move |tx| Ok(tx.create_image(&scope(), image("y", 1), Some(epoch))?));
    assert_eq!((made.created_at, made.updated_at), (epoch, epoch));
}

#[test]
fn image_texts() {
    let db = fresh();
    db.update(|tx| Ok(tx.create_image(&scope(), image("x", 1), None)?));
    let texts = [
        (
            db.fails(|tx| Ok(tx.create_image(&scope(), image("x", 1), None)?)),
            r#"image "x": already exists"#,
        ),
        (db.fails(|tx| Ok(tx.delete_image(&scope(), "y", None)?)), r#"image "y": not found"#),
        (
            db.fails(|tx| {
                let change = ImageChange { name: "y".to_owned(), ..ImageChange::default() };
                Ok(tx.update_image(&scope(), &change, &[], None)?)
            }),
            r#"image "y": not found"#,
        ),
        (
            db.fails(|tx| Ok(tx.create_image(&scope(), image("", 1), None)?)),
            "image name must not be empty: invalid argument",
        ),
        (
            db.fails(|tx| {
                let mut image = image("z", 1);
                image.target.size = 0;
                Ok(tx.create_image(&scope(), image, None)?)
            }),
            "Target.Size must be greater than zero: invalid argument",
        ),
        (
            db.fails(|tx| {
                let mut image = image("z", 1);
                image.target.media_type.clear();
                Ok(tx.create_image(&scope(), image, None)?)
            }),
            "Target.MediaType must be set: invalid argument",
        ),
        (
            db.fails(|tx| {
                let change = ImageChange { name: "x".to_owned(), ..ImageChange::default() };
                Ok(tx.update_image(&scope(), &change, &mask(&["name"]), None)?)
            }),
            r#"cannot update "name" field on image "x": invalid argument"#,
        ),
    ];
    for (shown, wanted) in texts {
        assert_eq!(shown, wanted);
    }
}

#[test]
fn an_image_update_keeps_the_time_of_creation() {
    let db = fresh();
    let made = db.update(|tx| Ok(tx.create_image(&scope(), image("x", 1), None)?));
    let change = ImageChange {
        name: "x".to_owned(),
        labels: labels(&[("l", "1")]),
        target: Some(image("x", 2).target),
        ..ImageChange::default()
    };
    let new = db.update(move |tx| Ok(tx.update_image(&scope(), &change, &[], None)?));
    assert_eq!(new.created_at, made.created_at);
    assert!(new.updated_at > made.updated_at);
    assert_eq!(new.target.digest, digest(2));
    assert_eq!(new.labels, labels(&[("l", "1")]));
}

#[test]
fn an_image_update_with_mask_needs_no_target() {
    let db = fresh();
    db.update(|tx| Ok(tx.create_image(&scope(), image("x", 1), None)?));
    let change = ImageChange {
        name: "x".to_owned(),
        labels: labels(&[("l.m", "1")]),
        annotations: labels(&[("a.b", "2")]),
        ..ImageChange::default()
    };
    let paths = mask(&["labels.l.m", "annotations.a.b"]);
    let new = db.update(move |tx| Ok(tx.update_image(&scope(), &change, &paths, None)?));
    assert_eq!(new.labels, labels(&[("l.m", "1")]));
    assert_eq!(new.target.annotations, labels(&[("a.b", "2")]));
    assert_eq!(new.target.digest, digest(1));
    assert_eq!(db.view(|tx| Ok(tx.image(&ns(), "x")?)), new);
    let change = ImageChange { name: "x".to_owned(), ..ImageChange::default() };
    assert_eq!(
        db.fails(move |tx| Ok(tx.update_image(&scope(), &change, &mask(&["target"]), None)?)),
        "Target.Digest \"\" invalid: invalid checksum digest format: invalid argument"
    );
}

#[test]
fn an_image_is_deleted_only_with_its_target() {
    let db = fresh();
    db.update(|tx| Ok(tx.create_image(&scope(), image("x", 1), None)?));
    let text = db.fails(|tx| Ok(tx.delete_image(&scope(), "x", Some(&digest(2)))?));
    assert_eq!(text, format!("image \"x\" has target {}, not {}: not found", digest(1), digest(2)));
    db.update(|tx| Ok(tx.delete_image(&scope(), "x", Some(&digest(1)))?));
}

#[test]
fn images_are_filtered() {
    let db = fresh();
    db.update(|tx| {
        let mut first = image("a", 1);
        first.target.annotations = labels(&[("k", "v")]);
        tx.create_image(&scope(), first, None)?;
        Ok(tx.create_image(&scope(), image("b", 2), None)?)
    });
    let names = |filters: &[&str]| -> Vec<String> {
        let found = db.view(|tx| Ok(tx.images(&ns(), &filter(filters))?));
        found.into_iter().map(|image| image.name).collect()
    };
    assert_eq!(names(&["name==a", "name==b"]), ["a", "b"]);
    assert_eq!(names(&[&format!("target.digest=={}", digest(2))]), ["b"]);
    assert_eq!(names(&["annotations.k==v"]), ["a"]);
    assert_eq!(names(&["target.mediatype~=manifest"]), ["a", "b"]);
}

#[test]
fn a_blob_has_the_rules_of_labels() {
    let db = fresh();
    db.update(|tx| blob(tx, &scope(), 1, &labels(&[("a", "1"), ("b", "1")])));
    let new = db.update(|tx| {
        let change = labels(&[("a", ""), ("c", "2")]);
        Ok(tx.update_blob(&scope(), &digest(1), &change, &mask(&["labels.a", "labels.c"]))?)
    });
    assert_eq!(new.labels, labels(&[("b", "1"), ("c", "2")]));
    let new =
        db.update(|tx| Ok(tx.update_blob(&scope(), &digest(1), &labels(&[("z", "1")]), &[])?));
    assert_eq!(new.labels, labels(&[("z", "1")]));
    assert_eq!(
        db.fails(|tx| {
            Ok(tx.update_blob(&scope(), &digest(1), &Labels::new(), &mask(&["size"]))?)
        }),
        format!("cannot update \"size\" field on content info \"{}\": invalid argument", digest(1))
    );
    assert_eq!(
        db.fails(|tx| Ok(tx.delete_blob(&scope(), &digest(2))?)),
        format!("content digest {}: not found", digest(2))
    );
    let found = db.view(|tx| Ok(tx.blobs(&ns(), &filter(&["size==11,labels.z"]))?));
    assert_eq!(found, [new]);
}

#[test]
fn an_ingest_becomes_a_blob() {
    let db = fresh();
    let opened = db.update(|tx| Ok(tx.open_ingest(&scope(), "r", None, false)?));
    let ingest = opened.into_result().unwrap();
    assert_eq!(ingest.backend, "default/1/r");
    assert!(ingest.expire_at.is_some_and(|at| at > SystemTime::now()));
    assert_eq!(ingest.expected, None);
    let refs = db.metadata.all_backend_ingest_refs().unwrap();
    assert!(refs.contains("default/1/r"));
    let again = db.update(|tx| Ok(tx.open_ingest(&scope(), "r", None, false)?));
    assert_eq!(again.into_result().unwrap().backend, "default/1/r");
    let commit = |labels| {
        move |tx: &mut store_metadata::Update<'_, '_>| {
            Ok(tx.commit_ingest(&scope(), "r", &digest(1), 5, labels)?)
        }
    };
    let blob = db.update(commit(labels(&[("k", "v")]))).into_result().unwrap();
    assert_eq!((blob.size, &blob.labels), (5, &labels(&[("k", "v")])));
    assert_eq!(db.view(|tx| Ok(tx.blob(&ns(), &digest(1))?)), blob);
    assert_eq!(db.view(|tx| Ok(tx.ingests(&ns())?)), []);
    let error = db.metadata.view(|tx| Ok(tx.ingest(&ns(), "r")?)).unwrap_err();
    assert_eq!(error.to_string(), "reference r: not found");
    assert_eq!(db.update(commit(Labels::new())), Committed::Exists(digest(1)));
    assert_eq!(
        db.update(|tx| Ok(tx.open_ingest(&scope(), "s", Some(&digest(1)), false)?)),
        Opened::Exists(digest(1))
    );
}

#[test]
fn a_shared_ingest_keeps_the_content_of_the_backend() {
    let db = fresh();
    let opened = db.update(|tx| Ok(tx.open_ingest(&scope(), "r", Some(&digest(3)), true)?));
    assert_eq!(opened.into_result().unwrap().expected, Some(digest(3)));
    assert!(db.metadata.all_blob_digests().unwrap().contains(digest(3).as_str()));
    let aborted = db.update(|tx| Ok(tx.abort_ingest(&scope(), "r")?));
    assert_eq!(aborted.expected, Some(digest(3)));
    assert_eq!(db.fails(|tx| Ok(tx.abort_ingest(&scope(), "r")?)), "reference r: not found");
}

#[test]
fn content_is_shareable_by_the_label_of_a_namespace() {
    let db = fresh();
    db.update(|tx| blob(tx, &scope(), 1, &Labels::new()));
    assert!(!db.view(|tx| Ok(tx.is_shareable(&digest(1))?)));
    db.update(|tx| {
        let labels = labels(&[("containerd.io/namespace.shareable", "true")]);
        Ok(tx.update_namespace(&ns(), &labels, &[])?)
    });
    assert!(db.view(|tx| Ok(tx.is_shareable(&digest(1))?)));
    assert!(!db.view(|tx| Ok(tx.is_shareable(&digest(2))?)));
}

#[test]
fn a_snapshot_is_prepared_and_committed() {
    let db = fresh();
    let active = db.update(|tx| snapshot(tx, &scope(), "prep-1", "", &Labels::new()));
    assert_eq!(active, "default/1/prep-1");
    let reserved = db.update(|tx| {
        Ok(tx.reserve_commit(&scope(), "overlayfs", "layer-1", "prep-1", "", &Labels::new())?)
    });
    assert_eq!(
        reserved,
        ReservedCommit::New { backend: active, name: "default/2/layer-1".to_owned(), rebase: None }
    );
    let commit = NewCommit {
        name: "layer-1".to_owned(),
        key: "prep-1".to_owned(),
        backend: "default/2/layer-1".to_owned(),
        parent: String::new(),
        labels: labels(&[("k", "v")]),
    };
    db.update(move |tx| Ok(tx.record_commit(&scope(), "overlayfs", &commit)?));
    let all = db.view(|tx| Ok(tx.snapshots(&ns(), "overlayfs")?));
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].key, "layer-1");
    assert_eq!(all[0].labels, labels(&[("k", "v")]));
    let rootfs = db.update(|tx| snapshot(tx, &scope(), "c1", "layer-1", &Labels::new()));
    assert_eq!(rootfs, "default/3/c1");
    assert_eq!(
        db.metadata
            .all_backend_snapshot_names("overlayfs")
            .unwrap()
            .into_iter()
            .collect::<Vec<_>>(),
        ["default/2/layer-1", "default/3/c1"]
    );
}

#[test]
fn a_parentless_snapshot_is_committed_onto_a_parent() {
    let db = fresh();
    db.update(|tx| {
        snapshot(tx, &scope(), "base", "", &Labels::new())?;
        snapshot(tx, &scope(), "loose", "", &Labels::new())
    });
    let reserved = db.update(|tx| {
        Ok(tx.reserve_commit(&scope(), "overlayfs", "top", "loose", "base", &Labels::new())?)
    });
    let ReservedCommit::New { name, rebase, .. } = reserved else { panic!("exists") };
    assert_eq!(rebase.as_deref(), Some("default/1/base"));
    db.update(move |tx| {
        let commit = NewCommit {
            name: "top".to_owned(),
            key: "loose".to_owned(),
            backend: name,
            parent: "base".to_owned(),
            labels: Labels::new(),
        };
        Ok(tx.record_commit(&scope(), "overlayfs", &commit)?)
    });
    assert_eq!(db.view(|tx| Ok(tx.snapshot(&ns(), "overlayfs", "top")?)).parent, "base");
    assert_eq!(
        db.fails(|tx| Ok(tx.remove_snapshot(&scope(), "overlayfs", "base")?)),
        "cannot remove snapshot with child: failed precondition"
    );
}

#[test]
fn snapshot_texts() {
    let db = fresh();
    db.update(|tx| snapshot(tx, &scope(), "a", "", &Labels::new()));
    assert_eq!(
        db.fails(|tx| Ok(tx.remove_snapshot(&scope(), "overlayfs", "x")?)),
        "snapshot x does not exist: not found"
    );
    assert_eq!(
        db.fails(|tx| snapshot(tx, &scope(), "b", "x", &Labels::new())),
        "parent snapshot x does not exist: not found"
    );
    let none = Labels::new();
    assert_eq!(
        db.update(move |tx| {
            Ok(tx.reserve_snapshot(&scope(), "overlayfs", "a", "", None, &none)?)
        }),
        Reserved::Exists(Object::Snapshot("a".to_owned()))
    );
    let none = Labels::new();
    assert_eq!(
        db.update(move |tx| {
            Ok(tx.reserve_snapshot(&scope(), "overlayfs", "z", "", Some("a"), &none)?)
        }),
        Reserved::Exists(Object::TargetSnapshot("a".to_owned()))
    );
    let text = |object| base_errors::Error::from(MetadataError::AlreadyExists(object)).to_string();
    assert_eq!(text(Object::Snapshot("a".to_owned())), r#"snapshot "a": already exists"#);
    assert_eq!(
        text(Object::TargetSnapshot("a".to_owned())),
        r#"target snapshot "a": already exists"#
    );
    assert_eq!(
        db.fails(|tx| { Ok(tx.reserve_commit(&scope(), "native", "n", "k", "", &Labels::new())?) }),
        r#"can not find snapshotter "native": not found"#
    );
    assert_eq!(
        db.fails(|tx| {
            let change = Labels::new();
            Ok(tx.update_snapshot(&scope(), "overlayfs", "a", &change, &mask(&["parent"]))?)
        }),
        r#"cannot update "parent" field on snapshot "a": invalid argument"#
    );
    assert_eq!(
        db.fails(|tx| {
            let new = NewSnapshot {
                key: "b".to_owned(),
                backend: "default/9/b".to_owned(),
                parent: "a".to_owned(),
                backend_parent: "default/7/other".to_owned(),
                labels: Labels::new(),
                times: None,
            };
            Ok(tx.record_snapshot(&scope(), "overlayfs", &new)?)
        }),
        "mismatched parent a from target b: invalid argument"
    );
}

#[test]
fn a_snapshot_with_children_stays() {
    let db = fresh();
    db.update(|tx| {
        snapshot(tx, &scope(), "a", "", &Labels::new())?;
        snapshot(tx, &scope(), "b", "a", &Labels::new())
    });
    assert_eq!(
        db.fails(|tx| Ok(tx.remove_snapshot(&scope(), "overlayfs", "a")?)),
        "cannot remove snapshot with child: failed precondition"
    );
    db.update(|tx| Ok(tx.remove_snapshot(&scope(), "overlayfs", "b")?));
    let removed = db.update(|tx| Ok(tx.remove_snapshot(&scope(), "overlayfs", "a")?));
    assert_eq!(removed.backend, "default/1/a");
}

#[test]
fn sequences_never_regress() {
    let db = fresh();
    db.update(|tx| {
        snapshot(tx, &scope(), "a", "", &Labels::new())?;
        Ok(tx.remove_snapshot(&scope(), "overlayfs", "a")?)
    });
    let again = db.update(|tx| snapshot(tx, &scope(), "a", "", &Labels::new()));
    assert_eq!(again, "default/2/a");
    let path = db.folder.path().join("meta.db");
    drop(db.metadata);
    let metadata = open(&path);
    let again = metadata.update_blocking(|tx| snapshot(tx, &scope(), "b", "", &Labels::new()));
    assert_eq!(again.unwrap(), "default/3/b");
}

#[test]
fn lease_texts() {
    let db = fresh();
    let none = Labels::new();
    let error = db
        .metadata
        .update_blocking(move |tx| Ok(tx.create_lease(&scope(), "", &none)?))
        .unwrap_err();
    assert_eq!(error.to_string(), "lease id must be provided");
    assert_eq!(error.class(), Class::Unknown);
    let id = "moby-image-sha256:0000000000000000000000000000000000000000000000000000000000000000";
    db.update(move |tx| Ok(tx.create_lease(&scope(), id, &labels(&[("k", "v")]))?));
    assert_eq!(
        db.fails(move |tx| Ok(tx.create_lease(&scope(), id, &Labels::new())?)),
        format!("lease {id:?}: already exists")
    );
    assert_eq!(db.fails(|tx| Ok(tx.delete_lease(&scope(), "x")?)), r#"lease "x": not found"#);
    let found = db.view(|tx| Ok(tx.leases(&ns(), &filter(&["labels.k==v"]))?));
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].id, id);
    db.update(move |tx| Ok(tx.delete_lease(&scope(), id)?));
    let error = db.metadata.view(|tx| Ok(tx.lease_resources(&ns(), id)?)).unwrap_err();
    assert_eq!(error.class(), Class::NotFound);
}

#[test]
fn lease_resources_have_types() {
    let db = fresh();
    db.update(|tx| Ok(tx.create_lease(&scope(), "l", &Labels::new())?));
    let resource =
        |kind: &str, id: &str| LeaseResource { id: id.to_owned(), kind: kind.to_owned() };
    let good = [
        resource("content", digest(1).as_str()),
        resource("images", "i"),
        resource("ingests", "r"),
        resource("snapshots/overlayfs", "s"),
    ];
    let all = good.clone();
    db.update(move |tx| {
        for resource in &all {
            tx.add_lease_resource(&scope(), "l", resource)?;
        }
        Ok(())
    });
    assert_eq!(db.view(|tx| Ok(tx.lease_resources(&ns(), "l")?)), good);
    let bad = [
        (resource("content", "x"), Class::InvalidArgument),
        (resource("content/x", "x"), Class::InvalidArgument),
        (resource("snapshots", "x"), Class::InvalidArgument),
        (resource("snapshots/a/b", "x"), Class::InvalidArgument),
        (resource("tasks", "x"), Class::NotImplemented),
    ];
    for (resource, class) in bad {
        let shown = format!("{resource:?}");
        let error = db
            .metadata
            .update_blocking(move |tx| Ok(tx.add_lease_resource(&scope(), "l", &resource)?))
            .unwrap_err();
        assert_eq!(error.class(), class, "{shown}: {error}");
    }
    db.update(move |tx| {
        for resource in &good {
            tx.delete_lease_resource(&scope(), "l", resource)?;
        }
        Ok(())
    });
    assert_eq!(db.view(|tx| Ok(tx.lease_resources(&ns(), "l")?)), []);
}

#[test]
fn what_is_created_under_a_lease_is_in_it() {
    let db = fresh();
    db.update(|tx| Ok(tx.create_lease(&scope(), "l", &Labels::new())?));
    let leased = || scope().with_lease("l");
    db.update(move |tx| {
        blob(tx, &leased(), 1, &Labels::new())?;
        tx.open_ingest(&leased(), "open", None, false)?;
        snapshot(tx, &leased(), "s", "", &Labels::new())?;
        tx.create_image(&leased(), image("forever", 1), None)?;
        let mut expires = image("expires", 1);
        expires.labels = labels(&[("containerd.io/gc.expire", "2000-01-01T00:00:00Z")]);
        Ok(tx.create_image(&leased(), expires, None)?)
    });
    let kinds: Vec<String> = db
        .view(|tx| Ok(tx.lease_resources(&ns(), "l")?))
        .into_iter()
        .map(|resource| format!("{} {}", resource.kind, resource.id))
        .collect();
    let content = format!("content {}", digest(1));
    assert_eq!(
        kinds,
        [content.as_str(), "images expires", "ingests open", "snapshots/overlayfs s"]
    );
    assert_eq!(db.view(|tx| Ok(tx.ingest(&ns(), "open")?)).expire_at, None);
}

#[test]
fn an_unknown_lease_is_not_found_and_leaves_nothing() {
    let db = fresh();
    let leased = || scope().with_lease("none");
    let text = "lease does not exist: not found";
    assert_eq!(db.fails(move |tx| blob(tx, &leased(), 1, &Labels::new())), text);
    assert_eq!(db.fails(move |tx| snapshot(tx, &leased(), "s", "", &Labels::new())), text);
    assert_eq!(db.fails(move |tx| Ok(tx.open_ingest(&leased(), "r", None, false)?)), text);
    assert_eq!(db.view(|tx| Ok(tx.namespaces()?)), []);
}

#[test]
fn what_exists_already_joins_the_lease() {
    let db = fresh();
    db.update(|tx| {
        blob(tx, &scope(), 1, &Labels::new())?;
        snapshot(tx, &scope(), "s", "", &Labels::new())?;
        Ok(tx.create_lease(&scope(), "l", &Labels::new())?)
    });
    let leased = || scope().with_lease("l");
    db.update(move |tx| Ok(tx.open_ingest(&leased(), "r", Some(&digest(1)), false)?));
    db.update(move |tx| {
        Ok(tx.reserve_snapshot(&leased(), "overlayfs", "s", "", None, &Labels::new())?)
    });
    assert_eq!(db.view(|tx| Ok(tx.lease_resources(&ns(), "l")?)).len(), 2);
}

fn sandbox(id: &str) -> Sandbox {
    Sandbox {
        id: id.to_owned(),
        runtime: Runtime { name: "r".to_owned(), options: None },
        sandboxer: "podsandbox".to_owned(),
        ..Sandbox::default()
    }
}

#[test]
fn a_sandbox_has_its_rules() {
    let db = fresh();
    let made = db.update(|tx| {
        let extensions = [("metadata".to_owned(), any("t", "v"))].into();
        Ok(tx.create_sandbox(&scope(), Sandbox { extensions, ..sandbox("s1") })?)
    });
    assert_eq!(db.view(|tx| Ok(tx.sandbox(&ns(), "s1")?)), made);
    assert_eq!(
        db.fails(|tx| Ok(tx.create_sandbox(&scope(), sandbox("s1"))?)),
        r#"sandbox "s1": already exists"#
    );
    assert_eq!(db.fails(|tx| Ok(tx.delete_sandbox(&scope(), "s2")?)), r#"sandbox "s2": not found"#);
    let runtime = Runtime { name: "other".to_owned(), options: None };
    let other = Sandbox { runtime, ..sandbox("s1") };
    assert_eq!(
        db.fails(move |tx| Ok(tx.update_sandbox(&scope(), &other, &[])?)),
        "sandbox.Runtime.Name field is immutable: invalid argument"
    );
    assert_eq!(
        db.fails(|tx| { Ok(tx.update_sandbox(&scope(), &sandbox("s1"), &mask(&["sandboxer"]))?) }),
        r#"cannot update "sandboxer" field on sandbox "s1": invalid argument"#
    );
    let new = db.update(|tx| {
        let extensions = [("more".to_owned(), any("t", "w"))].into();
        let change = Sandbox { extensions, labels: labels(&[("k", "v")]), ..sandbox("s1") };
        Ok(tx.update_sandbox(&scope(), &change, &[])?)
    });
    assert_eq!(new.extensions.len(), 2);
    assert_eq!(db.view(|tx| Ok(tx.sandboxes(&ns(), &filter(&["labels.k==v"]))?)), [new]);
    db.update(|tx| Ok(tx.delete_sandbox(&scope(), "s1")?));
    assert_eq!(db.view(|tx| Ok(tx.sandboxes(&ns(), &filter(&[]))?)), []);
}

#[test]
fn a_namespace_has_its_rules() {
    let db = fresh();
    db.update(|tx| Ok(tx.create_namespace(&ns(), &labels(&[("a", "1"), ("b", "1")]))?));
    assert_eq!(
        db.fails(|tx| Ok(tx.create_namespace(&ns(), &Labels::new())?)),
        r#"namespace "default": already exists"#
    );
    let new = db.update(|tx| {
        let change = labels(&[("a", ""), ("c.d", "2")]);
        Ok(tx.update_namespace(&ns(), &change, &mask(&["labels.a", "labels.c.d"]))?)
    });
    assert_eq!(new.labels, labels(&[("b", "1"), ("c.d", "2")]));
    assert_eq!(db.view(|tx| Ok(tx.namespace(&ns())?)), new);
    assert_eq!(
        db.fails(|tx| Ok(tx.update_namespace(&ns(), &Labels::new(), &mask(&["name"]))?)),
        r#"cannot update "name" field: invalid argument"#
    );
    db.update(|tx| Ok(tx.delete_namespace(&ns())?));
    assert_eq!(db.fails(|tx| Ok(tx.delete_namespace(&ns())?)), r#"namespace "default": not found"#);
    let error = db.metadata.view(|tx| Ok(tx.namespace(&ns())?)).unwrap_err();
    assert_eq!(error.to_string(), r#"namespace "default": not found"#);
    assert_eq!(db.view(|tx| Ok(tx.namespace_labels(&ns())?)), Labels::new());
}

#[test]
fn a_namespace_with_objects_stays() {
    let db = fresh();
    db.update(|tx| {
        tx.create_image(&scope(), image("i", 1), None)?;
        blob(tx, &scope(), 1, &Labels::new())?;
        tx.create_container(&scope(), container("c"))?;
        snapshot(tx, &scope(), "s", "", &Labels::new())
    });
    assert_eq!(
        db.fails(|tx| Ok(tx.delete_namespace(&ns())?)),
        "namespace \"default\" must be empty, but it still has images, blobs, containers, \
         snapshots on \"overlayfs\" snapshotter: failed precondition"
    );
    db.update(|tx| {
        tx.delete_image(&scope(), "i", None)?;
        tx.delete_blob(&scope(), &digest(1))?;
        tx.delete_container(&scope(), "c")?;
        tx.remove_snapshot(&scope(), "overlayfs", "s")?;
        Ok(tx.delete_namespace(&ns())?)
    });
    assert_eq!(db.view(|tx| Ok(tx.namespaces()?)), []);
}

#[test]
fn a_failed_update_leaves_nothing() {
    let db = fresh();
    db.fails(|tx| {
        tx.create_image(&scope(), image("a", 1), None)?;
        Ok(tx.delete_image(&scope(), "b", None)?)
    });
    assert_eq!(db.view(|tx| Ok(tx.namespaces()?)), []);
}

#[test]
fn hooks_hear_of_commits_and_deletions() {
    let db = fresh();
    let heard = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let hook = heard.clone();
    db.metadata.on_mutation(move |deleted| hook.lock().unwrap().push(deleted));
    db.update(|tx| Ok(tx.create_image(&scope(), image("a", 1), None)?));
    db.fails(|tx| Ok(tx.delete_image(&scope(), "b", None)?));
    db.update(|tx| Ok(tx.delete_image(&scope(), "a", None)?));
    db.update(|tx| Ok(tx.create_image(&scope(), image("b", 1), None)?));
    assert_eq!(*heard.lock().unwrap(), [false, true, true]);
}

#[test]
fn a_hold_is_seen_by_sweeps_until_it_is_dropped() {
    let db = fresh();
    let held = Held::Snapshot("overlayfs".to_owned(), "default/1/x".to_owned());
    let first = db.metadata.hold(held.clone());
    let second = db.metadata.hold(held);
    let names = || db.metadata.all_backend_snapshot_names("overlayfs").unwrap().len();
    assert_eq!(names(), 1);
    drop(first);
    assert_eq!(names(), 1);
    assert!(db.metadata.all_backend_snapshot_names("native").unwrap().is_empty());
    drop(second);
    assert_eq!(names(), 0);
}
