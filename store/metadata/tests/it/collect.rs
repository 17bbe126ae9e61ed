//! The collector, one test per rule.

use std::time::{Duration, SystemTime};

use base_ident::Labels;
use base_ident::timestamp;
use store_metadata::{Collection, Container, LeaseResource, Resource};

use super::support::*;

fn run(db: &Fresh) -> Collection {
    run_at(db, SystemTime::now())
}

fn run_at(db: &Fresh, now: SystemTime) -> Collection {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(db.metadata.collect_at(now))
        .unwrap()
}

/// What a collection removed, without the namespace.
fn removed(db: &Fresh) -> Vec<Resource> {
    let mut removed: Vec<_> = run(db).removed.into_iter().map(|removed| removed.resource).collect();
    removed.sort();
    removed
}

fn b(number: usize) -> Resource {
    Resource::Blob(digest(number).to_string())
}

fn s(key: &str) -> Resource {
    Resource::Snapshot { snapshotter: "overlayfs".to_owned(), key: key.to_owned() }
}

#[test]
fn nothing_to_do_writes_nothing() {
    let db = fresh();
    assert_eq!(removed(&db), []);
    db.update(|tx| Ok(tx.create_image(&scope(), image("i", 1), None)?));
    assert_eq!(removed(&db), []);
}

#[test]
fn unreferenced_content_and_snapshots_go() {
    let db = fresh();
    db.update(|tx| {
        blob(tx, &scope(), 1, &Labels::new())?;
        snapshot(tx, &scope(), "a", "", &Labels::new())?;
        snapshot(tx, &scope(), "b", "a", &Labels::new())
    });
    let outcome = run(&db);
    assert!(outcome.sweep_content);
    assert_eq!(outcome.sweep_snapshotters, ["overlayfs".to_owned()].into());
    assert_eq!(outcome.removed.len(), 3);
    let again = run(&db);
    assert_eq!((again.removed.len(), again.sweep_content), (0, false));
    assert!(db.metadata.all_blob_digests().unwrap().is_empty());
}

#[test]
fn an_image_keeps_what_its_content_refers_to() {
    let db = fresh();
    db.update(|tx| {
        tx.create_image(&scope(), image("i", 1), None)?;
        let manifest = labels(&[
            ("containerd.io/gc.ref.content.config", digest(2).as_str()),
            ("containerd.io/gc.ref.content.l.0", digest(3).as_str()),
            ("containerd.io/gc.ref.content/x", digest(4).as_str()),
            ("containerd.io/gc.ref.contents", digest(5).as_str()),
        ]);
        blob(tx, &scope(), 1, &manifest)?;
        let config = labels(&[("containerd.io/gc.ref.snapshot.overlayfs", "top")]);
        blob(tx, &scope(), 2, &config)?;
        for number in 3..=6 {
            blob(tx, &scope(), number, &Labels::new())?;
        }
        snapshot(tx, &scope(), "base", "", &Labels::new())?;
        snapshot(tx, &scope(), "top", "base", &Labels::new())?;
        snapshot(tx, &scope(), "other", "base", &Labels::new())
    });
    assert_eq!(removed(&db), [b(5), b(6), s("other")]);
    db.update(|tx| Ok(tx.remove_snapshot(&scope(), "overlayfs", "top")?));
    // The collector took the link to the removed child away.
    db.update(|tx| Ok(tx.remove_snapshot(&scope(), "overlayfs", "base")?));
}

#[test]
fn an_expired_image_goes_with_its_content() {
    let db = fresh();
    let expiry = SystemTime::now() + Duration::from_secs(3600);
    db.update(move |tx| {
        let mut image = image("i", 1);
        image.labels = labels(&[("containerd.io/gc.expire", &timestamp::format(expiry))]);
        tx.create_image(&scope(), image, None)?;
        blob(tx, &scope(), 1, &Labels::new())
    });
    assert_eq!(removed(&db), []);
    let later = run_at(&db, expiry + Duration::from_secs(1));
    assert_eq!(later.removed.len(), 2);
}

