//! Databases in temporary folders, and short ways to make records.

use std::path::Path;

use base_ident::filter::Filter;
use base_ident::{Descriptor, Digest, Labels, Namespace};
use store_metadata::{
    Any, Container, Image, Metadata, NewSnapshot, Options, Reserved, Runtime, Scope, Update, View,
};
use tempfile::TempDir;

/// A database in a folder that goes with it.
pub(crate) struct Fresh {
    pub(crate) metadata: Metadata,
    pub(crate) folder: TempDir,
}

pub(crate) fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { TempDir::new_in(memory).unwrap() } else { TempDir::new().unwrap() }
}

pub(crate) fn fresh() -> Fresh {
    let folder = folder();
    let metadata = open(&folder.path().join("meta.db"));
    Fresh { metadata, folder }
}

pub(crate) fn open(path: &Path) -> Metadata {
    Metadata::open(path, Options::default()).unwrap()
}

impl Fresh {
    /// Runs an update that must work.
    pub(crate) fn update<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Update<'_, '_>) -> base_errors::Result<T> + Send + 'static,
    ) -> T {
        self.metadata.update_blocking(f).unwrap()
    }

    /// Runs an update that must fail, and gives its text.
    pub(crate) fn fails<T: Send + 'static + std::fmt::Debug>(
        &self,
        f: impl FnOnce(&mut Update<'_, '_>) -> base_errors::Result<T> + Send + 'static,
    ) -> String {
        self.metadata.update_blocking(f).unwrap_err().to_string()
    }

    pub(crate) fn view<T>(&self, f: impl FnOnce(&View<'_>) -> base_errors::Result<T>) -> T {
        self.metadata.view(f).unwrap()
    }
}

pub(crate) fn ns() -> Namespace {
    Namespace::new("default").unwrap()
}

pub(crate) fn scope() -> Scope {
    Scope::new(ns())
}

pub(crate) fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

pub(crate) fn mask(paths: &[&str]) -> Vec<String> {
    paths.iter().map(|path| (*path).to_owned()).collect()
}

pub(crate) fn filter(expressions: &[&str]) -> Filter {
    Filter::parse_all(expressions).unwrap()
}

/// A digest that `number` tells from others.
pub(crate) fn digest(number: usize) -> Digest {
    Digest::parse(&format!("sha256:{number:064x}")).unwrap()
}

pub(crate) fn any(url: &str, value: &str) -> Any {
    Any { type_url: url.to_owned(), value: value.as_bytes().to_vec() }
}

pub(crate) fn image(name: &str, target: usize) -> Image {
    Image {
        name: name.to_owned(),
        labels: Labels::new(),
        target: Descriptor {
            media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
            digest: digest(target),
            size: 11,
            annotations: Labels::new(),
        },
        created_at: std::time::UNIX_EPOCH,
        updated_at: std::time::UNIX_EPOCH,
    }
}

pub(crate) fn container(id: &str) -> Container {
    Container {
        id: id.to_owned(),
        runtime: Runtime { name: "io.containerd.runc.v2".to_owned(), options: None },
        spec: Some(any("types.containerd.io/opencontainers/runtime-spec/1/Spec", "{}")),
        ..Container::default()
    }
}

/// Records a snapshot as a composer would, without a backend.
pub(crate) fn snapshot(
    tx: &mut Update<'_, '_>,
    scope: &Scope,
    key: &str,
    parent: &str,
    labels: &Labels,
) -> base_errors::Result<String> {
    let reserved = tx.reserve_snapshot(scope, "overlayfs", key, parent, None, labels)?;
    let Reserved::New { backend, parent: backend_parent } = reserved else {
        panic!("{key} is there already")
    };
    let new = NewSnapshot {
        key: key.to_owned(),
        backend: backend.clone(),
        parent: parent.to_owned(),
        backend_parent,
        labels: labels.clone(),
        times: None,
    };
    tx.record_snapshot(scope, "overlayfs", &new)?;
    Ok(backend)
}

/// Gives a namespace a blob.
pub(crate) fn blob(
    tx: &mut Update<'_, '_>,
    scope: &Scope,
    number: usize,
    labels: &Labels,
) -> base_errors::Result<()> {
    tx.open_ingest(scope, &format!("ref-{number}"), None, false)?;
    tx.commit_ingest(scope, &format!("ref-{number}"), &digest(number), 11, labels.clone())?
        .into_result()?;
    Ok(())
}
