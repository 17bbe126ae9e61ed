//! bbolt's file format: read, write, check, salvage.
//!
//! A database is one file of pages: two metas with checksums, B+ trees of keys, buckets nested in
//! buckets, and (by choice of the file's owner) a stored free list. Files made by bbolt open here
//! and files made here open in bbolt, at any page size.
//!
//! * [`Db`] is a cheap handle; [`Db::view`] gives a [`ReadTx`], [`Db::update`] and
//!   [`Db::update_async`] run a closure on a [`WriteTx`].
//! * [`Bucket`] reads, in both kinds of transaction; [`BucketMut`] writes.
//! * [`check`], [`dump`], [`salvage`], [`examine`], [`fall_back`] and [`fill`] work on files;
//!   [`Db::backup`] makes a copy.
//!
//! Errors are [`Error`]. The laws:
//!
//! * Readers never block the writer, nor the writer readers: a reader holds its mapping and a
//!   copied meta, and the pages that it can reach are not reused while it lives.
//! * Closures that wait at the same time share one commit. Each is its own savepoint.
//! * A commit is two writes and two syncs: pages, then the meta that makes them the record.
//! * Damage gives an error that names the page; never a panic, never an endless loop.
#![deny(unsafe_op_in_unsafe_fn)]

mod backup;
mod bucket_mut;
mod commit;
mod db;
mod error;
mod file;
mod free;
mod inspect;
mod layout;
mod node;
mod queue;
mod read;
mod rebalance;
mod scan;
mod snapshot;
mod spill;
pub mod value;

pub use backup::{Backup, Examination, examine, fall_back};
pub use bucket_mut::{BucketMut, WriteTx};
pub use db::{Db, Options, Probe, Stats, Step};
pub use error::Error;
pub use inspect::{Problem, Report, check, dump, fill, salvage};
pub use read::{Bucket, Entry, Iter, ReadTx};