#[test]
fn an_expiry_that_is_no_time_does_not_count() {
    let db = fresh();
    db.update(|tx| {
        let mut image = image("i", 1);
        image.labels = labels(&[("containerd.io/gc.expire", "soon")]);
        tx.create_image(&scope(), image, None)?;
        tx.create_lease(&scope(), "l", &labels(&[("containerd.io/gc.expire", "soon")]))
            .map_err(Into::into)
    });
    assert_eq!(removed(&db), []);
}

#[test]
fn an_expired_image_lives_as_long_as_another_refers_to_it() {
    let db = fresh();
    db.update(|tx| {
        let mut old = image("old", 1);
        old.labels = labels(&[("containerd.io/gc.expire", "2000-01-01T00:00:00Z")]);
        tx.create_image(&scope(), old, None)?;
        let mut keeper = image("keeper", 2);
        keeper.labels = labels(&[("containerd.io/gc.ref.image.x", "old")]);
        tx.create_image(&scope(), keeper, None)?;
        let mut back = image("back", 3);
        back.labels = labels(&[
            ("containerd.io/gc.expire", "2000-01-01T00:00:00Z"),
            ("containerd.io/gc.bref.image", "keeper"),
        ]);
        Ok(tx.create_image(&scope(), back, None)?)
    });
    assert_eq!(removed(&db), []);
    db.update(|tx| Ok(tx.delete_image(&scope(), "keeper", None)?));
    assert_eq!(
        removed(&db),
        [Resource::Image("back".to_owned()), Resource::Image("old".to_owned())]
    );
}

#[test]
fn a_container_keeps_its_snapshot() {
    let db = fresh();
    db.update(|tx| {
        snapshot(tx, &scope(), "base", "", &Labels::new())?;
        snapshot(tx, &scope(), "rw", "base", &Labels::new())?;
        let container = Container {
            snapshotter: "overlayfs".to_owned(),
            snapshot_key: "rw".to_owned(),
            labels: labels(&[("containerd.io/gc.ref.content", digest(1).as_str())]),
            ..container("c")
        };
        tx.create_container(&scope(), container)?;
        blob(tx, &scope(), 1, &Labels::new())
    });
    assert_eq!(removed(&db), []);
    db.update(|tx| tx.delete_container(&scope(), "c").map_err(Into::into));
    assert_eq!(removed(&db), [b(1), s("base"), s("rw")]);
}

#[test]
fn back_references_keep_the_object_that_has_them() {
    let db = fresh();
    db.update(|tx| {
        tx.create_container(&scope(), container("c"))?;
        blob(tx, &scope(), 1, &labels(&[("containerd.io/gc.bref.container", "c")]))?;
        let on = labels(&[("containerd.io/gc.bref.content.x", digest(1).as_str())]);
        snapshot(tx, &scope(), "s", "", &on)?;
        blob(tx, &scope(), 2, &labels(&[("containerd.io/gc.bref.snapshot.overlayfs/y", "s")]))?;
        blob(tx, &scope(), 3, &labels(&[("containerd.io/gc.bref.containers", "c")]))
    });
    assert_eq!(removed(&db), [b(3)]);
    db.update(|tx| tx.delete_container(&scope(), "c").map_err(Into::into));
    assert_eq!(removed(&db), [b(1), b(2), s("s")]);
}

#[test]
fn gc_root_keeps_content_and_snapshots() {
    let db = fresh();
    db.update(|tx| {
        let root = labels(&[("containerd.io/gc.root", "anything")]);
        blob(tx, &scope(), 1, &root)?;
        snapshot(tx, &scope(), "base", "", &Labels::new())?;
        snapshot(tx, &scope(), "s", "base", &root)
    });
    assert_eq!(removed(&db), []);
}

