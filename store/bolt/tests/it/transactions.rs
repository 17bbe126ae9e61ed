//! What a transaction promises its caller.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use base_errors::{Class, Coded};
use store_bolt::{Db, Entry, Error, Options};

use super::support::{Item, Tree, folder, options, read, verified, write};

fn open(folder: &tempfile::TempDir) -> Db {
    Db::open(folder.path().join("x.db"), Options::default()).unwrap()
}

/// Keeps the writer busy until the sender is dropped, so that what follows shares one commit.
fn block(db: &Db) -> (mpsc::Sender<()>, std::thread::JoinHandle<()>) {
    let (release, wait) = mpsc::channel::<()>();
    let (started, running) = mpsc::channel();
    let db = db.clone();
    let thread = std::thread::spawn(move || {
        db.update(move |_| {
            started.send(()).unwrap();
            let _ = wait.recv();
            Ok::<_, Error>(())
        })
        .unwrap();
    });
    running.recv().unwrap();
    (release, thread)
}

#[test]
fn an_error_or_a_panic_of_one_closure_leaves_the_others_alone() {
    let folder = folder();
    let db = open(&folder);
    db.update(|tx| {
        let mut bucket = tx.create_bucket_if_missing(&[b"kept", b"deep"])?;
        for n in 0..500u32 {
            bucket.put(&n.to_be_bytes(), &[7; 50])?;
        }
        Ok::<_, Error>(())
    })
    .unwrap();
    let before = verified(&db);
    let commits = db.stats().commits;
    let (release, thread) = block(&db);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let hooks = Arc::new(AtomicU64::new(0));
    let results = runtime.block_on(async {
        let update = |n: u64| {
            let hooks = hooks.clone();
            db.update_async(move |tx| {
                tx.on_commit(move || {
                    hooks.fetch_add(1, Ordering::SeqCst);
                });
                // Every closure sees what the good ones before it did, and nothing of the bad ones.
                let seen = match tx.read().bucket(b"kept")?.unwrap().get(b"last")? {
                    Some(last) => u64::from_be_bytes(last.try_into().unwrap()),
                    None => 0,
                };
                let mut root = tx.root();
                let mut kept = root.bucket(b"kept")?.unwrap();
                kept.put(b"last", &n.to_be_bytes())?;
                kept.next_sequence()?;
                match n % 3 {
                    0 => {
                        kept.bucket(b"deep")?.unwrap().delete(&7u32.to_be_bytes())?;
                        kept.delete_bucket(b"deep")?;
                        tx.create_bucket_if_missing(&[b"failed"])?.put(b"x", b"y")?;
                        Err(Error::IncompatibleValue { key: "on purpose".to_owned() })
                    }
                    1 => Ok(seen),
                    _ => {
                        kept.create_bucket(b"panicked")?.put(b"x", &[0; 10_000])?;
                        panic!("on purpose {n}")
                    }
                }
            })
        };
        let join = async { tokio::join!(update(1), update(2), update(3), update(4), update(6)) };
        tokio::pin!(join);
        // All are queued by the first poll, while the writer is busy.
        std::future::poll_fn(|context| {
            assert!(join.as_mut().poll(context).is_pending());
            std::task::Poll::Ready(())
        })
        .await;
        drop(release);
        join.await
    });
    thread.join().unwrap();
    assert_eq!(results.0.unwrap(), 0);
    assert!(matches!(results.1, Err(Error::Panicked { message }) if message == "on purpose 2"));
    assert!(matches!(results.2, Err(Error::IncompatibleValue { .. })));
    assert_eq!(results.3.unwrap(), 1);
    assert!(results.4.is_err());
    assert_eq!(db.stats().commits, commits + 1, "the closures shared a commit");
    assert_eq!(hooks.load(Ordering::SeqCst), 2, "hooks of failed closures are dropped");
    let mut expected = before;
    let Some(Item::Bucket(kept)) = expected.items.get_mut(&b"kept"[..]) else { panic!() };
    kept.items.insert(b"last".to_vec(), Item::Value(4u64.to_be_bytes().to_vec()));
    kept.sequence = 2;
    assert_eq!(verified(&db), expected);
}

