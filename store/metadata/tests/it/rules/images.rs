//! Images.

use std::time::{Duration, UNIX_EPOCH};

use store_metadata::ImageChange;

use super::super::support::*;

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