#[test]
fn a_sandbox_keeps_what_its_labels_name() {
    let db = fresh();
    db.update(|tx| {
        let sandbox = store_metadata::Sandbox {
            id: "s".to_owned(),
            labels: labels(&[("containerd.io/gc.ref.content.0", digest(1).as_str())]),
            ..store_metadata::Sandbox::default()
        };
        tx.create_sandbox(&scope(), sandbox)?;
        blob(tx, &scope(), 1, &Labels::new())
    });
    assert_eq!(removed(&db), []);
}

/// The same for a sandbox where containerd 1.7 keeps it.
#[test]
fn a_sandbox_beside_v1_keeps_what_its_labels_name() {
    let folder = folder();
    let path = folder.path().join("meta.db");
    let label = "containerd.io/gc.ref.content.0";
    let digest = digest(1);
    super::golden::seed(
        &path,
        &[
            (&["v1", "version"], b"\x06"),
            (&["default", "sandboxes", "s", "labels", label], digest.as_str().as_bytes()),
        ],
    );
    let db = Fresh { metadata: open(&path), folder };
    db.update(|tx| {
        blob(tx, &scope(), 1, &Labels::new())?;
        blob(tx, &scope(), 2, &Labels::new())
    });
    assert_eq!(removed(&db).len(), 1);
    assert_eq!(removed(&db), []);
}

#[test]
fn a_lease_holds_until_it_expires() {
    let db = fresh();
    let expiry = SystemTime::now() + Duration::from_secs(3600);
    db.update(move |tx| {
        let expire = timestamp::format(expiry);
        tx.create_lease(&scope(), "l", &labels(&[("containerd.io/gc.expire", &expire)]))?;
        let leased = scope().with_lease("l");
        let on = labels(&[("containerd.io/gc.ref.content", digest(2).as_str())]);
        blob(tx, &leased, 1, &on)?;
        blob(tx, &scope(), 2, &Labels::new())?;
        snapshot(tx, &leased, "s", "", &Labels::new())?;
        tx.open_ingest(&leased, "r", None, false)?;
        Ok(())
    });
    assert_eq!(removed(&db), []);
    let later = run_at(&db, expiry + Duration::from_secs(1));
    assert_eq!(later.removed.len(), 5);
}

#[test]
fn a_flat_lease_holds_its_resources_alone() {
    let db = fresh();
    db.update(|tx| {
        tx.create_lease(&scope(), "l", &labels(&[("containerd.io/gc.flat", "")]))?;
        Ok(())
    });
    // An empty label is not stored, so the first lease was none.
    db.update(|tx| {
        tx.delete_lease(&scope(), "l")?;
        tx.create_lease(&scope(), "l", &labels(&[("containerd.io/gc.flat", "1")]))?;
        let leased = scope().with_lease("l");
        let on = labels(&[("containerd.io/gc.ref.content", digest(2).as_str())]);
        blob(tx, &leased, 1, &on)?;
        blob(tx, &scope(), 2, &Labels::new())?;
        snapshot(tx, &scope(), "base", "", &Labels::new())?;
        let on = labels(&[("containerd.io/gc.ref.content", digest(3).as_str())]);
        snapshot(tx, &leased, "top", "base", &on)?;
        blob(tx, &scope(), 3, &Labels::new())
    });
    assert_eq!(removed(&db), [b(2), b(3)]);
}

#[test]
fn an_expired_image_is_held_by_a_lease() {
    let db = fresh();
    db.update(|tx| {
        tx.create_lease(&scope(), "l", &Labels::new())?;
        let mut old = image("old", 1);
        old.labels = labels(&[("containerd.io/gc.expire", "2000-01-01T00:00:00Z")]);
        tx.create_image(&scope().with_lease("l"), old, None)?;
        blob(tx, &scope(), 1, &Labels::new())
    });
    assert_eq!(removed(&db), []);
    db.update(|tx| Ok(tx.delete_lease(&scope(), "l")?));
    assert_eq!(removed(&db), [b(1), Resource::Image("old".to_owned())]);
}

