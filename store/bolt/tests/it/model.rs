//! Random operations, compared with a map in memory after each commit.

use std::collections::BTreeMap;

use proptest::prelude::*;
use store_bolt::{BucketMut, Db, Error, WriteTx};

use super::support::{Item, Tree, folder, options, read, verified};

#[derive(Clone, Debug)]
enum Op {
    Put(Vec<u8>, usize, u8),
    /// Many keys in a row.
    Fill(u16, u16, usize),
    /// Removes many keys in a row.
    Drain(u16, u16),
    Delete(Vec<u8>),
    Create(Vec<u8>),
    DeleteBucket(Vec<u8>),
    Sequence(u64),
    NextSequence,
    /// Goes down into a bucket for what follows.
    Enter(Vec<u8>),
    /// Back to the top.
    Leave,
}

#[derive(Clone, Debug)]
struct Transaction {
    ops: Vec<Op>,
    fails: bool,
    reopen: bool,
    stored: bool,
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => (0u8..40).prop_map(|n| format!("key-{n}").into_bytes()),
        1 => proptest::collection::vec(any::<u8>(), 1..12),
        1 => (0u8..3, 600usize..3000).prop_map(|(n, len)| vec![b'a' + n; len]),
    ]
}

fn bucket_name() -> impl Strategy<Value = Vec<u8>> {
    (0u8..6).prop_map(|n| format!("bucket-{n}").into_bytes())
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (key(), prop_oneof![4 => 0usize..300, 1 => 0usize..20_000], any::<u8>())
            .prop_map(|(key, len, byte)| Op::Put(key, len, byte)),
        3 => (0u16..1000, 1u16..400, 0usize..120)
            .prop_map(|(start, count, len)| Op::Fill(start, count, len)),
        3 => (0u16..1000, 1u16..600).prop_map(|(start, count)| Op::Drain(start, count)),
        3 => key().prop_map(Op::Delete),
        3 => bucket_name().prop_map(Op::Create),
        1 => bucket_name().prop_map(Op::DeleteBucket),
        1 => any::<u64>().prop_map(Op::Sequence),
        1 => Just(Op::NextSequence),
        5 => bucket_name().prop_map(Op::Enter),
        2 => Just(Op::Leave),
    ]
}

fn transaction() -> impl Strategy<Value = Transaction> {
    (proptest::collection::vec(op(), 1..25), 0u8..6, 0u8..4, any::<bool>()).prop_map(
        |(ops, fails, reopen, stored)| Transaction {
            ops,
            fails: fails == 0,
            reopen: reopen == 0,
            stored,
        },
    )
}

fn number(n: u16) -> Vec<u8> {
    format!("n{n:05}").into_bytes()
}

/// The model's answer to an operation: what the engine must answer, by the error's kind.
fn in_model(tree: &mut Tree, op: &Op) -> &'static str {
    match op {
        Op::Put(key, len, byte) => match tree.items.get(key) {
            Some(Item::Bucket(_)) => return "incompatible",
            _ => drop(tree.items.insert(key.clone(), Item::Value(vec![*byte; *len]))),
        },
        Op::Fill(start, count, len) => {
            for n in *start..start + count {
                tree.items.insert(number(n), Item::Value(vec![b'x'; *len]));
            }
        }
        Op::Drain(start, count) => {
            for n in *start..start + count {
                tree.items.remove(&number(n));
            }
        }
        Op::Delete(key) => match tree.items.get(key) {
            Some(Item::Bucket(_)) => return "incompatible",
            _ => drop(tree.items.remove(key)),
        },
        Op::Create(name) => match tree.items.get(name) {
            Some(Item::Bucket(_)) => return "exists",
            Some(Item::Value(_)) => return "incompatible",
            None => drop(tree.items.insert(name.clone(), Item::Bucket(Tree::default()))),
        },
        Op::DeleteBucket(name) => match tree.items.get(name) {
            Some(Item::Bucket(_)) => drop(tree.items.remove(name)),
            Some(Item::Value(_)) => return "incompatible",
            None => return "missing",
        },
        Op::Sequence(sequence) => tree.sequence = *sequence,
        Op::NextSequence => tree.sequence = tree.sequence.wrapping_add(1),
        Op::Enter(_) | Op::Leave => {}
    }
    "ok"
}

fn in_engine(bucket: &mut BucketMut<'_>, op: &Op) -> Result<(), Error> {
    match op {
        Op::Put(key, len, byte) => bucket.put(key, &vec![*byte; *len]),
        Op::Fill(start, count, len) => {
            (*start..start + count).try_for_each(|n| bucket.put(&number(n), &vec![b'x'; *len]))
        }
        Op::Drain(start, count) => {
            (*start..start + count).try_for_each(|n| bucket.delete(&number(n)))
        }
        Op::Delete(key) => bucket.delete(key),
        Op::Create(name) => bucket.create_bucket(name).map(drop),
        Op::DeleteBucket(name) => bucket.delete_bucket(name),
        Op::Sequence(sequence) => {
            bucket.set_sequence(*sequence);
            Ok(())
        }
        Op::NextSequence => bucket.next_sequence().map(drop),
        Op::Enter(_) | Op::Leave => Ok(()),
    }
}