#[test]
fn hooks_run_after_the_state_is_visible_and_before_the_caller_hears() {
    let folder = folder();
    let db = open(&folder);
    let (sender, seen) = mpsc::channel();
    let inside = db.clone();
    db.update(move |tx| {
        tx.root().put(b"k", b"v")?;
        tx.on_commit(move || {
            let tx = inside.view().unwrap();
            sender.send(tx.root().get(b"k").unwrap().map(<[u8]>::to_vec)).unwrap();
        });
        Ok::<_, Error>(())
    })
    .unwrap();
    assert_eq!(seen.try_recv().unwrap(), Some(b"v".to_vec()));
}

#[test]
fn a_transaction_that_changes_nothing_writes_nothing() {
    let folder = folder();
    let db = open(&folder);
    let fill = |db: &Db| {
        db.update(|tx| {
            let mut bucket = tx.create_bucket_if_missing(&[b"a", b"b"])?;
            bucket.put(b"k", b"v")?;
            bucket.set_sequence(3);
            tx.bucket(b"a")?.unwrap().delete(b"absent")?;
            Ok::<_, Error>(())
        })
        .unwrap();
    };
    fill(&db);
    let (commits, txid) = (db.stats().commits, db.view().unwrap().txid());
    fill(&db);
    assert_eq!(db.stats().commits, commits);
    assert_eq!(db.view().unwrap().txid(), txid);
    assert_eq!(db.stats().updates, 2);
}

#[test]
fn a_reader_keeps_its_state_through_later_commits() {
    let folder = folder();
    let db = open(&folder);
    let mut states = Vec::new();
    for round in 0..40u32 {
        db.update(move |tx| {
            let mut bucket = tx.create_bucket_if_missing(&[b"b"])?;
            for n in 0..200u32 {
                bucket.put(&(n * (round + 1)).to_be_bytes(), &round.to_be_bytes())?;
            }
            if round % 7 == 6 {
                tx.root().delete_bucket(b"b")?;
            }
            Ok::<_, Error>(())
        })
        .unwrap();
        let tx = db.view().unwrap();
        let tree = read(tx.root()).unwrap();
        states.push((tx, tree));
        if round % 5 == 0 {
            states.remove(states.len() / 2);
        }
    }
    for (tx, tree) in &states {
        assert_eq!(read(tx.root()).unwrap(), *tree, "state {}", tx.txid());
    }
    assert!(db.stats().pending_pages > 0);
    drop(states);
    for n in 0..3u8 {
        db.update(move |tx| tx.root().put(b"k", &[n])).unwrap();
    }
    // What the last commit freed waits for nobody but is not free before the next one.
    assert!(db.stats().pending_pages < 10, "{:?}", db.stats());
    verified(&db);
}