#[test]
fn an_ingest_without_lease_goes_after_a_day() {
    let db = fresh();
    db.update(|tx| {
        tx.open_ingest(&scope(), "r", Some(&digest(1)), true)?;
        Ok(())
    });
    assert_eq!(removed(&db), []);
    let later = run_at(&db, SystemTime::now() + store_metadata::INGEST_LIFE * 2);
    assert_eq!(later.removed.len(), 1);
    assert!(later.sweep_content);
}

#[test]
fn an_ingest_keeps_the_content_it_expects() {
    let db = fresh();
    db.update(|tx| {
        tx.open_ingest(&scope(), "r", Some(&digest(1)), true)?;
        blob(tx, &scope(), 1, &Labels::new())
    });
    assert_eq!(removed(&db), []);
}

#[test]
fn a_condition_keeps_while_it_holds() {
    let db = fresh();
    let now = SystemTime::now();
    db.update(move |tx| {
        let used = timestamp::format(now - Duration::from_secs(60));
        let on = labels(&[
            ("containerd.io/gc.root", "1"),
            ("containerd.io/gc.cond.value-usedat", &used),
        ]);
        snapshot(tx, &scope(), "s", "", &on)?;
        let cond = "containerd.io/gc.cond.snapshot.overlayfs";
        blob(tx, &scope(), 1, &labels(&[(cond, "usedat<5m|s")]))?;
        blob(tx, &scope(), 2, &labels(&[(cond, "usedat>5m|s")]))?;
        blob(tx, &scope(), 3, &labels(&[(cond, "usedat<1s,usedat<5m|s")]))?;
        blob(tx, &scope(), 4, &labels(&[(cond, "size<5m|s")]))
    });
    assert_eq!(removed(&db), [b(2), b(4)]);
    let later = run_at(&db, now + Duration::from_secs(3600));
    assert_eq!(later.removed.len(), 2);
}

#[test]
fn namespaces_do_not_reach_into_each_other() {
    let db = fresh();
    db.update(|tx| {
        tx.create_image(&scope(), image("i", 1), None)?;
        let other = store_metadata::Scope::new(base_ident::Namespace::new("other")?);
        blob(tx, &other, 1, &Labels::new())?;
        blob(tx, &scope(), 1, &Labels::new())
    });
    let outcome = run(&db);
    assert_eq!(outcome.removed.len(), 1);
    assert_eq!(outcome.removed[0].namespace, "other");
}

#[test]
fn deletions_ask_for_a_sweep() {
    let db = fresh();
    db.update(|tx| {
        let root = labels(&[("containerd.io/gc.root", "1")]);
        blob(tx, &scope(), 1, &root)?;
        snapshot(tx, &scope(), "s", "", &root)
    });
    db.update(|tx| {
        tx.delete_blob(&scope(), &digest(1))?;
        Ok(tx.remove_snapshot(&scope(), "overlayfs", "s")?)
    });
    let outcome = run(&db);
    assert!(outcome.sweep_content && outcome.sweep_snapshotters.contains("overlayfs"));
    db.metadata.mark_content_dirty();
    db.metadata.mark_snapshotter_dirty("native");
    let outcome = run(&db);
    assert!(outcome.sweep_content && outcome.sweep_snapshotters.contains("native"));
}

