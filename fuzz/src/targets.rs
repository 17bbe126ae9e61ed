//! The functions under test.

use std::fmt;
use std::io::Read;

use api_shim::{Any, Message as _, Name, bootstrap, cgroups, events, runc, task, types, typeurl};
use base_ident::filter::{Adaptor, Filter};
use base_ident::{Digest, FieldPath, Namespace, timestamp};
use image_transfer::{Config, Index, Manifest, OciDescriptor, Platform};
use store_diff::media::Compression;
use store_diff::tar::TarReader;

use crate::mend;

/// Bytes that a target reads of a stream at most: a few bytes can say gigabytes of zeros, which is
/// no fault; who reads such a stream stores or counts them.
const MAX_OUTPUT: u64 = 1 << 20;

/// A folder in memory, if there is one.
fn folder() -> tempfile::TempDir {
    let memory = std::path::Path::new("/dev/shm");
    let folder =
        if memory.is_dir() { tempfile::TempDir::new_in(memory) } else { tempfile::TempDir::new() };
    folder.unwrap_or_else(|error| panic!("a folder for files: {error}"))
}

/// Reads an archive to its end.
pub fn tar(data: &[u8]) {
    let data = &*mend::tar(data);
    let mut reader = TarReader::new(data);
    let mut left = MAX_OUTPUT;
    while let Ok(Some(_entry)) = reader.next_entry() {
        loop {
            let count = match reader.data() {
                Ok([]) => break,
                Ok(data) => data.len(),
                Err(_) => return,
            };
            reader.consume(count);
            left = left.saturating_sub(count as u64);
            if left == 0 {
                return;
            }
        }
    }
}

/// Applies a layer to a folder; nothing may appear beside it.
pub fn layer(data: &[u8]) {
    let outer = folder();
    let root = outer.path().join("root");
    if std::fs::create_dir(&root).is_err() {
        return;
    }
    let data = &*mend::tar(data);
    let _ = store_diff::apply_tar(data, &store_diff::Target::folder(&root));
    let beside = std::fs::read_dir(outer.path()).map_or(0, Iterator::count);
    assert_eq!(beside, 1, "the layer has left its folder");
}

fn inflate(data: &[u8]) {
    if let Ok(stream) = store_diff::decompress(data, Compression::Detect) {
        let _ = std::io::copy(&mut stream.take(MAX_OUTPUT), &mut std::io::sink());
    }
}

/// Reads a gzip stream.
pub fn gzip(data: &[u8]) {
    inflate(data);
}

/// Reads a zstd stream.
pub fn zstd(data: &[u8]) {
    inflate(data);
}

/// Takes text up to a bound.
struct Bounded(usize);

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 = self.0.checked_sub(text.len()).ok_or(fmt::Error)?;
        Ok(())
    }
}

/// Checks, dumps, salvages and opens a database; writes to it if it is clean.
pub fn bolt(data: &[u8]) {
    let folder = folder();
    let path = folder.path().join("db");
    if std::fs::write(&path, mend::bolt(data)).is_err() {
        return;
    }
    let clean = store_bolt::check(&path).is_ok_and(|report| report.is_clean());
    let _ = store_bolt::dump(&path, &mut Bounded(4 << 20));
    let saved = folder.path().join("saved");
    if store_bolt::salvage(&path, &saved).is_ok() {
        let saved = store_bolt::check(&saved);
        assert!(saved.is_ok_and(|report| report.is_clean()), "what is salvaged is whole");
    }
    let no_wait = Some(std::time::Duration::ZERO);
    let options = store_bolt::Options { lock_timeout: no_wait, ..store_bolt::Options::default() };
    let Ok(db) = store_bolt::Db::open(&path, options) else { return };
    let written = db.update(|tx| -> Result<(), store_bolt::Error> {
        tx.create_bucket_if_missing(&[b"v1", b"new"])?.put(b"key", b"value")
    });
    drop(db);
    if clean && written.is_ok() {
        let after = store_bolt::check(&path);
        assert!(after.is_ok_and(|report| report.is_clean()), "a clean database stays clean");
    }
}

/// An object that has all fields.
struct Echo;

impl Adaptor for Echo {
    fn field(&self, path: &[&str]) -> Option<String> {
        Some(path.join("."))
    }
}

/// Parses a filter and asks it.
pub fn filter(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(filter) = Filter::parse_all(&[text]) {
        let _ = filter.matches(&Echo);
    }
}

/// Parses a text as each of the values that clients name things by.
pub fn references(data: &[u8]) {
    let text = &*String::from_utf8_lossy(data);
    if let Ok(full) = image_transfer::normalize(text) {
        assert_eq!(image_transfer::normalize(&full).ok().as_deref(), Some(&*full));
        let _ = image_transfer::familiar(&full);
        let _ = image_transfer::reference_object(&full);
    }
    if let Ok(digest) = Digest::parse(text) {
        assert_eq!(digest.as_str(), text);
    }
    if let Some(platform) = Platform::parse(text) {
        let _ = platform.normalized().text();
    }
    let _ = Namespace::new(text);
    let _ = base_ident::validate_identifier(text);
    let _ = FieldPath::parse(text);
    if let Ok(time) = timestamp::parse(text) {
        let _ = timestamp::format(time);
    }
}

/// Parses a document of an image as each of the kinds.
pub fn documents(data: &[u8]) {
    let check = |descriptor: &OciDescriptor| {
        let _ = descriptor.to_descriptor();
        let _ = descriptor.annotation("io.containerd.image.name");
    };
    if let Ok(index) = serde_json::from_slice::<Index>(data) {
        index.manifests.iter().flatten().for_each(check);
    }
    if let Ok(manifest) = serde_json::from_slice::<Manifest>(data) {
        check(&manifest.config);
        manifest.layers.iter().flatten().for_each(check);
    }
    let _ = serde_json::from_slice::<Config>(data);
}

fn one<M: api_shim::Message + Name + Default>(packed: &Any, data: &[u8]) {
    let _ = typeurl::decode::<M>(packed);
    let _ = M::decode(data);
    let _ = M::decode(packed.value.as_slice());
}

/// Decodes a packed message as what it says, and its bytes as each of the messages.
pub fn any(data: &[u8]) {
    let packed = Any::decode(data).unwrap_or_default();
    one::<events::TaskExit>(&packed, data);
    one::<events::TaskCreate>(&packed, data);
    one::<events::ContainerCreate>(&packed, data);
    one::<runc::Options>(&packed, data);
    one::<runc::CheckpointOptions>(&packed, data);
    one::<task::CreateTaskRequest>(&packed, data);
    one::<task::StateResponse>(&packed, data);
    one::<bootstrap::BootstrapParams>(&packed, data);
    one::<types::Sandbox>(&packed, data);
    one::<cgroups::v1::Metrics>(&packed, data);
    one::<cgroups::v2::Metrics>(&packed, data);
}
