//! The rules of containerd's services, through gRPC, one test for each.
//!
//! | rule | test |
//! | --- | --- |
//! | headers: namespace required, valid; lease known | `headers::*` |
//! | identifiers of containers and namespaces | `headers::identifiers_*` |
//! | topics begin with `/`, segments are identifiers | `runtime/event` tests |
//! | container: masks, empty mask, immutable fields, required fields | `containers::*` |
//! | label value "" deletes; key and value up to 4096 bytes | `*::labels_*`, `leases::*` |
//! | image: masks, full replacement, created_at, target, deletion of a target, `sync` | `images::*` |
//! | content: masks, immutable size; read, clamp, beyond the end; frames of 1 MiB | `content::*` |
//! | digests of three algorithms | `content::digests_*` |
//! | content: blocks of 100 with updated_at | `content::lists_*` |
//! | content write protocol: ref, offset, total, expected, commit, stat, abort | `writes::*` |
//! | one writer for a ref | `writes::one_writer_*` |
//! | sharing policy `shared`, `isolated`, label `shareable` | `writes::shared_*`, `writes::isolated_*` |
//! | an ingest without lease expires after a day | `writes::an_ingest_*`, `store/metadata` tests |
//! | snapshot: masks, children, kinds, keys, parents, snapshotters, blocks of 100 | `snapshots::*` |
//! | namespace: masks, create, delete with the kinds that are left | `namespaces::*` |
//! | sandbox: masks, immutable runtime, missing ones | `sandboxes::*` |
//! | lease: ids, kinds of resources, deletion, `sync` | `leases::*` |
//! | the lease header on every call that creates | `leases::every_creating_call_*` |
//! | filters: grammar and adaptors | `filters::*`, `base/ident` tests |
//! | events: topics and payloads | `events::*` |
//! | events of clients; filters of plugins and metrics | `tests/it`: `rules` |
//! | mount, task and transfer rules | `runtime/supervisor`, `image/transfer`, `tests/it` |

mod containers;
mod content;
mod events;
mod filters;
mod headers;
mod images;
mod leases;
mod namespaces;
mod sandboxes;
mod snapshots;
mod writes;

use std::collections::BTreeMap;

use api_grpc::content::{WriteAction, WriteContentRequest, WriteContentResponse};
use api_shim::types::Descriptor;
use prost_types::{Any, FieldMask};
use sha2::{Digest as _, Sha256};
use tonic::{Code, Request, Response, Status};

use super::daemon::{Daemon, call, daemon, daemon_with, folder, in_namespace, leased};

/// A daemon that goes with its folder.
pub(super) struct World {
    daemon: Daemon,
    _folder: tempfile::TempDir,
}

impl std::ops::Deref for World {
    type Target = Daemon;

    fn deref(&self) -> &Daemon {
        &self.daemon
    }
}

async fn world() -> World {
    let folder = folder();
    World { daemon: daemon(&folder.path().join("d")).await, _folder: folder }
}

async fn isolated() -> World {
    let folder = folder();
    let policy = store_content::SharingPolicy::Isolated;
    World { daemon: daemon_with(&folder.path().join("d"), policy).await, _folder: folder }
}

/// The answer of a call that must work.
#[track_caller]
fn ok<T>(answer: Result<Response<T>, Status>) -> T {
    answer.unwrap().into_inner()
}

/// A call must fail with this code and text.
#[track_caller]
fn fails<T: std::fmt::Debug>(answer: Result<Response<T>, Status>, code: Code, text: &str) {
    let status = answer.unwrap_err();
    assert_eq!(status.code(), code, "{status}");
    assert!(status.message().contains(text), "{:?} in {:?}", text, status.message());
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn mask(paths: &[&str]) -> Option<FieldMask> {
    Some(FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() })
}

fn any(text: &str) -> Any {
    Any { type_url: "test/Any".to_owned(), value: text.as_bytes().to_vec() }
}

fn sha256(bytes: &[u8]) -> String {
    let mut text = "sha256:".to_owned();
    for byte in Sha256::digest(bytes) {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

fn descriptor(digest: &str) -> Option<Descriptor> {
    Some(Descriptor {
        media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
        digest: digest.to_owned(),
        size: 11,
        annotations: BTreeMap::new(),
    })
}

/// A frame of the write protocol.
fn frame(action: WriteAction, reference: &str, offset: i64, data: &[u8]) -> WriteContentRequest {
    WriteContentRequest {
        action: action.into(),
        r#ref: reference.to_owned(),
        offset,
        data: data.to_vec().into(),
        ..WriteContentRequest::default()
    }
}

/// Sends frames in one write; gives the answers up to the first error.
async fn write(
    world: &World,
    wrap: impl Fn(
        tokio_stream::Iter<std::vec::IntoIter<WriteContentRequest>>,
    ) -> Request<tokio_stream::Iter<std::vec::IntoIter<WriteContentRequest>>>,
    frames: Vec<WriteContentRequest>,
) -> Result<Vec<WriteContentResponse>, Status> {
    let mut answers = world.content().write(wrap(tokio_stream::iter(frames))).await?.into_inner();
    let mut all = Vec::new();
    while let Some(answer) = answers.message().await? {
        all.push(answer);
    }
    Ok(all)
}

/// Makes a blob of `data`; gives its digest.
async fn put(world: &World, data: &[u8], on: &[(&str, &str)]) -> String {
    let reference = format!("put-{}", sha256(data));
    let mut commit = frame(WriteAction::Commit, &reference, 0, data);
    commit.labels = labels(on);
    write(world, call, vec![commit]).await.unwrap();
    sha256(data)
}
