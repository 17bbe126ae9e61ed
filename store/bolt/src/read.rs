//! Reading: transactions, buckets, iterators.

use std::marker::PhantomData;

use crate::Error;

/// A snapshot of the database. It stays as it is while commits go on, and keeps its pages from
/// being reused: hold it for as long as needed and no longer. Never blocks a writer.
#[derive(Clone)]
pub struct ReadTx {}

impl ReadTx {
    /// The bucket that holds all others.
    pub fn root(&self) -> Bucket<'_> {
        Bucket { life: PhantomData }
    }

    /// The top bucket `name`, if there is one.
    pub fn bucket(&self, name: &[u8]) -> Result<Option<Bucket<'_>>, Error> {
        self.root().bucket(name)
    }

    /// The number of the commit that made this state.
    pub fn txid(&self) -> u64 {
        0
    }
}

/// A bucket to read, of a [`ReadTx`] or of a write transaction.
#[derive(Clone, Copy)]
pub struct Bucket<'a> {
    life: PhantomData<&'a ()>,
}

impl<'a> Bucket<'a> {
    /// The value at `key`; none if it is absent or a bucket.
    pub fn get(&self, _key: &[u8]) -> Result<Option<&'a [u8]>, Error> {
        Ok(None)
    }

    /// The bucket `name` in this one; none if it is absent or a value.
    pub fn bucket(&self, _name: &[u8]) -> Result<Option<Bucket<'a>>, Error> {
        Ok(None)
    }

    /// The bucket found by going down `names`.
    pub fn path(&self, names: &[&[u8]]) -> Result<Option<Bucket<'a>>, Error> {
        let mut bucket = *self;
        for name in names {
            match bucket.bucket(name)? {
                Some(next) => bucket = next,
                None => return Ok(None),
            }
        }
        Ok(Some(bucket))
    }

    /// The bucket's sequence number.
    pub fn sequence(&self) -> u64 {
        0
    }

    /// All entries in the order of their keys.
    pub fn iter(&self) -> Iter<'a> {
        Iter { life: PhantomData }
    }

    /// The entries from `start` on (the first key that is not less).
    pub fn range_from(&self, _start: &[u8]) -> Iter<'a> {
        Iter { life: PhantomData }
    }

    /// True if there is neither a value nor a bucket.
    pub fn is_empty(&self) -> Result<bool, Error> {
        Ok(true)
    }
}

/// What a key holds.
#[derive(Clone, Copy)]
pub enum Entry<'a> {
    /// A value.
    Value(&'a [u8]),
    /// A nested bucket.
    Bucket(Bucket<'a>),
}

/// Entries of a bucket in the order of their keys. Ends after its first error.
pub struct Iter<'a> {
    life: PhantomData<&'a ()>,
}

impl<'a> Iterator for Iter<'a> {
    type Item = Result<(&'a [u8], Entry<'a>), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        None
    }
}
