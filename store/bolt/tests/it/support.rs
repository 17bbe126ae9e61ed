//! Temp folders in memory, a model of a database, and random numbers.

use std::collections::BTreeMap;
use std::path::Path;

use store_bolt::{Bucket, BucketMut, Db, Entry, Error, Options};

/// A temp folder on tmpfs, where a sync costs nothing.
pub(crate) fn folder() -> tempfile::TempDir {
    let shm = Path::new("/dev/shm");
    if shm.is_dir() { tempfile::tempdir_in(shm).unwrap() } else { tempfile::tempdir().unwrap() }
}

/// What a database should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tree {
    pub(crate) sequence: u64,
    pub(crate) items: BTreeMap<Vec<u8>, Item>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    Value(Vec<u8>),
    Bucket(Tree),
}

/// All that is below `bucket`.
pub(crate) fn read(bucket: Bucket<'_>) -> Result<Tree, Error> {
    let mut tree = Tree { sequence: bucket.sequence(), ..Tree::default() };
    for entry in bucket.iter() {
        let (key, entry) = entry?;
        let item = match entry {
            Entry::Value(value) => Item::Value(value.to_vec()),
            Entry::Bucket(bucket) => Item::Bucket(read(bucket)?),
        };
        tree.items.insert(key.to_vec(), item);
    }
    Ok(tree)
}

/// Puts all of `tree` below `bucket`.
pub(crate) fn write(tree: &Tree, bucket: &mut BucketMut<'_>) -> Result<(), Error> {
    bucket.set_sequence(tree.sequence);
    for (key, item) in &tree.items {
        match item {
            Item::Value(value) => bucket.put(key, value)?,
            Item::Bucket(tree) => write(tree, &mut bucket.create_bucket_if_missing(key)?)?,
        }
    }
    Ok(())
}

/// The state of `db`, each key also found by a look-up, and the file found clean.
pub(crate) fn verified(db: &Db) -> Tree {
    let report = db.check();
    assert!(report.is_clean(), "{:?}", report.problems);
    let tx = db.view().unwrap();
    let tree = read(tx.root()).unwrap();
    look_up(tx.root(), &tree);
    tree
}

fn look_up(bucket: Bucket<'_>, tree: &Tree) {
    for (key, item) in &tree.items {
        match item {
            Item::Value(value) => assert_eq!(bucket.get(key).unwrap(), Some(value.as_slice())),
            Item::Bucket(tree) => look_up(bucket.bucket(key).unwrap().unwrap(), tree),
        }
        let first = bucket.range_from(key).next().unwrap().unwrap();
        assert_eq!(first.0, key.as_slice());
    }
}

/// Options for a file of `page_size`.
pub(crate) fn options(store_freelist: bool, page_size: u32) -> Options {
    Options { store_freelist, page_size: Some(page_size), ..Options::default() }
}

/// A small generator of random numbers (xorshift), to be independent of any crate's stream.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(crate) fn index(&mut self, end: usize) -> usize {
        usize::try_from(self.below(end as u64)).unwrap()
    }
}