/// Clients create content under leases, name it and drop the lease, while the collector runs.
#[test]
fn what_is_created_meanwhile_survives() {
    let db = fresh();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let clients: Vec<_> = (0..8usize)
            .map(|client| {
                let metadata = db.metadata.clone();
                tokio::spawn(async move {
                    for round in 0..20 {
                        let number = client * 100 + round;
                        let lease = format!("l{number}");
                        let leased = scope().with_lease(&lease);
                        let id = lease.clone();
                        metadata
                            .update(move |tx| Ok(tx.create_lease(&scope(), &id, &Labels::new())?))
                            .await
                            .unwrap();
                        let under = leased.clone();
                        metadata
                            .update(move |tx| blob(tx, &under, number, &Labels::new()))
                            .await
                            .unwrap();
                        metadata
                            .update(move |tx| {
                                let image = image(&format!("i{number}"), number);
                                Ok(tx.create_image(&leased, image, None)?)
                            })
                            .await
                            .unwrap();
                        // Garbage, so that every collection has something to remove.
                        metadata
                            .update(move |tx| {
                                tx.delete_lease(&scope(), &lease)?;
                                blob(tx, &scope(), number + 50_000, &Labels::new())
                            })
                            .await
                            .unwrap();
                    }
                })
            })
            .collect();
        let metadata = db.metadata.clone();
        let (stop, mut stopped) = tokio::sync::watch::channel(false);
        let collector = tokio::spawn(async move {
            let mut removed = 0;
            while !*stopped.borrow_and_update() {
                removed += metadata.collect().await.unwrap().removed.len();
            }
            removed + metadata.collect().await.unwrap().removed.len()
        });
        for client in clients {
            client.await.unwrap();
        }
        stop.send(true).unwrap();
        assert_eq!(collector.await.unwrap(), 160, "the garbage and nothing else");
    });
    let all = db.view(|tx| Ok(tx.blobs(&ns(), &filter(&[]))?));
    assert_eq!(all.len(), 160);
}

#[test]
fn lease_resources_may_name_what_does_not_exist() {
    let db = fresh();
    db.update(|tx| {
        tx.create_lease(&scope(), "l", &Labels::new())?;
        let kind = "snapshots/overlayfs".to_owned();
        let resource = LeaseResource { id: "none".to_owned(), kind };
        Ok(tx.add_lease_resource(&scope(), "l", &resource)?)
    });
    assert_eq!(removed(&db), []);
}

/// What expires by time alone is known beforehand: from what was written, and from what a collection
/// saw, so that something can wait for it.
#[test]
fn the_next_expiry_is_known() {
    let db = fresh();
    let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let expires =
        move |seconds| labels(&[("containerd.io/gc.expire", &timestamp::format(at(seconds)))]);
    let soon = 4_000_000_000;
    assert_eq!(db.metadata.next_expiry(), None);
    db.update(move |tx| Ok(tx.create_lease(&scope(), "later", &expires(soon + 100))?));
    assert_eq!(db.metadata.next_expiry(), Some(at(soon + 100)));
    db.update(move |tx| {
        let mut image = image("i", 1);
        image.labels = expires(soon);
        Ok(tx.create_image(&scope(), image, None)?)
    });
    assert_eq!(db.metadata.next_expiry(), Some(at(soon)));
    assert_eq!(run_at(&db, at(soon + 1)).removed.len(), 1);
    assert_eq!(db.metadata.next_expiry(), Some(at(soon + 100)));
    // Another daemon's database: the first collection finds out.
    let path = db.metadata.path().to_owned();
    let Fresh { metadata, folder: _folder } = db;
    drop(metadata);
    let metadata = open(&path);
    assert_eq!(metadata.next_expiry(), None);
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(metadata.collect_at(at(1)))
        .unwrap();
    assert_eq!(metadata.next_expiry(), Some(at(soon + 100)));
    metadata.update_blocking(|tx| Ok(tx.open_ingest(&scope(), "r", None, false)?)).unwrap();
    let expiry = metadata.next_expiry().unwrap();
    assert!(expiry < SystemTime::now() + store_metadata::INGEST_LIFE + Duration::from_secs(1));
}

/// A collection of much garbage is many short transactions; all of it goes.
#[test]
fn much_garbage_goes_in_slices() {
    let db = fresh();
    for part in 0..10 {
        db.update(move |tx| {
            for number in part * 300..(part + 1) * 300 {
                blob(tx, &scope(), number, &Labels::new())?;
            }
            Ok(())
        });
    }
    let outcome = run(&db);
    assert_eq!((outcome.removed.len(), outcome.failed), (3000, None));
    assert!(db.view(|tx| Ok(tx.blobs(&ns(), &filter(&[]))?)).is_empty());
}
