//! The contract of a snapshotter, as code that every implementation and its proxy runs.
//!
//! Call [`run`] from a test with a function that gives an empty snapshotter each time. It panics
//! where a snapshotter does not keep the contract. The trees are mounted: it needs root and a
//! mount namespace of the test's own, and a folder for mount points.
#![expect(clippy::unwrap_used, reason = "a test: panics are its answers")]

mod records;
mod trees;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use base_errors::{Class, Error};
use base_ident::Labels;
use kernel_mount::{Mount, TempMount};

use crate::labels::LABEL_INHERITED_PREFIX;
use crate::snapshotter::{Kind, Snapshotter};

/// What a snapshotter under test can do beside the common contract.
#[derive(Clone, Copy, Debug)]
pub struct Abilities {
    /// Parentless snapshots can be committed onto a parent.
    pub rebase: bool,
    /// Usage tells what is in a tree, file by file; otherwise it tells of an image or a device.
    pub exact_usage: bool,
}

/// A function that makes an empty snapshotter.
pub type Make<'a> =
    dyn Fn() -> Pin<Box<dyn Future<Output = Arc<dyn Snapshotter>> + Send>> + Sync + 'a;

/// Runs all tests, each on a snapshotter of its own. `work` is a folder for mount points and data.
///
/// # Panics
/// If the snapshotter does not keep the contract.
pub async fn run(make: &Make<'_>, work: &Path, abilities: Abilities) {
    let test = |snapshots| Test { snapshots, work: work.to_owned() };
    records::prepare_and_commit(&test(make().await)).await;
    records::views(&test(make().await)).await;
    records::bad_keys(&test(make().await)).await;
    records::parents(&test(make().await)).await;
    records::remove_order(&test(make().await)).await;
    records::labels(&test(make().await)).await;
    records::filters(&test(make().await)).await;
    records::cleanup(&test(make().await)).await;
    records::concurrent(&test(make().await)).await;
    if abilities.rebase {
        records::rebase(&test(make().await)).await;
    }
    trees::layers(&test(make().await)).await;
    trees::rename_and_delete(&test(make().await)).await;
    trees::opaque_folders(&test(make().await)).await;
    trees::owners_and_modes(&test(make().await)).await;
    trees::usage(&test(make().await), abilities.exact_usage).await;
    trees::long_chain(&test(make().await), abilities.exact_usage).await;
    if abilities.rebase {
        trees::rebased_tree(&test(make().await)).await;
    }
}

/// One test: the snapshotter and where to mount.
struct Test {
    snapshots: Arc<dyn Snapshotter>,
    work: PathBuf,
}

impl Test {
    /// Mounts a snapshot, has `change` look at it or change it, and unmounts it.
    async fn mounted(&self, mounts: Vec<Mount>, change: impl FnOnce(&Path) + Send + 'static) {
        let work = self.work.clone();
        tokio::task::spawn_blocking(move || {
            let mounted = TempMount::new(&mounts, Some(&work)).unwrap();
            change(mounted.path());
            mounted.close().unwrap();
        })
        .await
        .unwrap();
    }

    /// Makes the committed `name` on `parent` with what `change` does.
    async fn layer(&self, name: &str, parent: &str, change: impl FnOnce(&Path) + Send + 'static) {
        let key = format!("{name}-key");
        let mounts = self.snapshots.prepare(&key, parent, inheritable()).await.unwrap();
        self.mounted(mounts, change).await;
        self.snapshots.commit(name, &key, inheritable(), "").await.unwrap();
    }

    /// Looks at a view of `name`.
    async fn look(&self, name: &str, look: impl FnOnce(&Path) + Send + 'static) {
        let key = format!("{name}-look");
        let mounts = self.snapshots.view(&key, name, Labels::new()).await.unwrap();
        self.mounted(mounts, look).await;
        self.snapshots.remove(&key).await.unwrap();
    }

    async fn kind(&self, key: &str) -> Kind {
        self.snapshots.stat(key).await.unwrap().kind
    }

    async fn names(&self, filters: &[&str]) -> Vec<String> {
        let filters: Vec<String> = filters.iter().map(|text| (*text).to_owned()).collect();
        let list = self.snapshots.list(&filters).await.unwrap();
        let mut names: Vec<_> = list.into_iter().map(|info| info.name).collect();
        names.sort();
        names
    }
}

/// The labels that clients gave: a snapshotter may show its own, as `devmapper/fstype` or
/// `overlay.upperdir`.
fn given(labels: &Labels) -> Labels {
    let is_own = |key: &str| {
        key.strip_prefix(LABEL_INHERITED_PREFIX).is_some_and(|name| name.contains(['/', '.']))
    };
    let given = labels.iter().filter(|(key, _)| !is_own(key));
    given.map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn inheritable() -> Labels {
    Labels::from([("containerd.io/snapshot/test".to_owned(), "1".to_owned())])
}

#[track_caller]
fn refused<T>(result: Result<T, Error>, class: Class) -> String {
    match result {
        Ok(_) => panic!("should have been refused with {class}"),
        Err(error) => {
            assert_eq!(error.class(), class, "{error}");
            error.to_string()
        }
    }
}
