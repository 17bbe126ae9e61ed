//! Snapshots.

use base_ident::Labels;
use store_metadata::{MetadataError, NewCommit, NewSnapshot, Object, Reserved, ReservedCommit};

use super::super::support::*;

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
