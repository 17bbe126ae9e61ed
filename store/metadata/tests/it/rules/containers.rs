//! Containers.

use std::time::SystemTime;

use base_errors::Class;
use store_metadata::{Any, Container, Runtime};

use super::super::support::*;

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
