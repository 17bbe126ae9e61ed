//! Sandboxes, namespaces, and what all changes have in common.

use base_ident::Labels;
use store_metadata::{Held, Runtime, Sandbox};

use super::super::support::*;

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