fn kind(result: &Result<(), Error>) -> &'static str {
    match result {
        Ok(()) => "ok",
        Err(Error::IncompatibleValue { .. }) => "incompatible",
        Err(Error::BucketExists { .. }) => "exists",
        Err(Error::BucketNotFound { .. }) => "missing",
        Err(_) => "other",
    }
}

fn at<'t>(tree: &'t mut Tree, path: &[Vec<u8>]) -> &'t mut Tree {
    path.iter().fold(tree, |tree, name| match tree.items.get_mut(name) {
        Some(Item::Bucket(tree)) => tree,
        other => panic!("{name:?} is {other:?}"),
    })
}

/// Runs `ops` on both; the model is returned.
fn run(tx: &mut WriteTx<'_>, mut tree: Tree, ops: &[Op]) -> Result<Tree, Error> {
    let mut path: Vec<Vec<u8>> = Vec::new();
    for op in ops {
        match op {
            Op::Enter(name) => {
                if matches!(at(&mut tree, &path).items.get(name), Some(Item::Bucket(_))) {
                    path.push(name.clone());
                }
            }
            Op::Leave => path.clear(),
            op => {
                let names: Vec<&[u8]> = path.iter().map(Vec::as_slice).collect();
                let mut root = tx.root();
                let mut bucket = root.bucket_path(&names)?.unwrap();
                let expected = in_model(at(&mut tree, &path), op);
                let answer = in_engine(&mut bucket, op);
                assert_eq!(kind(&answer), expected, "{op:?}: {answer:?}");
            }
        }
    }
    assert_eq!(read(tx.read())?, tree, "a transaction sees its own writes");
    Ok(tree)
}

fn scenario(page_size: u32, transactions: Vec<Transaction>) {
    let folder = folder();
    let path = folder.path().join("model.db");
    let mut db = Db::open(&path, options(true, page_size)).unwrap();
    let mut model = Tree::default();
    for transaction in transactions {
        let Transaction { ops, fails, reopen, stored } = transaction;
        let before = model.clone();
        let result = db.update(move |tx| {
            let tree = run(tx, before, &ops)?;
            if fails { Err(Error::Closed) } else { Ok(tree) }
        });
        match result {
            Ok(tree) => model = tree,
            Err(Error::Closed) => assert!(fails),
            Err(error) => panic!("{error}"),
        }
        if reopen {
            drop(db);
            let report = store_bolt::check(&path).unwrap();
            assert!(report.is_clean(), "{:?}", report.problems);
            db = Db::open(&path, options(stored, page_size)).unwrap();
        }
        assert_eq!(verified(&db), model);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 40, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn any_history_reads_as_the_model(
        page_size in prop_oneof![
            4 => Just(4096u32), 1 => Just(1024), 1 => Just(16384), 1 => Just(65536)
        ],
        transactions in proptest::collection::vec(transaction(), 1..12),
    ) {
        scenario(page_size, transactions);
    }
}

#[test]
fn a_large_bucket_grows_in_any_order_and_shrinks_to_nothing() {
    for (page_size, stored) in [(4096, true), (4096, false), (16384, true), (65536, false)] {
        let folder = folder();
        let db = Db::open(folder.path().join("x"), options(stored, page_size)).unwrap();
        let mut expected = BTreeMap::new();
        let key = |n: u64| (n.wrapping_mul(0x9E37_79B9_7F4A_7C15)).to_be_bytes().to_vec();
        for chunk in 0..5u64 {
            db.update(move |tx| {
                let mut bucket = tx.create_bucket_if_missing(&[b"b"])?;
                (chunk * 1500..(chunk + 1) * 1500)
                    .try_for_each(|n| bucket.put(&key(n), format!("value {n}").as_bytes()))
            })
            .unwrap();
            for n in chunk * 1500..(chunk + 1) * 1500 {
                expected.insert(key(n), Item::Value(format!("value {n}").into_bytes()));
            }
            let tree = verified(&db);
            assert_eq!(
                tree.items[&b"b".to_vec()],
                Item::Bucket(Tree { sequence: 0, items: expected.clone() })
            );
        }
        let pages = db.stats().pages;
        for chunk in 0..5u64 {
            db.update(move |tx| {
                let mut root = tx.root();
                let mut bucket = root.bucket(b"b")?.unwrap();
                (chunk * 1500..(chunk + 1) * 1500).try_for_each(|n| bucket.delete(&key(n)))
            })
            .unwrap();
            verified(&db);
        }
        let tx = db.view().unwrap();
        assert!(tx.bucket(b"b").unwrap().unwrap().is_empty().unwrap());
        // Deleting needs room for a copy, not more.
        assert!(db.stats().pages <= pages * 2, "{} of {pages}", db.stats().pages);
    }
}
