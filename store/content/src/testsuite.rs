//! The contract of a content store, as code that every implementation and its proxy runs.
//!
//! Call [`run`] from a test with a function that gives an empty store each time. It panics where a
//! store does not keep the contract. It needs a runtime with time.
#![expect(clippy::unwrap_used, reason = "a test: panics are its answers")]

mod blobs;
mod ingests;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use base_errors::Error;
use base_ident::{Algorithm, Digest, Labels};
use bytes::Bytes;

use crate::store::{Info, Store, WriteOptions, Writer};
use crate::{ContentReader, Hasher};

/// What a store under test can do beside the common contract.
#[derive(Clone, Copy, Debug)]
pub struct Abilities {
    /// It keeps labels.
    pub labels: bool,
    /// The digest of an open writer is known between writes (not through a proxy).
    pub running_digest: bool,
}

/// A function that makes an empty store.
pub type Make<'a> = dyn Fn() -> Pin<Box<dyn Future<Output = Arc<dyn Store>> + Send>> + Sync + 'a;

/// Runs all tests, each on a store of its own.
///
/// # Panics
/// If the store does not keep the contract.
pub async fn run(make: &Make<'_>, abilities: Abilities) {
    blobs::write_and_read(&*make().await, abilities).await;
    blobs::empty_blob(&*make().await).await;
    blobs::sizes_around_buffers(&*make().await).await;
    blobs::read_at_offsets(make().await).await;
    blobs::missing(&*make().await, abilities).await;
    blobs::delete(&*make().await).await;
    blobs::list(&*make().await).await;
    blobs::other_algorithms(&*make().await).await;
    if abilities.labels {
        blobs::update_labels(&*make().await).await;
        blobs::label_filters(&*make().await).await;
    }
    ingests::status(&*make().await, abilities).await;
    ingests::resume(&*make().await).await;
    ingests::reference_lock(&*make().await).await;
    ingests::abort(&*make().await).await;
    ingests::truncate(&*make().await).await;
    ingests::wrong_size(&*make().await).await;
    ingests::wrong_digest(&*make().await).await;
    ingests::existing_content(&*make().await).await;
    ingests::commit_is_the_end(&*make().await).await;
    ingests::concurrent_writers(make().await).await;
    ingests::same_content_twice(make().await).await;
    ingests::bad_requests(&*make().await).await;
}

/// `length` bytes that depend on `seed`, without a pattern that a bug in offsets could hide in.
#[must_use]
pub fn bytes(seed: u64, length: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes.into()
}

/// The SHA-256 of `data`.
#[must_use]
pub fn digest(data: &[u8]) -> Digest {
    Hasher::hash(Algorithm::Sha256, data)
}

async fn open(store: &dyn Store, reference: &str) -> Box<dyn Writer> {
    try_open(store, reference, 0, None).await.unwrap()
}

async fn try_open(
    store: &dyn Store,
    reference: &str,
    total: u64,
    expected: Option<&Digest>,
) -> Result<Box<dyn Writer>, Error> {
    let options =
        WriteOptions { reference: reference.to_owned(), total, expected: expected.cloned() };
    store.writer(options).await
}

/// Writes a blob in one go.
///
/// # Panics
/// If the store refuses it.
pub async fn put(store: &dyn Store, reference: &str, data: &Bytes, labels: Labels) -> Digest {
    let mut writer = open(store, reference).await;
    writer.write(data.clone()).await.unwrap();
    writer.commit(data.len() as u64, Some(&digest(data)), labels).await.unwrap()
}

/// Reads a whole blob through its reader.
///
/// # Panics
/// If it cannot be read.
pub async fn read(store: &dyn Store, digest: &Digest) -> Vec<u8> {
    let reader = store.reader(digest).await.unwrap();
    tokio::task::spawn_blocking(move || {
        let mut data = vec![0; usize::try_from(reader.size()).unwrap()];
        fill(&*reader, &mut data, 0);
        assert_eq!(reader.read_at(&mut [0; 8], reader.size()).unwrap(), 0, "behind the end");
        data
    })
    .await
    .unwrap()
}

fn fill(reader: &dyn ContentReader, buffer: &mut [u8], offset: u64) {
    let mut filled = 0;
    while filled < buffer.len() {
        let count = reader.read_at(&mut buffer[filled..], offset + filled as u64).unwrap();
        assert_ne!(count, 0, "blob ends early");
        filled += count;
    }
}

fn named(infos: &[Info], digest: &Digest) -> bool {
    infos.iter().any(|info| info.digest == *digest)
}

#[track_caller]
fn refused<T>(result: Result<T, Error>, class: base_errors::Class) -> String {
    match result {
        Ok(_) => panic!("should have been refused with {class}"),
        Err(error) => {
            assert_eq!(error.class(), class, "{error}");
            error.to_string()
        }
    }
}