#[test]
fn wrong_calls_have_clear_errors_and_classes() {
    let folder = folder();
    let db = open(&folder);
    type Call = fn(&mut store_bolt::WriteTx<'_>) -> Result<(), Error>;
    db.update(|tx| {
        tx.create_bucket_if_missing(&[b"bucket"])?;
        tx.root().put(b"value", b"x")
    })
    .unwrap();
    let calls: [(Call, Class, &str); 11] = [
        (|tx| tx.root().put(b"", b"x"), Class::InvalidArgument, "key required"),
        (
            |tx| tx.root().put(&[1; 32769], b"x"),
            Class::InvalidArgument,
            "key of 32769 bytes is too large",
        ),
        (
            |tx| tx.root().put(b"bucket", b"x"),
            Class::InvalidArgument,
            "key \"bucket\": incompatible value",
        ),
        (
            |tx| tx.root().delete(b"bucket"),
            Class::InvalidArgument,
            "key \"bucket\": incompatible value",
        ),
        (
            |tx| tx.root().delete_bucket(b"value"),
            Class::InvalidArgument,
            "key \"value\": incompatible value",
        ),
        (
            |tx| tx.root().create_bucket(b"value").map(drop),
            Class::InvalidArgument,
            "key \"value\": incompatible value",
        ),
        (
            |tx| tx.create_bucket_if_missing(&[b"value", b"x"]).map(drop),
            Class::InvalidArgument,
            "key \"value\": incompatible value",
        ),
        (|tx| tx.root().create_bucket(b"").map(drop), Class::InvalidArgument, "key required"),
        (
            |tx| tx.root().create_bucket(b"bucket").map(drop),
            Class::AlreadyExists,
            "bucket \"bucket\"",
        ),
        (|tx| tx.root().delete_bucket(b"absent"), Class::NotFound, "bucket \"absent\""),
        (
            |tx| {
                let path: Vec<&[u8]> = vec![b"n"; 65];
                tx.create_bucket_if_missing(&path).map(drop)
            },
            Class::InvalidArgument,
            "buckets nested deeper than 64",
        ),
    ];
    for (call, class, text) in calls {
        let error = db.update(call).unwrap_err();
        assert_eq!((error.class(), error.to_string().as_str()), (class, text));
    }
    let inside = db.clone();
    let error = db.update(move |_| inside.update(|tx| tx.root().put(b"k", b"v"))).unwrap_err();
    assert!(matches!(error, Error::Nested));
    let tree = verified(&db);
    assert_eq!(tree.items.len(), 2, "nothing is left behind");
}

#[test]
fn the_lock_keeps_others_out_until_the_last_reader_is_gone() {
    let folder = folder();
    let path = folder.path().join("x.db");
    // Not zero: a process that another test starts holds a copy of every descriptor for a moment.
    let short = Duration::from_millis(500);
    let impatient = Options { lock_timeout: Some(short), ..Options::default() };
    let db = Db::open(&path, impatient.clone()).unwrap();
    db.update(|tx| tx.root().put(b"k", b"v")).unwrap();
    let error = Db::open(&path, impatient.clone()).unwrap_err();
    assert!(matches!(error, Error::Locked { .. }));
    assert_eq!(error.class(), Class::Unavailable);
    assert!(store_bolt::check(&path).is_err());
    let tx = db.view().unwrap();
    drop(db);
    assert!(Db::open(&path, impatient.clone()).is_err(), "a reader is left");
    assert_eq!(tx.root().get(b"k").unwrap(), Some(&b"v"[..]));
    drop(tx);
    // Readers share; a writer waits for them.
    let read_only = Options { read_only: true, ..impatient.clone() };
    let one = Db::open(&path, read_only.clone()).unwrap();
    let two = Db::open(&path, read_only.clone()).unwrap();
    assert!(Db::open(&path, impatient.clone()).is_err());
    let error = two.update(|tx| tx.root().put(b"k", b"w")).unwrap_err();
    assert!(matches!(error, Error::ReadOnly { .. }));
    drop((one, two));
    let waiting = std::thread::spawn({
        let path = path.clone();
        move || Db::open(&path, Options::default()).map(drop)
    });
    waiting.join().unwrap().unwrap();
    let absent = Db::open(folder.path().join("absent"), read_only).unwrap_err();
    assert_eq!(absent.class(), Class::NotFound);
    assert!(!folder.path().join("absent").exists());
}

#[test]
fn a_dropped_handle_finishes_what_was_queued() {
    let folder = folder();
    let path = folder.path().join("x.db");
    let db = Db::open(&path, Options::default()).unwrap();
    let (done, end) = mpsc::channel();
    for n in 0..20u8 {
        let (db, done) = (db.clone(), done.clone());
        std::thread::spawn(move || {
            let result = db.update(move |tx| tx.root().put(&[n], &[n]));
            drop(db);
            done.send(result.is_ok()).unwrap();
        });
    }
    drop((db, done));
    assert_eq!(end.iter().filter(|good| *good).count(), 20);
    let db = Db::open(&path, Options::default()).unwrap();
    assert_eq!(verified(&db).items.len(), 20);
}

#[test]
fn the_choice_of_a_stored_free_list_holds_from_the_next_commit_on() {
    let folder = folder();
    let path = folder.path().join("x.db");
    let mut expected = Tree::default();
    for round in 0..8u8 {
        let stored = round % 2 == 0;
        let db = Db::open(&path, options(stored, 4096)).unwrap();
        db.update(move |tx| {
            let mut bucket = tx.create_bucket_if_missing(&[b"b"])?;
            (0..200u8).try_for_each(|n| bucket.put(&[n, round], &[round; 100]))
        })
        .unwrap();
        db.update(move |tx| {
            let mut bucket = tx.create_bucket_if_missing(&[b"b"])?;
            (0..200u8).step_by(2).try_for_each(|n| bucket.delete(&[n, round]))
        })
        .unwrap();
        let tree = verified(&db);
        drop(db);
        let report = store_bolt::check(&path).unwrap();
        assert!(report.is_clean(), "{:?}", report.problems);
        assert_eq!(report.free.is_some(), stored);
        expected = tree;
    }
    let db = Db::open(&path, Options::default()).unwrap();
    assert_eq!(verified(&db), expected);
}

#[test]
fn a_free_list_of_more_ids_than_the_header_counts() {
    let folder = folder();
    let path = folder.path().join("x.db");
    let db = Db::open(&path, options(true, 1024)).unwrap();
    db.update(|tx| {
        let mut bucket = tx.create_bucket_if_missing(&[b"b"])?;
        (0..70u8).try_for_each(|n| bucket.put(&[n], &vec![n; 1 << 20]))
    })
    .unwrap();
    db.update(|tx| tx.root().delete_bucket(b"b")).unwrap();
    drop(db);
    let report = store_bolt::check(&path).unwrap();
    assert!(report.is_clean(), "{:?}", report.problems.first());
    assert!(report.free.unwrap() > 70_000);
    let db = Db::open(&path, options(true, 1024)).unwrap();
    let pages = db.stats().pages;
    db.update(|tx| tx.root().put(b"k", &vec![1; 30 << 20])).unwrap();
    assert!(db.stats().pages <= pages + 1200, "free pages are used again");
    verified(&db);
}

#[test]
fn dump_and_salvage_show_what_is_there() {
    let folder = folder();
    let (from, to) = (folder.path().join("from.db"), folder.path().join("to.db"));
    let tree = Tree {
        sequence: 0,
        items: [
            (b"v".to_vec(), Item::Value(b"1\xff\n".to_vec())),
            (
                b"b".to_vec(),
                Item::Bucket(Tree {
                    sequence: 9,
                    items: [(b"k".to_vec(), Item::Value(Vec::new()))].into(),
                }),
            ),
        ]
        .into(),
    };
    let db = Db::open(&from, options(false, 4096)).unwrap();
    let wanted = tree.clone();
    db.update(move |tx| write(&wanted, &mut tx.root())).unwrap();
    let tx = db.view().unwrap();
    assert!(matches!(tx.root().entry_at(b"b").unwrap(), Some(Entry::Bucket(_))));
    drop((db, tx));
    let mut text = String::new();
    store_bolt::dump(&from, &mut text).unwrap();
    let lines: Vec<&str> = text.lines().skip(1).collect();
    assert_eq!(lines, ["\"b\"/ sequence 9", "  \"k\" = \"\"", "\"v\" = \"1\\xff\\n\""]);
    let report = store_bolt::salvage(&from, &to).unwrap();
    assert!(report.is_clean());
    assert_eq!(verified(&Db::open(&to, Options::default()).unwrap()), tree);
}
