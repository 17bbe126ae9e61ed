//! Blobs and ingests.

use std::time::SystemTime;

use base_ident::Labels;
use store_metadata::{Committed, Opened};

use super::super::support::*;

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
