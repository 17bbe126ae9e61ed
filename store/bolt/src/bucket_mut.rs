//! Writing: the write transaction and its buckets.

use std::marker::PhantomData;

use crate::{Bucket, Error};

/// A write transaction, as a closure of [`crate::Db::update`] sees it.
pub struct WriteTx<'a> {
    life: PhantomData<&'a mut ()>,
}

impl WriteTx<'_> {
    /// The bucket that holds all others, to write.
    pub fn root(&mut self) -> BucketMut<'_> {
        BucketMut { life: PhantomData }
    }

    /// The bucket that holds all others, to read; sees this transaction's own writes.
    pub fn read(&self) -> Bucket<'_> {
        unreachable!()
    }

    /// The top bucket `name`, if there is one.
    pub fn bucket(&mut self, _name: &[u8]) -> Result<Option<BucketMut<'_>>, Error> {
        Ok(None)
    }

    /// The bucket at `path`; those that are missing on the way are created.
    pub fn create_bucket_if_missing(&mut self, _path: &[&[u8]]) -> Result<BucketMut<'_>, Error> {
        Err(Error::Closed)
    }

    /// Runs `f` after the commit is durable, before the update's caller hears of it. Dropped
    /// unrun if the closure or the commit fails.
    pub fn on_commit(&mut self, _f: impl FnOnce() + Send + 'static) {}
}

/// A bucket to write.
pub struct BucketMut<'a> {
    life: PhantomData<&'a mut ()>,
}

impl BucketMut<'_> {
    /// This bucket, to read.
    pub fn as_read(&self) -> Bucket<'_> {
        unreachable!()
    }

    /// The value at `key`; none if it is absent or a bucket.
    pub fn get(&self, key: &[u8]) -> Result<Option<&[u8]>, Error> {
        self.as_read().get(key)
    }

    /// The bucket `name` in this one; none if it is absent or a value.
    pub fn bucket(&mut self, _name: &[u8]) -> Result<Option<BucketMut<'_>>, Error> {
        Ok(None)
    }

    /// The bucket found by going down `names`.
    pub fn bucket_path(&mut self, _names: &[&[u8]]) -> Result<Option<BucketMut<'_>>, Error> {
        Ok(None)
    }

    /// Creates the bucket `name`.
    pub fn create_bucket(&mut self, _name: &[u8]) -> Result<BucketMut<'_>, Error> {
        Err(Error::Closed)
    }

    /// The bucket `name`, created if it is missing.
    pub fn create_bucket_if_missing(&mut self, _name: &[u8]) -> Result<BucketMut<'_>, Error> {
        Err(Error::Closed)
    }

    /// Sets `key` to `value`, which may be empty.
    pub fn put(&mut self, _key: &[u8], _value: &[u8]) -> Result<(), Error> {
        Ok(())
    }

    /// Removes the value at `key`. It is no error if there is none.
    pub fn delete(&mut self, _key: &[u8]) -> Result<(), Error> {
        Ok(())
    }

    /// Removes the bucket `name` and all in it.
    pub fn delete_bucket(&mut self, _name: &[u8]) -> Result<(), Error> {
        Ok(())
    }

    /// The bucket's sequence number.
    pub fn sequence(&self) -> u64 {
        0
    }

    /// Sets the sequence number.
    pub fn set_sequence(&mut self, _sequence: u64) {}

    /// Adds one to the sequence number and returns it.
    pub fn next_sequence(&mut self) -> Result<u64, Error> {
        Ok(0)
    }
}
