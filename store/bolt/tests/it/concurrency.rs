//! Many readers and writers at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use store_bolt::{Db, Error, Options, Step};

use super::support::{folder, verified};

/// Commits of the writer that the readers watch.
const ROUNDS: u64 = 300;

#[test]
fn eight_readers_and_a_growing_writer() {
    let folder = folder();
    let db = Db::open(folder.path().join("x.db"), Options::default()).unwrap();
    db.update(|tx| tx.create_bucket_if_missing(&[b"b"])?.put(b"round", &0u64.to_be_bytes()))
        .unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..8)
        .map(|_| {
            let (db, done) = (db.clone(), done.clone());
            std::thread::spawn(move || {
                let mut views = 0u64;
                while !done.load(Ordering::Acquire) || views == 0 {
                    let tx = db.view().unwrap();
                    let bucket = tx.bucket(b"b").unwrap().unwrap();
                    let round = bucket.get(b"round").unwrap().unwrap();
                    let round = u64::from_be_bytes(round.try_into().unwrap());
                    // All rows of a state are of its round.
                    let mut rows = 0;
                    for entry in bucket.range_from(b"row") {
                        let (key, entry) = entry.unwrap();
                        if !key.starts_with(b"row-") {
                            continue;
                        }
                        assert_eq!(entry.value().unwrap()[..8], round.to_be_bytes());
                        rows += 1;
                    }
                    assert_eq!(rows, round.min(100));
                    views += 1;
                }
            })
        })
        .collect();
    for round in 1..=ROUNDS {
        db.update(move |tx| {
            let mut root = tx.root();
            let mut bucket = root.bucket(b"b")?.unwrap();
            bucket.put(b"round", &round.to_be_bytes())?;
            let mut value = vec![0; 64 + usize::try_from(round).unwrap() * 16];
            value[..8].copy_from_slice(&round.to_be_bytes());
            (0..round.min(100)).try_for_each(|n| bucket.put(format!("row-{n}").as_bytes(), &value))
        })
        .unwrap();
    }
    done.store(true, Ordering::Release);
    for reader in readers {
        reader.join().unwrap();
    }
    verified(&db);
}

#[test]
fn sixteen_writers_share_commits() {
    let folder = folder();
    let slow = Arc::new(|step| {
        if matches!(step, Step::SyncPages | Step::SyncMeta) {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    });
    let db = Db::open_probed(folder.path().join("x.db"), Options::default(), slow).unwrap();
    let threads: Vec<_> = (0..16u8)
        .map(|thread| {
            let db = db.clone();
            std::thread::spawn(move || {
                for n in 0..25u8 {
                    db.update(move |tx| {
                        let mut bucket = tx.create_bucket_if_missing(&[&[thread]])?;
                        assert_eq!(bucket.next_sequence()?, u64::from(n) + 1);
                        bucket.put(&[n], &[thread, n])
                    })
                    .unwrap();
                    let tx = db.view().unwrap();
                    let bucket = tx.bucket(&[thread]).unwrap().unwrap();
                    assert_eq!(bucket.get(&[n]).unwrap(), Some(&[thread, n][..]));
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let stats = db.stats();
    assert_eq!(stats.updates, 16 * 25);
    assert!(stats.commits * 4 <= stats.updates, "{stats:?}");
    assert_eq!(verified(&db).items.len(), 16);
}

#[test]
fn more_async_updates_than_the_queue_holds_all_arrive() {
    let folder = folder();
    let db = Db::open(folder.path().join("x.db"), Options::default()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let tasks: Vec<_> = (0..3000u32)
            .map(|n| {
                let db = db.clone();
                tokio::spawn(async move {
                    db.update_async(move |tx| tx.root().put(&n.to_be_bytes(), b"x")).await
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap().unwrap();
        }
    });
    assert_eq!(verified(&db).items.len(), 3000);
    assert!(db.stats().commits < 3000);
}

#[test]
fn a_dropped_future_leaves_the_rest_running() {
    let folder = folder();
    let db = Db::open(folder.path().join("x.db"), Options::default()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        for n in 0..50u8 {
            let mut update = Box::pin(db.update_async(move |tx| tx.root().put(&[n], &[n])));
            // Polled once it is queued; then it is dropped.
            std::future::poll_fn(|context| {
                let _ = update.as_mut().poll(context);
                std::task::Poll::Ready(())
            })
            .await;
            drop(update);
        }
        db.update_async(|tx| tx.root().put(b"last", b"x")).await.unwrap();
    });
    let tree = verified(&db);
    assert!(tree.items.contains_key(&b"last"[..]));
}

#[test]
fn an_update_of_another_database_inside_of_an_update_works() {
    let folder = folder();
    let one = Db::open(folder.path().join("1.db"), Options::default()).unwrap();
    let two = Db::open(folder.path().join("2.db"), Options::default()).unwrap();
    let inside = two.clone();
    one.update(move |tx| {
        tx.root().put(b"k", b"1")?;
        inside.update(|tx| tx.root().put(b"k", b"2"))?;
        Ok::<_, Error>(())
    })
    .unwrap();
    assert_eq!(one.view().unwrap().root().get(b"k").unwrap(), Some(&b"1"[..]));
    assert_eq!(two.view().unwrap().root().get(b"k").unwrap(), Some(&b"2"[..]));
}
